"""Slides to a table of predictions. Features are made by the model's own recipe, or taken from a store that has them.

One row for each slide: predicted; abstained, where it has too little tissue or poor quality; or failed; with the reason.

Example:
  pathotune predict --model model/ --slides archive/ --out predictions.csv
  pathotune predict --model model/ --slides archive/ --store store/ --by case --out patients.csv
  pathotune predict --model crossval-out/ --store store/ --features stain-texture --out predictions.csv
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.cli.extract import add_rescans, exit_code, source
from pathotune_pipeline.cli.flags import add_settings, given, store_address
from pathotune_pipeline.spec import Spec

if TYPE_CHECKING:
    from pathotune_pipeline.models.folder import Model
    from pathotune_pipeline.models.quality import PredictSpec
    from pathotune_pipeline.models.table import PredictionLine
    from pathotune_pipeline.store.store import FeatureStore

_OPEN = ("encoder", "regions", "slide", "engine", "leases", "staging", "execution")
_FIXED = frozenset(
    {
        "encoder.also", "encoder.pooling", "encoder.precision", "encoder.device", "slide.color", "slide.allow_fluorescence",
        "regions.roi", "regions.exclude", "regions.missing",
    }
)  # fmt: skip
"""What the model's recipe says, or another flag."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    add_model(where)
    where.add_argument("--slides", type=Path, metavar="DIR", help="slides to predict; searched with its folders")
    where.add_argument("--manifest", type=Path, metavar="CSV", help="table of slides, as extract takes it")
    where.add_argument(
        "--store", type=store_address, metavar="STORE", help="where features are or go; without it they are not kept"
    )
    where.add_argument(
        "--features", metavar="NAME", help="without --slides: the set to predict from [that of the model]"
    )
    where.add_argument(
        "--pseudonymise", type=Path, metavar="KEYFILE", help="replace slide and case ids by keyed hashes"
    )
    where.add_argument("--out", type=Path, required=True, metavar="CSV", help="the table to write")
    where.add_argument("--overwrite", action="store_true", help="replace an older table")
    add_rescans(parser)
    add_settings(parser, ("predict", *_OPEN), without=_FIXED)
    parser.add_argument("--json", action="store_true", help="print counts as JSON")


def add_model(parser: argparse._ArgumentGroup) -> None:
    """The flag that names a model."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="a folder that train or crossval wrote"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.errors import UsageError
    from pathotune_pipeline.models.folder import open_model
    from pathotune_pipeline.models.quality import PredictSpec
    from pathotune_pipeline.models.table import (
        case_table,
        check_place,
        count_new,
        count_statuses,
        slide_table,
        write_table,
    )

    settings = config.load(("predict", *_OPEN), arguments.config, arguments.assignments, given(arguments))
    spec = settings["predict"]
    assert isinstance(spec, PredictSpec)
    from_slides = arguments.slides is not None or arguments.manifest is not None
    if not from_slides and arguments.store is None:
        raise UsageError("Nothing to predict. Give --slides DIR (or --manifest CSV), or --store with features.")
    if from_slides and arguments.features:
        raise UsageError("--features goes without --slides: from slides, the model's own features are made.")
    check_place(arguments.out, overwrite=arguments.overwrite)
    model = open_model(arguments.model, device=spec.device)
    make = case_table if spec.by == "case" else slide_table
    with _features(arguments) as store:  # a temporary one stays until the table is written
        if from_slides:
            lines = _from_slides(arguments, model, store, settings)
        else:
            lines = _from_store(arguments, model, store, spec)
        write_table(arguments.out, make(lines, model.card.targets, model.short), overwrite=arguments.overwrite)
    counts = count_statuses(lines)
    if arguments.json:
        print(
            json.dumps(
                {"counts": counts, "new": count_new(lines), "model": model.card.fingerprint, "out": str(arguments.out)}
            )
        )
    else:
        _tell(lines, counts)
        print(f"written to {arguments.out}, model {model.short}, {model.card.intended_use}")
    return exit_code([counts])


def _tell(lines: list[PredictionLine], counts: dict[str, int]) -> None:
    from pathotune_pipeline.models.table import count_new

    print(
        f"slides    {counts['slides']}: {counts['predicted']} predicted, {counts['abstained']} abstained, "
        f"{counts['failed']} failed"
        + (f", {counts['left']} left" if counts["left"] else "")
        + f"; {count_new(lines)} answered now"
    )
    for line in lines:
        if line.status != "predicted":
            print(f"{line.status:<9} {line.slide_id}: {line.reason}")


def _features(arguments: argparse.Namespace) -> AbstractContextManager[FeatureStore]:
    """The store of the features, or one beside the table."""
    from pathotune_pipeline.models.predict import TemporaryStore
    from pathotune_pipeline.store.store import FeatureStore, open_store

    if arguments.store is None:
        return TemporaryStore(arguments.out)
    from_slides = arguments.slides is not None or arguments.manifest is not None
    return nullcontext(FeatureStore(arguments.store) if from_slides else open_store(arguments.store))


def _from_store(
    arguments: argparse.Namespace, model: Model, store: FeatureStore, spec: PredictSpec
) -> list[PredictionLine]:
    from pathotune_pipeline.models.predict import predict_store

    with _bar("predict", arguments) as bar:
        return predict_store(model, store, arguments.features, spec, on_line=lambda line: bar.update())


def _from_slides(
    arguments: argparse.Namespace, model: Model, store: FeatureStore, settings: dict[str, Spec]
) -> list[PredictionLine]:
    from pathotune_pipeline.execution.executor import ExecutionSpec
    from pathotune_pipeline.models.predict import model_extraction, predict_slides
    from pathotune_pipeline.models.quality import PredictSpec

    spec, execution = settings["predict"], settings["execution"]
    assert isinstance(spec, PredictSpec)
    assert isinstance(execution, ExecutionSpec)
    manifest, pseudonymiser = source(arguments)
    extraction = model_extraction(model, _changes(settings, spec.device))
    with _bar("extract", arguments) as bar:
        bar.reset(total=len(manifest))

        def on_plan(plan: Any) -> None:
            bar.update(len(plan.done))

        return predict_slides(
            model, manifest, store, spec,
            extraction=extraction, execution=execution, pseudonymiser=pseudonymiser, on_plan=on_plan,
            on_outcome=lambda outcome: bar.update(),
        )  # fmt: skip


def _changes(settings: dict[str, Spec], device: str) -> dict[str, dict[str, Any]]:
    """What the user said of the extraction, and nothing else: the rest is the model's."""
    said = {
        name: settings[name].model_dump(include=settings[name].model_fields_set)
        for name in config.EXTRACTION
        if name in settings
    }
    said["encoder"] = {**said.get("encoder", {}), "device": device}
    return {name: values for name, values in said.items() if values}


def _bar(what: str, arguments: argparse.Namespace) -> Any:
    return tqdm(desc=what, unit="slide", disable=True if arguments.json else None, file=sys.stderr)
