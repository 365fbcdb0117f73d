"""The same work as Prefect flows: recorded, retried, schedulable. Without PREFECT_API_URL a server starts for the run.

Example:
  pathotune flow run extract  --slides archive/ --store store/ --encoder stain-texture --mpp 0.5
  pathotune flow run crossval --store store/ --features stain-texture --labels labels.csv --target class --out model/
  pathotune flow run nightly  --slides archive/ --store store/ --mpp 0.5 --out nights/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pathotune_pipeline import config
from pathotune_pipeline.cli import crossval as crossval_verb
from pathotune_pipeline.cli import extract as extract_verb
from pathotune_pipeline.cli import report as report_verb
from pathotune_pipeline.cli.flags import Parser, add_settings, given
from pathotune_pipeline.errors import MissingExtraError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="run", required=True, parser_class=Parser)
    run_parser = actions.add_parser("run", help="run a flow now, in this process")
    flows = run_parser.add_subparsers(dest="flow", metavar="FLOW", required=True, parser_class=Parser)

    extract = flows.add_parser("extract", help="slides to features", description=__doc__)
    extract_verb.add_arguments(extract)

    crossval = flows.add_parser("crossval", help="train and judge a head", description=__doc__)
    crossval_verb.add_arguments(crossval)

    nightly = flows.add_parser("nightly", help="extract what is new, then write the report", description=__doc__)
    extract_verb.add_source(nightly)
    extract_verb.add_rescans(nightly)
    add_settings(nightly, extract_verb.EXTRACT_SECTIONS)
    report_verb.add_report(nightly)
    nightly.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for report.html")
    nightly.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    try:
        import flows.environment  # noqa: F401 - sets Prefect's defaults before it is imported
    except ImportError:
        raise MissingExtraError("the flows package", "all", "`pathotune flow`") from None
    return {"extract": _extract, "crossval": _crossval, "nightly": _nightly}[arguments.flow](arguments)


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


def _crossval(arguments: argparse.Namespace) -> int:
    from flows.crossval import crossval_flow

    told = crossval_flow(
        store=str(arguments.store),
        features=arguments.features,
        labels=str(arguments.labels),
        target=arguments.target,
        out=str(arguments.out),
        overwrite=arguments.overwrite,
        settings=_settings(arguments),
    )
    crossval_verb.tell(told["scores"], told["notes"], arguments.out, as_json=arguments.json)
    return 0


def _nightly(arguments: argparse.Namespace) -> int:
    from flows.nightly import nightly_flow

    extract_verb.source(arguments)
    result = nightly_flow(
        **_source(arguments),
        out=str(arguments.out),
        models=[str(path) for path in arguments.model],
        features=arguments.features,
    )
    code = _tell(result, arguments)
    if not arguments.json:
        print(f"report    {result['report']}")
    return code
