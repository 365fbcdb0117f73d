"""Whether this machine has what is needed.

Example:
  pathotune doctor
  pathotune doctor --store /data/store --json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, metavar="STORE", help="folder whose disk is looked at")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.doctor import examine

    checks = examine(arguments.store)
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            print(f"{check.state:<5} {check.name:<24} {check.found}")
    return 1 if any(check.state == "bad" for check in checks) else 0
