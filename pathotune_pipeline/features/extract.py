"""The whole extraction: plan against the store, do what is missing, reconcile with the store, tell of every slide."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pathotune_pipeline.archive.identity import Pseudonymiser, key_of, redact
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import WorkerLostError
from pathotune_pipeline.execution.dask import DEADLY
from pathotune_pipeline.execution.executor import ExecutionSpec, Executor, Result
from pathotune_pipeline.features.engines import close_engines, forget_closed_engines
from pathotune_pipeline.features.outcome import MADE, Outcome, count
from pathotune_pipeline.features.plan import NO_GUIDANCE, ExtractSpec, Recipe, SlideJob
from pathotune_pipeline.features.planning import ExtractPlan, failed, given_mpp, plan_extract
from pathotune_pipeline.features.reviewed import without_rejected
from pathotune_pipeline.features.run_logs import RunLogs, recorded_run
from pathotune_pipeline.features.sharing import map_shared
from pathotune_pipeline.features.telemetry import summary
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.owner import owner_name
from pathotune_pipeline.store.store import FeatureStore

OnOutcome = Callable[[Outcome], None]
LEFT = "the time was over before its turn"
"""Why a slide is left; the next run takes it."""


@dataclass(slots=True)
class ExtractResult:
    """What a run made of an archive.

    Attributes:
        features: name of the features' set, as `--features` takes it.
        outcomes: one a slide, in the order of the manifest.
        run_id: of the run's record in the store.
        passed_over: files that are no slides, with reasons.
        stream: what reading and encoding cost (`telemetry.summary`).
        removed: ids of slides that the set holds and the archive no longer does.
        changed: ids of slides that were made anew because their file, mask or annotations had changed.
        others: the same of the other encoders' sets.
    """

    features: str
    outcomes: list[Outcome]
    run_id: str
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    stream: dict[str, float] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    others: list[ExtractResult] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return count(self.outcomes)

    def each(self) -> list[ExtractResult]:
        """This result and its others: one for each set of features."""
        return [self, *self.others]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json` and flows."""
        return {
            "features": self.features,
            "run": self.run_id,
            "counts": self.counts(),
            "outcomes": [outcome.as_dict() for outcome in self.outcomes],
            "passed_over": self.passed_over,
            "stream": self.stream,
            "removed": self.removed,
            "changed": self.changed,
            "others": [other.as_dict() for other in self.others],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> ExtractResult:
        """The result that `as_dict` told of."""
        return cls(
            plain["features"],
            [Outcome(**outcome) for outcome in plain["outcomes"]],
            plain["run"],
            plain["passed_over"],
            plain["stream"],
            plain["removed"],
            plain["changed"],
            [cls.from_dict(other) for other in plain["others"]],
        )


def check_device(spec: ExtractSpec, execution: ExecutionSpec) -> None:
    """Look for the device before any work begins, where the work is done on this machine.

    Raises:
        SpecError: it is not there.
    """
    if execution.here:
        pick_device(spec.encoder.device)


def may_use_gpus(spec: ExtractSpec) -> bool:
    """Whether local workers are to be made for this machine's GPUs."""
    return spec.encoder.device in ("auto", "cuda")


def run_jobs(plan: ExtractPlan, jobs: Sequence[SlideJob], executor: Executor) -> Iterator[Outcome]:
    """Do jobs; an outcome for each set, in the order in which they come. New content hashes go to the plan's cache.

    When the executor's deadline has come no further job begins, and those that have not begun have no outcome.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    if plan.stopped is not None:
        raise plan.stopped
    threads = plan.recipe.spec.engine.threads or executor.threads_per_worker()
    items = [replace(job, threads=threads, planner=owner_name()) for job in jobs]
    for result in _mapped(executor, items):
        item = items[result.index].item
        if result.error is not None:
            lost = isinstance(result.error, WorkerLostError)
            told = str(result.error) if lost else f"{type(result.error).__name__}: {result.error}"
            reason, job = redact(told, item.path, item.slide_id), items[result.index]
            recipes, deadly = (job.recipe, *job.also), lost and told.startswith(DEADLY)
            if deadly:
                reason = f"{reason} {plan.quarantine.enter(job, recipes)}"
            yield from (failed(item, recipe, reason, transient=lost and not deadly) for recipe in recipes)
            continue
        outcome: Outcome = result.value
        if outcome.identity:
            with contextlib.suppress(OSError):  # it costs a later run some reading
                plan.cache.put(item.path, outcome.identity, state=items[result.index].state)
        outcomes = outcome.each()
        if result.deaths:  # what it finds in the store it committed itself, before its process died
            outcomes = [replace(each, new=each.new or each.status in MADE) for each in outcomes]
        yield from (each.packed() for each in outcomes)


def _mapped(executor: Executor, items: Sequence[SlideJob]) -> Iterator[Result]:
    """`map_shared`; where it is broken off, the slides that this process has in hand are let go of too."""
    if executor.here:
        forget_closed_engines()
    try:
        yield from map_shared(executor, items)
    except BaseException:
        if executor.here:
            close_engines()
        raise


def reconcile(
    plan: ExtractPlan, outcomes: Sequence[Outcome], store: FeatureStore, recipe: Recipe | None = None
) -> list[Outcome]:
    """Hold outcomes against the store: what is not committed is not done, and every slide is told of once.

    Args:
        plan: what was to be done.
        outcomes: what came of it.
        store: holds the truth.
        recipe: of the set to be told of; the plan's first where None.

    Returns:
        One outcome a slide, in the order of the manifest.
    """
    recipe = recipe or plan.recipe
    name = str(recipe.features_set)
    committed = store.committed(recipe.features_set)
    told = {outcome.slide_id: outcome for outcome in [*plan.done, *outcomes] if outcome.features == name}
    settled = []
    for item in plan.items:
        outcome = told.get(item.slide_id)
        if outcome is None and plan.until.over():
            outcome = Outcome(item.slide_id, "left", reason=f"{LEFT} ({plan.until}).", new=False, features=name)
        elif outcome is None:
            outcome = failed(item, recipe, "the run ended before its turn. Run again.", transient=True)
        elif outcome.status in MADE and _pair(plan, item, outcome, recipe) not in committed:
            outcome = replace(
                outcome,
                status="failed",
                reason="said to be done and not found in the store. Run again.",
                transient=True,
            )
        settled.append(outcome)
    return settled


def _pair(plan: ExtractPlan, item: SlideItem, outcome: Outcome, recipe: Recipe) -> tuple[str, str]:
    """What the store must list for an outcome to be true."""
    guidance = plan.guidance.get(item.slide_id, NO_GUIDANCE)
    prints = recipe.fingerprints(outcome.identity or "", given_mpp(item, recipe.spec), guidance)
    return key_of(item.slide_id), prints.features[:12]


def extract(
    manifest: Manifest,
    spec: ExtractSpec,
    store: FeatureStore,
    executor: Executor,
    *,
    pseudonymiser: Pseudonymiser | None = None,
    on_plan: Callable[[ExtractPlan], None] | None = None,
    on_outcome: OnOutcome | None = None,
) -> ExtractResult:
    """Features of every slide into the store, but for those that reviewers rejected. What is there already is not done again.

    Args:
        manifest: the slides, under their own ids or pseudonyms.
        spec: what to make of them.
        store: where to; made if it is new.
        executor: where the work is done, and until when slides begin.
        pseudonymiser: keys the cache of content hashes.
        on_plan: told the plan before work begins.
        on_outcome: told each new outcome as it comes.

    Raises:
        UsageError: the store cannot be written, or a name is unknown.
        WeightsError: the encoder's weights cannot be had.
        StoreUnwritableError: the store became full or read-only. What is committed stays; run again for the rest.
    """
    manifest = without_rejected(manifest, store)
    plan = plan_extract(manifest, spec, store, pseudonymiser=pseudonymiser)
    plan.until = executor.until
    outcomes = []
    with recorded_run(store, manifest, plan) as log:
        if on_plan:
            on_plan(plan)
        for outcome in run_jobs(plan, plan.jobs, executor):
            outcomes.append(outcome)
            log.outcome(outcome)
            if on_outcome:
                on_outcome(outcome)
        return end_run(store, manifest, plan, log, outcomes)


def end_run(
    store: FeatureStore, manifest: Manifest, plan: ExtractPlan, logs: RunLogs, outcomes: Sequence[Outcome]
) -> ExtractResult:
    """Reconcile, close the run's records, and sum up."""
    seconds, results = time.perf_counter() - logs.began, []
    for recipe in plan.recipes:
        settled, log = reconcile(plan, outcomes, store, recipe), logs.of(recipe)
        stream = summary(settled, seconds)
        new = [outcome for outcome in settled if outcome.new and outcome.status in MADE]
        work = {"slides": len(new), "tiles": sum(outcome.tiles for outcome in new), "seconds": round(seconds, 3)}
        failures = {o.slide_id: o.reason for o in settled if o.status == "failed"}
        left = [o.slide_id for o in settled if o.status == "left"]
        full = str(recipe.features_set)
        changed = [outcome.slide_id for outcome in new if outcome.slide_id in plan.stale.get(full, ())]
        told = {"failures": failures, "left": left, "changed": changed}
        log.finish(counts=count(settled), work=work, stream=stream, **told)
        enter(store, "extract", state="ended", run=log.run_id, features=full, counts=count(settled))
        results.append(
            ExtractResult(
                full.removeprefix("features-"), settled, log.run_id, list(manifest.passed_over), stream,
                plan.removed.get(full, []), changed,
            )
        )  # fmt: skip
    return replace(results[0], others=results[1:])
