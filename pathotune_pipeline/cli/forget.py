"""Forget a case: features, tissue, thumbnails, masks, reviews, lines of runs, and what lies in caches and outputs that are named.

Says what would go; --yes does it. The models that were trained on it are listed: they are not changed, train them again.
The slides' own files are not touched: take them out of the archive, or the next extraction makes them again.

Example:
  pathotune forget --store store/ --case P0042
  pathotune forget --store store/ --case P0042 --cache cache/ --output nights/ --models models/ --yes
  pathotune forget --store store/ --yes            # goes on with what a killed process began
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pathotune_pipeline.cli.flags import store_address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    parser.add_argument("--case", metavar="ID", help="the patient, as the manifest has it")
    parser.add_argument(
        "--slide", nargs="+", action="extend", default=[], dest="slides", metavar="ID",
        help="slides, such as those without a case in the store",
    )  # fmt: skip
    parser.add_argument("--pseudonymise", type=Path, metavar="KEYFILE", help="the key of the store's pseudonyms")
    parser.add_argument(
        "--cache",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a training cache to clear; may be repeated",
    )
    parser.add_argument(
        "--output", type=Path, action="append", default=[], metavar="DIR",
        help="a folder of predictions, reports or maps: rows go, files and pages that name a slide too; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where to look for models too; may be repeated",
    )
    parser.add_argument("--yes", action="store_true", help="do it; else nothing is deleted")
    parser.add_argument("--force", action="store_true", help="do it even though a run seems to be at work on the store")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.archive.identity import Pseudonymiser
    from pathotune_pipeline.cli.main import OK
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.models import forget as forgetting
    from pathotune_pipeline.store.forget import unfinished
    from pathotune_pipeline.store.gc import refuse_while_in_use
    from pathotune_pipeline.store.store import open_store

    store = open_store(arguments.store)
    begun = unfinished(store)
    if not (arguments.case or arguments.slides or begun):
        raise UsageError("Nothing was named. Give --case ID, or --slide ID.")
    case = arguments.case
    if case and arguments.pseudonymise:
        case = Pseudonymiser.from_file(arguments.pseudonymise).case(case)
    folders = {
        forgetting.CACHES: arguments.cache,
        forgetting.OUTPUTS: arguments.output,
        forgetting.MODELS: arguments.models,
    }
    for folder in (each for named in folders.values() for each in named):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder. Check the path.")
    what = forgetting.find_case(
        store, case, arguments.slides, places={name: [str(each) for each in named] for name, named in folders.items()}
    )
    told = {
        "slides": list(what.slides),
        "models": [asdict(model) for model in forgetting.models_of(store, what)],
        "outside": forgetting.outside(what),
        "begun": len(begun),
        "forgotten": arguments.yes,
    }
    if arguments.yes:
        if not arguments.force:
            refuse_while_in_use(store)
        for each in [*begun, *([what] if what.slides else [])]:
            forgetting.forget(store, each)
    if arguments.json:
        print(json.dumps(told, indent=1))
    else:
        _print(told, case=bool(arguments.case))
    return OK


def _print(told: dict, *, case: bool) -> None:
    for slide in told["slides"]:
        print(f"slide     {slide}")
    for model in told["models"]:
        print(
            f"model     {model['name']} {model['fingerprint'][:12]} was trained on {model['slides']} of them: train it again"
        )
    for path in told["outside"]:
        print(f"outside   {path}")
    if told["begun"]:
        print(f"begun     {told['begun']} that a process left when it died")
    if not told["slides"] and case:
        print("The store has no slide of that case. Slides that never got features have no case there: give --slide.")
    elif told["forgotten"]:
        print(
            f"{len(told['slides'])} slides forgotten. Take their files out of the archive, or they are extracted again."
        )
    else:
        print(f"{len(told['slides'])} slides would be forgotten; nothing was deleted. Give --yes to do it.")
