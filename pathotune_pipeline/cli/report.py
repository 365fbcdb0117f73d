"""One self-contained HTML page: slides, tissue and tiles, failures with reasons, scores, attention. Or a night's page.

Example:
  pathotune report --store store/ --model model-abmil/ --model model-transmil/ --out report/
  pathotune report --store store/ --night --out nights/            # what the newest run did; with an index over nights
  pathotune report --store store/ --night --model model/ --out nights/    # and what that model said of its slides
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given, store_address
from pathotune_pipeline.errors import UsageError

if TYPE_CHECKING:
    from pathotune_pipeline.reports.nights.answers import NightModel

NEWEST = ""


def add_report(parser: argparse.ArgumentParser) -> None:
    """The flags of a report besides its store."""
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder that crossval wrote; may be repeated. With --night, the one it predicted with",
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
    run_id, model = arguments.night or None, _predicting(arguments)
    features = arguments.features or (model.features if model else None)
    print(write_night(arguments.store, arguments.out, run_id=run_id, features=features, spec=spec, model=model))
    return 0


def _predicting(arguments: argparse.Namespace) -> NightModel | None:
    """The model that a night predicted with; what it said then is kept, and taken from there."""
    if not arguments.model:
        return None
    if len(arguments.model) > 1:
        raise UsageError("--night shows one model, the one that the night predicted with. Give --model once.")
    from pathotune_pipeline.models.folder import open_model
    from pathotune_pipeline.models.night import night_model
    from pathotune_pipeline.models.predict import predict_store
    from pathotune_pipeline.models.quality import PredictSpec
    from pathotune_pipeline.store.store import open_store

    predict = config.load(("predict",), arguments.config, arguments.assignments, {})["predict"]
    assert isinstance(predict, PredictSpec)
    model, store = open_model(arguments.model[0], device=predict.device), open_store(arguments.store)
    return night_model(model, store, predict_store(model, store, None, predict))
