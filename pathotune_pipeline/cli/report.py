"""One self-contained HTML page: slides, tissue and tiles, failures with reasons, scores, attention.

Example:
  pathotune report --store store/ --model model-abmil/ --model model-transmil/ --out report/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline.cli.flags import store_address


def add_report(parser: argparse.ArgumentParser) -> None:
    """The flags of a report besides its store."""
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder that crossval wrote; may be repeated",
    )
    parser.add_argument(
        "--features", metavar="NAME", help="the feature set to show; needed where the store has several"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    add_report(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for report.html")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.reports.report import write_report

    print(write_report(arguments.store, arguments.out, models=arguments.model, features=arguments.features))
    return 0
