"""Every setting as YAML, with its default and a comment; with --config or --set, as they come out together.

Example:
  pathotune config > my.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from pathotune_pipeline import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="YAML", help="a settings file to check and complete")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE", help="one setting"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.config or arguments.assignments:
        tree = config.load(config.SECTIONS, arguments.config, arguments.assignments, {})
        print(
            yaml.safe_dump({name: spec.model_dump(mode="json") for name, spec in tree.items()}, sort_keys=False), end=""
        )
    else:
        print(config.as_yaml(), end="")
    return 0
