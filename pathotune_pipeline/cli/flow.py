"""The same work as Prefect flows: recorded, retried, schedulable. Without PREFECT_API_URL a server starts for the run.

Example:
  pathotune flow run extract  --slides archive/ --store store/ --encoder stain-texture --mpp 0.5
  pathotune flow run crossval --store store/ --features stain-texture --labels labels.csv --target class --out model/
  pathotune flow run nightly  --slides archive/ --store store/ --mpp 0.5 --until 06:00 --out nights/
  pathotune flow run nightly  --slides archive/ --store store/ --predict-with model/ --pin 0123456789ab --out nights/
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pathotune_pipeline import config
from pathotune_pipeline.cli import crossval as crossval_verb
from pathotune_pipeline.cli import extract as extract_verb
from pathotune_pipeline.cli import predict as predict_verb
from pathotune_pipeline.cli import report as report_verb
from pathotune_pipeline.cli import train as train_verb
from pathotune_pipeline.cli.export import LAYOUT_NAMES
from pathotune_pipeline.cli.flags import Parser, add_section, add_settings, given
from pathotune_pipeline.errors import MissingExtraError, UsageError

_SHARED = frozenset({"predict.device"})
"""Of sections beside the extraction's, what has its flag there already."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="run", required=True, parser_class=Parser)
    run_parser = actions.add_parser("run", help="run a flow now, in this process")
    flows = run_parser.add_subparsers(dest="flow", metavar="FLOW", required=True, parser_class=Parser)

    extract = flows.add_parser("extract", help="slides to features", description=__doc__)
    extract_verb.add_run(extract)

    for name, verb, told in (
        ("crossval", crossval_verb, "train and judge a head"),
        ("train", train_verb, "a model for use"),
        ("predict", predict_verb, "slides to a table of predictions"),
    ):
        parser = flows.add_parser(name, help=told, description=__doc__)
        verb.add_arguments(parser)
        if name == "predict":
            _add_pin(parser)

    nightly = flows.add_parser("nightly", help="extract what is new, predict, report", description=__doc__)
    extract_verb.add_source(nightly)
    extract_verb.add_rescans(nightly)
    add_settings(nightly, extract_verb.EXTRACT_SECTIONS)
    for section in ("audit", "predict", "drift"):
        add_section(nightly, section, without=_SHARED)
    report_verb.add_report(nightly)
    nightly.add_argument(
        "--predict-with",
        type=Path,
        metavar="DIR",
        help="a model: its recipe decides the features, and it predicts every slide",
    )
    _add_pin(nightly)
    nightly.add_argument("--export-to", choices=LAYOUT_NAMES, help="write the features as another tool has them, too")
    nightly.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the night's page, report.html, predictions.csv and exports",
    )
    nightly.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_pin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pin", metavar="FINGERPRINT", help="of the model, or its beginning; another one is refused")


def needs_flows() -> None:
    """Set Prefect's defaults before it is imported.

    Raises:
        MissingExtraError: the flows are not installed.
    """
    try:
        import flows.environment  # noqa: F401
    except ImportError:
        raise MissingExtraError("the flows package", "all", "`pathotune flow`") from None


def run(arguments: argparse.Namespace) -> int:
    needs_flows()
    from flows.environment import refuse_remote

    refuse_remote()  # before the archive is searched, which may take long
    runs = {"extract": _extract, "crossval": _crossval, "train": _train, "predict": _predict, "nightly": _nightly}
    return runs[arguments.flow](arguments)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What differs from the defaults, as plain values: the flow's parameter."""
    tree = config.load((), arguments.config, arguments.assignments, given(arguments))
    plain = {name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in tree.items()}
    return {name: values for name, values in plain.items() if values}


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def _source(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "store": str(arguments.store),
        "slides": _text(arguments.slides),
        "manifest": _text(arguments.manifest),
        "pseudonymise": _text(arguments.pseudonymise),
        "settings": _settings(arguments),
        "rescans": arguments.rescans,
    }


def _tell(result: dict[str, Any], arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.features.extract import ExtractResult

    return extract_verb.tell(ExtractResult.from_dict(result), as_json=arguments.json)


def _extract(arguments: argparse.Namespace) -> int:
    from flows.extract import extract_flow

    extract_verb.source(arguments)  # a wrong call is told before a server starts
    return _tell(extract_flow(**_source(arguments)), arguments)


def _study(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "store": str(arguments.store),
        "features": arguments.features,
        "labels": str(arguments.labels),
        "target": arguments.target,
        "out": str(arguments.out),
        "overwrite": arguments.overwrite,
        "settings": _settings(arguments),
        "cache": _text(arguments.cache),
    }


def _tell_scores(told: dict[str, Any], arguments: argparse.Namespace) -> int:
    for name, scores in told.get("targets", {"": told.get("scores")}).items():
        out = arguments.out / name if name else arguments.out
        crossval_verb.tell(scores, told["notes"], out, as_json=arguments.json)
    return 0


def _crossval(arguments: argparse.Namespace) -> int:
    from flows.crossval import crossval_flow

    return _tell_scores(crossval_flow(**_study(arguments)), arguments)


def _train(arguments: argparse.Namespace) -> int:
    from flows.train import train_flow

    return _tell_scores(train_flow(**_study(arguments), data_licence=arguments.data_licence), arguments)


def _predict(arguments: argparse.Namespace) -> int:
    from flows.predict import predict_flow

    if arguments.store is None:
        raise UsageError("--store: the flow keeps features in a store. Name one; it is made if it is new.")
    if arguments.features:
        raise UsageError("--features goes without the flow: it makes the model's own features.")
    extract_verb.source(arguments)
    told = predict_flow(
        model=str(arguments.model), out=str(arguments.out), pin=arguments.pin, overwrite=arguments.overwrite,
        **_source(arguments),
    )  # fmt: skip
    return _tell_predictions(told, arguments)


def _nightly(arguments: argparse.Namespace) -> int:
    from flows.nightly import nightly_flow

    extract_verb.source(arguments)
    result = nightly_flow(
        **_source(arguments),
        out=str(arguments.out),
        models=[str(path) for path in arguments.model],
        features=arguments.features,
        predict_with=_text(arguments.predict_with),
        pin=arguments.pin,
        export_to=arguments.export_to,
    )
    code = _tell_predictions(result, arguments)
    if not arguments.json:
        print(f"night     {result['page']}")
        print(f"report    {result['report']}")
    return code


def _tell_predictions(result: dict[str, Any], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(result))
        return extract_verb.exit_code([each["counts"] for each in (result, *result["others"])])
    code = _tell(result, arguments)
    if "predictions" in result:
        counts = ", ".join(
            f"{count} {name}" for name, count in result["predictions"]["counts"].items() if name != "slides"
        )
        print(f"predicted {counts}: {result['predictions']['out']}")
    if "exported" in result:
        told = result["exported"]
        print(f"exported  {told['slides']} slides to {told['to']}, {len(told['failed'])} failed")
    return code
