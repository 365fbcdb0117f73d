"""The night: discover, audit what is new, extract, predict with a pinned model, report, export. It never trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.utilities.annotations import quote

from flows.environment import refuse_remote
from flows.extract import HOOKS, RUNNER, read_slides, run_extract, tell_of_slides
from flows.guarded import guarded_flow
from flows.predict import extraction_changes, open_pinned, predict_task
from flows.tasks import write_night_task, write_report_task
from pathotune_pipeline import config
from pathotune_pipeline.archive.audit import AuditSpec
from pathotune_pipeline.archive.audit_new import audit_new
from pathotune_pipeline.archive.identity import IdentityCache, Pseudonymiser
from pathotune_pipeline.archive.listing import Rescans
from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.exchange.send import ExportTarget, export_features
from pathotune_pipeline.execution.deadline import Deadline, deadline_of
from pathotune_pipeline.execution.executor import ExecutionSpec
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.reviewed import without_rejected
from pathotune_pipeline.models.night import night_model
from pathotune_pipeline.models.predict import model_extraction
from pathotune_pipeline.models.quality import PredictSpec
from pathotune_pipeline.reports.nights.drift import DriftSpec
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore

PREDICTIONS = "predictions.csv"
ExportTo = Literal["trident", "clam", "stamp", "anndata", "h5ad", "pt"]


@guarded_flow(name="nightly", persist_result=False, task_runner=RUNNER, **HOOKS)
def nightly_flow(  # noqa: PLR0913 - a flow's parameters are its form in Prefect's pages
    store: str,
    out: str,
    slides: str | None = None,
    manifest: str | None = None,
    pseudonymise: str | None = None,
    settings: dict[str, Any] | None = None,
    models: list[str] | None = None,
    features: str | None = None,
    rescans: Rescans = "newest",
    predict_with: str | None = None,
    pin: str | None = None,
    export_to: ExportTo | None = None,
) -> dict[str, Any]:
    """Extract what is new in an archive, predict it, and write the report.

    Args:
        store: the store's folder.
        out: folder for the night's page, the index over nights, report.html, predictions.csv and exports.
        slides, manifest, pseudonymise, settings, rescans: as for the extract flow; `execution.until` is counted from the
            time for which the night was scheduled. Sections `audit`, `predict` and `drift` count too.
        models: folders that train or crossval wrote, to be shown in the report.
        features: the feature set to show; empty: the one just extracted.
        predict_with: a model's folder: its recipe decides which features are made, and all slides are predicted.
        pin: that model's fingerprint, or its beginning; another one is refused before any work.
        export_to: write the features as another tool has them too, into a folder of its name.

    Returns:
        The extraction's result; `night`: what was new, changed, failed, quarantined, ...; `page` and `report`: paths;
        `predictions` and `exported` where they were asked for.
    """
    refuse_remote()
    asked = settings or {}
    tree = config.check((*config.EXTRACTION, "execution", "audit", "predict", "drift"), asked)
    execution = ExecutionSpec.parse(tree["execution"].model_dump())
    predict = PredictSpec.parse(tree["predict"].model_dump())
    model = open_pinned(predict_with, pin, device=predict.device) if predict_with else None
    if model is None:
        spec = ExtractSpec.parse({name: tree[name].model_dump() for name in config.EXTRACTION})
    else:
        spec = model_extraction(model, extraction_changes(asked, predict.device))
    listed, key = read_slides(slides, manifest, pseudonymise, rescans)
    opened, until = FeatureStore(store), deadline_of(execution.until, since=flow_run.scheduled_start_time)
    if until.at is not None:  # one moment for every step
        execution = execution.with_values(until=until.at.isoformat())
    audited = audit_task(listed, opened, AuditSpec.parse(tree["audit"].model_dump()), spec.slide, until, key)
    result = run_extract(audited, spec, opened, execution, key)
    told: dict[str, Any] = {**result.as_dict(), "night": tell_of_slides(audited, result)}
    said: Any = None
    if model is not None:
        told["predictions"], lines = predict_task(model, audited, opened, result, predict, Path(out) / PREDICTIONS)
        said = quote(night_model(model, opened, lines))
    drift = DriftSpec.parse(tree["drift"].model_dump())
    told["page"] = write_night_task(store, out, result.run_id, result.features, drift, said)
    told["report"] = write_report_task(store, models or [], out, features or result.features)
    if export_to is not None:
        told["exported"] = export_task(opened, result.features, export_to, Path(out) / export_to)
    return told


@task(name="audit", cache_policy=NO_CACHE, persist_result=False)
def audit_task(
    manifest: Manifest,
    store: FeatureStore,
    spec: AuditSpec,
    slide: SlideSpec,
    until: Deadline,
    key: Pseudonymiser | None,
) -> Manifest:
    """Look at new and changed slides; the manifest in which those that cannot be used are refused."""
    store.initialise()
    wanted = {item.slide_id for item in without_rejected(manifest, store).items}
    looked_at = Manifest(tuple(item for item in manifest.items if item.slide_id in wanted))
    audited, rows = audit_new(looked_at, IdentityCache(store.identity_file, key), spec, slide, over=until.over)
    refused = sum(bool(row.refusals) for row in rows)
    get_run_logger().info("audit: %d new slides looked at, %d refused", len(rows), refused)
    found = {item.slide_id: item for item in audited.items}
    return Manifest(tuple(found.get(item.slide_id, item) for item in manifest.items), manifest.passed_over)


@task(name="export", cache_policy=NO_CACHE, persist_result=False)
def export_task(store: FeatureStore, features: str, export_to: str, out: Path) -> dict[str, Any]:
    """Write a feature set as another tool has it. What is there already and the same is left alone."""
    target = ExportTarget(export_to, out, overwrite=True)
    done = export_features(store, SetName.parse(f"features-{features}"), target)
    failed = [each.slide_id for each in done.slides if each.status == "failed"]
    return {"to": export_to, "slides": len(done.slides), "failed": failed, "rejected": len(done.rejected)}
