"""One self-contained HTML page: slides, tissue and tiles, failures with reasons, scores, attention. Or a night's page.

Example:
  pathotune report --store store/ --model model-abmil/ --model model-transmil/ --out report/
  pathotune report --store store/ --night --out nights/            # what the newest run did; with an index over nights
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given, store_address
from pathotune_pipeline.errors import UsageError

NEWEST = ""


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
    parser.add_argument(
        "--night",
        nargs="?",
        const=NEWEST,
        metavar="RUN",
        help="the page of one night and the index over nights, instead of the whole store's [the newest extraction]",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for report.html, or for the nights' pages"
    )
    add_settings(parser, ("drift",))


def run(arguments: argparse.Namespace) -> int:
    spec = config.load(("drift",), arguments.config, arguments.assignments, given(arguments))["drift"]
    if arguments.night is None:
        from pathotune_pipeline.reports.report import write_report

        print(write_report(arguments.store, arguments.out, models=arguments.model, features=arguments.features))
        return 0
    from pathotune_pipeline.reports.nights.drift import DriftSpec
    from pathotune_pipeline.reports.nights.page import write_night

    assert isinstance(spec, DriftSpec)
    if arguments.model:
        raise UsageError("--night shows a run and --model a model. Write two pages: leave one of them out.")
    run_id = arguments.night or None
    print(write_night(arguments.store, arguments.out, run_id=run_id, features=arguments.features, spec=spec))
    return 0
