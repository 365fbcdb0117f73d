"""Predictions as a flow: features by the model's own recipe, then a table with a row for every slide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.environment import refuse_remote
from flows.extract import HOOKS, RUNNER, read_slides, run_extract, tell_of_slides
from flows.guarded import guarded_flow
from flows.summaries import leave_summary
from pathotune_pipeline import config
from pathotune_pipeline.archive.listing import Rescans
from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.execution.executor import ExecutionSpec
from pathotune_pipeline.features.extract import ExtractResult
from pathotune_pipeline.models.folder import Model, open_model
from pathotune_pipeline.models.inputs import inputs_of_run
from pathotune_pipeline.models.predict import model_extraction, predict_inputs
from pathotune_pipeline.models.quality import PredictSpec
from pathotune_pipeline.models.table import (
    PredictionLine,
    case_table,
    check_place,
    count_new,
    count_statuses,
    slide_table,
    write_table,
)
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore


@guarded_flow(name="predict", persist_result=False, task_runner=RUNNER, **HOOKS)
def predict_flow(  # noqa: PLR0913 - a flow's parameters are its form in Prefect's pages
    model: str,
    store: str,
    out: str,
    slides: str | None = None,
    manifest: str | None = None,
    pseudonymise: str | None = None,
    settings: dict[str, Any] | None = None,
    rescans: Rescans = "newest",
    pin: str | None = None,
    overwrite: bool = False,  # noqa: FBT001, FBT002
) -> dict[str, Any]:
    """Predict every slide of an archive with a model.

    Args:
        model: folder that train or crossval wrote.
        store: the store's folder, for the features; made if it is new.
        out: the table to write.
        slides, manifest, pseudonymise, rescans: as for the extract flow.
        settings: as for the extract flow, but for what the model's recipe decides.
        pin: the model's fingerprint, or its beginning; another model is refused.
        overwrite: whether an older table may be replaced.

    Returns:
        The extraction's result; `predictions`: counts by status, the model's fingerprint, the table's path.
    """
    refuse_remote()
    check_place(Path(out), overwrite=overwrite)
    tree = config.check(("execution", "predict"), settings or {})
    spec = PredictSpec.parse(tree["predict"].model_dump())
    pinned = open_pinned(model, pin, device=spec.device)
    extraction = model_extraction(pinned, extraction_changes(settings or {}, spec.device))
    listed, key = read_slides(slides, manifest, pseudonymise, rescans)
    opened = FeatureStore(store)
    result = run_extract(listed, extraction, opened, ExecutionSpec.parse(tree["execution"].model_dump()), key)
    tell_of_slides(listed, result)
    told, _ = predict_task(pinned, listed, opened, result, spec, Path(out))
    return {**result.as_dict(), "predictions": told}


def open_pinned(folder: str, pin: str | None, *, device: str) -> Model:
    """Open a model, and refuse it where it is not the one that is wanted.

    Raises:
        UsageError: the folder holds no model, or one of another fingerprint.
        CorruptDataError: its files are damaged.
    """
    model = open_model(Path(folder), device=device)
    if pin is not None and (len(pin) < 8 or not model.card.fingerprint.startswith(pin)):
        raise UsageError(
            f"The model was pinned to {pin}, and the folder's is {model.card.fingerprint}. Give that folder again, or pin "
            "this one: at least 8 digits of its fingerprint."
        )
    return model


def extraction_changes(settings: Mapping[str, Any], device: str) -> dict[str, dict[str, Any]]:
    """What a user says of an extraction whose recipe is a model's."""
    said = {name: dict(settings[name]) for name in config.EXTRACTION if settings.get(name)}
    return {**said, "encoder": {**said.get("encoder", {}), "device": device}}


@task(name="predict", cache_policy=NO_CACHE, persist_result=False)
def predict_task(
    model: Model, manifest: Manifest, store: FeatureStore, result: ExtractResult, spec: PredictSpec, out: Path
) -> tuple[dict[str, Any], list[PredictionLine]]:
    """Predict the slides of an extraction, and write the table; counts by status, and the lines."""
    name = SetName.parse(f"features-{result.features}")
    lines = predict_inputs(model, store, inputs_of_run(manifest, result, store, name), spec)
    make = case_table if spec.by == "case" else slide_table
    write_table(out, make(lines, model.card.targets, model.short), overwrite=True)
    counts = count_statuses(lines)
    cells = " | ".join(map(str, counts.values()))
    told = f"# Predictions of {model.short}\n\n| {' | '.join(counts)} |\n|{'---|' * len(counts)}\n| {cells} |"
    leave_summary("predict-summary", told, "Slides by what became of them")
    return {"counts": counts, "new": count_new(lines), "model": model.card.fingerprint, "out": str(out)}, lines
