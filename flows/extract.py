"""The extraction as a flow: plan against the store, tasks for what is missing, retries, reconciliation, an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.environment import refuse_remote
from flows.guarded import guarded_flow
from flows.night import MOST_ROWS, cell, night_of, night_summary
from flows.notify import notify, tell_of_failure
from flows.summaries import leave_summary
from flows.tasks import Batch, batches, extract_slides
from pathotune_pipeline import config
from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.listing import Rescans
from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.execution.deadline import deadline_of
from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
from pathotune_pipeline.features.extract import ExtractResult, check_device, end_run, may_use_gpus
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.features.reviewed import without_rejected
from pathotune_pipeline.features.run_logs import recorded_run
from pathotune_pipeline.features.telemetry import sentence
from pathotune_pipeline.store.store import FeatureStore

RUNNER: Any = ThreadPoolTaskRunner(max_workers=16)


HOOKS: dict[str, Any] = {"on_failure": [tell_of_failure], "on_crashed": [tell_of_failure]}


@guarded_flow(name="extract", persist_result=False, task_runner=RUNNER, **HOOKS)
def extract_flow(
    store: str,
    slides: str | None = None,
    manifest: str | None = None,
    pseudonymise: str | None = None,
    settings: dict[str, Any] | None = None,
    rescans: Rescans = "newest",
) -> dict[str, Any]:
    """Features of every slide into the store.

    Args:
        store: the store's folder; made if it is new.
        slides: the archive's folder.
        manifest: a table of slides.
        pseudonymise: file with the key by which ids are replaced.
        settings: sections and settings, as in `configs/default.yaml`; what is not named keeps its default.
        rescans: of scans of the same case, block and stain keep the newest, or all.

    Returns:
        features, run, counts, outcomes of every slide, stream, files passed over; the same of other encoders' sets.
    """
    refuse_remote()
    tree = config.check((*config.EXTRACTION, "execution"), settings or {})
    listed, key = read_slides(slides, manifest, pseudonymise, rescans)
    spec = ExtractSpec.parse({name: tree[name].model_dump() for name in config.EXTRACTION})
    execution = ExecutionSpec.parse(tree["execution"].model_dump())
    result = run_extract(listed, spec, FeatureStore(store), execution, key)
    tell_of_slides(listed, result)
    return result.as_dict()


def read_slides(
    slides: str | None, manifest: str | None, pseudonymise: str | None, rescans: Rescans
) -> tuple[Manifest, Pseudonymiser | None]:
    """The slides that a flow's parameters name, pseudonymised where asked, and the pseudonymiser."""
    key = Pseudonymiser.from_file(Path(pseudonymise)) if pseudonymise else None
    listed = read_manifest(Path(slides) if slides else None, Path(manifest) if manifest else None, rescans=rescans)
    return (listed.pseudonymised(key) if key else listed), key


def tell_of_slides(manifest: Manifest, result: ExtractResult) -> dict[str, Any]:
    """Leave an artifact on what became of every slide, and tell the webhook where some failed; what the night was."""
    night = night_of(manifest, result)
    told = "\n\n".join([night_summary(night), *(summary(each) for each in result.each())])
    leave_summary("extract-summary", told, "What became of every slide")
    bad = {name: list(night[name]) for name in ("failed", "quarantined") if night[name]}
    if bad:
        notify("slides", str(flow_run.flow_name), run=str(flow_run.name), slides=bad, counts=result.counts())
    return night


def run_extract(
    manifest: Manifest, spec: ExtractSpec, store: FeatureStore, execution: ExecutionSpec, key: Pseudonymiser | None
) -> ExtractResult:
    """Plan, run tasks, reconcile; inside a flow run."""
    logger = get_run_logger()
    check_device(spec, execution)
    manifest = without_rejected(manifest, store)
    plan = plan_extract(manifest, spec, store, pseudonymiser=key)
    due = flow_run.scheduled_start_time
    plan.until = deadline_of(execution.until, since=due)
    outcomes: list[Outcome] = []
    with recorded_run(store, manifest, plan) as log:
        logger.info("%d slides: %d to do, %d in the store already", len(manifest), len(plan.jobs), len(plan.done))
        for name, slides in plan.removed.items():
            if slides:
                logger.warning("%d slides of %s are in the store and no longer in the archive", len(slides), name)
        if plan.jobs and not plan.until.over():
            with create_executor(execution, gpus=may_use_gpus(spec), since=due) as executor:
                work = batches(plan, executor, log)
                _run_tasks(work, one_by_one=execution.executor == "serial")
                outcomes = [outcome for batch in work for outcome in batch.outcomes.values()]
        if plan.stopped is not None:
            raise plan.stopped
        result = end_run(store, manifest, plan, log, outcomes)
    for each in result.each():
        for outcome in each.outcomes:
            if outcome.status == "failed":
                logger.warning("%s failed: %s", outcome.slide_id, outcome.reason)
        left = each.counts()["left"]
        if left:
            logger.warning("%d slides of %s are left: the time was over before their turn", left, each.features)
    return result


def _run_tasks(work: list[Batch], *, one_by_one: bool) -> None:
    futures = []
    for batch in work:
        future = extract_slides.submit(batch)
        futures.append(future)
        if one_by_one:
            future.wait()
    wait(futures)


def summary(result: ExtractResult) -> str:
    """The run in Markdown: counts, then every slide that is not committed."""
    counts = result.counts()
    lines = [
        f"# Extraction {result.run_id}",
        "",
        f"Features `{result.features}`",
        "",
        "| slides | committed | empty | failed | computed now | tiles | left |",
        "|---|---|---|---|---|---|---|",
        f"| {counts['slides']} | {counts['committed']} | {counts['empty']} | {counts['failed']} | {counts['computed']} "
        f"| {counts['tiles']} | {counts['left']} |",
    ]
    if result.stream:
        lines += ["", sentence(result.stream)]
    rest = [outcome for outcome in result.outcomes if outcome.status not in ("committed", "left")]
    if rest:
        lines += ["", "| slide | status | reason |", "|---|---|---|"]
        lines += [f"| {cell(o.slide_id)} | {o.status} | {cell(o.reason)} |" for o in rest[:MOST_ROWS]]
        if len(rest) > MOST_ROWS:
            lines += ["", f"... and {len(rest) - MOST_ROWS} more; see the report."]
    return "\n".join(lines)
