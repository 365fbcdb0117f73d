"""The whole extraction: plan against the store, do what is missing, reconcile with the store, tell of every slide."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pathotune_pipeline.archive.companions import state_of
from pathotune_pipeline.archive.identity import IdentityCache, Pseudonymiser, key_of, redact
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import StoreUnwritableError, WorkerLostError
from pathotune_pipeline.execution.executor import ExecutionSpec, Executor
from pathotune_pipeline.features.guidance import Guidance, gather_guidance
from pathotune_pipeline.features.outcome import Outcome, count
from pathotune_pipeline.features.plan import NO_GUIDANCE, ExtractSpec, Recipe, SlideJob, make_recipe
from pathotune_pipeline.features.sharing import map_shared
from pathotune_pipeline.features.worker import outcome_of_record
from pathotune_pipeline.store.leases import take_lease
from pathotune_pipeline.store.owner import owner_name
from pathotune_pipeline.store.runs import RunLog, run_lease
from pathotune_pipeline.store.store import FeatureStore

OnOutcome = Callable[[Outcome], None]


@dataclass(slots=True)
class ExtractPlan:
    """What is to be done.

    Attributes:
        recipe: names and fingerprints of what is made.
        jobs: missing work, largest file first.
        done: outcomes of slides that the store has already, and of those that the audit refused.
        cache: content hashes, to be told of new ones.
        guidance: imported masks and annotations, by slide id.
        removed: ids of slides that the set holds and the archive no longer does.
        stopped: why no further work is begun: the store cannot be written.
    """

    recipe: Recipe
    jobs: list[SlideJob]
    done: list[Outcome]
    cache: IdentityCache
    items: tuple[SlideItem, ...] = ()
    guidance: dict[str, Guidance] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    stopped: StoreUnwritableError | None = None


@dataclass(slots=True)
class ExtractResult:
    """What a run made of an archive.

    Attributes:
        features: name of the features' set, as `--features` takes it.
        outcomes: one a slide, in the order of the manifest.
        run_id: of the run's record in the store.
        passed_over: files that are no slides, with reasons.
        removed: ids of slides that the store holds and the archive no longer does.
    """

    features: str
    outcomes: list[Outcome]
    run_id: str
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return count(self.outcomes)


def check_device(spec: ExtractSpec, execution: ExecutionSpec) -> None:
    """Look for the device before any work begins, where the work is done on this machine.

    Raises:
        SpecError: it is not there.
    """
    if execution.here:
        pick_device(spec.encoder.device)


def plan_extract(
    manifest: Manifest,
    spec: ExtractSpec,
    store: FeatureStore,
    *,
    pseudonymiser: Pseudonymiser | None = None,
    only_look: bool = False,
) -> ExtractPlan:
    """Compare what is asked with what the store holds. Lists commits; reads no slide and opens no array.

    Of a slide with several commits in the set (its annotations, its mask or its file changed and came back), the one
    that is asked for becomes the newest, which is what readers take.

    Args:
        manifest: the slides, under their own ids or pseudonyms.
        spec: what to make of them.
        store: where to; made if it is new.
        pseudonymiser: keys the cache of content hashes.
        only_look: write nothing at all.

    Raises:
        UsageError: the store cannot be written, or a name is unknown.
        WeightsError: the encoder's weights cannot be had.
    """
    if only_look:
        store.check()
    else:
        store.initialise()
        store.clear_abandoned()
    encoder = create_encoder(spec.encoder)
    recipe = make_recipe(spec, encoder.card, encoder.recipe())
    cache = IdentityCache(store.identity_file, pseudonymiser)
    store.remember(recipe.features_set)
    committed = store.committed(recipe.features_set)
    commits = Counter(key for key, _ in committed)
    guidance = gather_guidance(manifest.items, spec.regions, store, cache)
    plan = ExtractPlan(recipe, [], [], cache, manifest.items, guidance, _removed(manifest, store, recipe, committed))
    for item in manifest.items:
        if item.refused is not None:
            refusal = f"refused by the audit: {item.refused}"
            plan.done.append(Outcome(item.slide_id, "failed", reason=redact(refusal, item.path, item.slide_id)))
            continue
        mpp = given_mpp(item, spec)
        state = state_of(item.path)
        identity = cache.of_state(state)
        guided = guidance[item.slide_id]
        if identity is not None and not guided.problem:
            prints = recipe.fingerprints(identity, mpp, guided)
            key = key_of(item.slide_id)
            if (key, prints.features[:12]) in committed:
                if commits[key] > 1 and not only_look:
                    store.renew(recipe.features_set, key, prints.features)
                plan.done.append(outcome_of_record(store, recipe, item.slide_id, prints, identity))
                continue
        plan.jobs.append(
            SlideJob(item, mpp, recipe, store.address, threads=1, identity=identity, guidance=guided, state=state)
        )
    plan.jobs.sort(key=lambda job: -_size(job.item))
    return plan


def _removed(manifest: Manifest, store: FeatureStore, recipe: Recipe, committed: set[tuple[str, str]]) -> list[str]:
    """Ids of slides that a set holds and the archive no longer does. What a manifest leaves out is still there."""
    present = {key_of(item.slide_id) for item in manifest.items} | {key_of(name) for name, _ in manifest.passed_over}
    gone = {key: short for key, short in committed if key not in present}
    return sorted(store.record(recipe.features_set, key, short).slide_id for key, short in gone.items())


def given_mpp(item: SlideItem, spec: ExtractSpec) -> float | None:
    """The um/px that a user gave for a slide: the manifest's, else the override for all, else none."""
    return item.mpp if item.mpp is not None else spec.slide.mpp_override


def _size(item: SlideItem) -> int:
    try:
        return item.path.stat().st_size
    except OSError:
        return 0


def run_jobs(plan: ExtractPlan, jobs: Sequence[SlideJob], executor: Executor) -> Iterator[Outcome]:
    """Do jobs on an executor; outcomes in the order in which they come. New content hashes go to the plan's cache.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    if plan.stopped is not None:
        raise plan.stopped
    threads = plan.recipe.spec.engine.threads or executor.threads_per_item()
    items = [replace(job, threads=threads, planner=owner_name()) for job in jobs]
    for result in map_shared(executor, items):
        item = items[result.index].item
        if result.error is not None:
            lost = isinstance(result.error, WorkerLostError)
            reason = str(result.error) if lost else f"{type(result.error).__name__}: {result.error}"
            yield Outcome(item.slide_id, "failed", reason=redact(reason, item.path, item.slide_id), transient=lost)
            continue
        outcome: Outcome = result.value
        if outcome.identity:
            with contextlib.suppress(OSError):  # it costs a later run some reading
                plan.cache.put(item.path, outcome.identity, state=items[result.index].state)
        yield outcome


def reconcile(plan: ExtractPlan, outcomes: Sequence[Outcome], store: FeatureStore) -> list[Outcome]:
    """Hold outcomes against the store: what is not committed is not done, and every slide is told of once.

    Returns:
        One outcome a slide, in the order of the manifest.
    """
    committed = store.committed(plan.recipe.features_set)
    told = {outcome.slide_id: outcome for outcome in [*plan.done, *outcomes]}
    settled = []
    for item in plan.items:
        outcome = told.get(item.slide_id)
        if outcome is None:
            outcome = Outcome(
                item.slide_id, "failed", reason="the run ended before its turn. Run again.", transient=True
            )
        elif outcome.status != "failed" and _pair(plan, item, outcome) not in committed:
            outcome = replace(
                outcome,
                status="failed",
                reason="said to be done and not found in the store. Run again.",
                transient=True,
            )
        settled.append(outcome)
    return settled


def _pair(plan: ExtractPlan, item: SlideItem, outcome: Outcome) -> tuple[str, str]:
    """What the store must list for an outcome to be true."""
    guidance = plan.guidance.get(item.slide_id, NO_GUIDANCE)
    prints = plan.recipe.fingerprints(outcome.identity or "", given_mpp(item, plan.recipe.spec), guidance)
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
    """Features of every slide into the store. What is there already is not done again.

    Args:
        manifest: the slides, under their own ids or pseudonyms.
        spec: what to make of them.
        store: where to; made if it is new.
        executor: where the work is done.
        pseudonymiser: keys the cache of content hashes.
        on_plan: told the plan before work begins.
        on_outcome: told each new outcome as it comes.

    Raises:
        UsageError: the store cannot be written, or a name is unknown.
        WeightsError: the encoder's weights cannot be had.
        StoreUnwritableError: the store became full or read-only. What is committed stays; run again for the rest.
    """
    plan = plan_extract(manifest, spec, store, pseudonymiser=pseudonymiser)
    outcomes = []
    with recorded_run(store, manifest, plan) as log:
        if on_plan:
            on_plan(plan)
        for outcome in run_jobs(plan, plan.jobs, executor):
            outcomes.append(outcome)
            log.outcome(outcome.as_dict())
            if on_outcome:
                on_outcome(outcome)
        return end_run(store, manifest, plan, log, outcomes)


@contextlib.contextmanager
def recorded_run(store: FeatureStore, manifest: Manifest, plan: ExtractPlan) -> Iterator[RunLog]:
    """A run's record, open while the run goes on. Content hashes are kept, and a stop is told, however it ends."""
    log = begin_run(store, manifest, plan)
    log.keep_alive(take_lease(store.place, run_lease(log.run_id), plan.recipe.spec.leases.lease_s))
    try:
        yield log
    except StoreUnwritableError as error:
        with contextlib.suppress(OSError):  # there may be room for a word
            log.note(stopped=str(error))
        raise
    finally:
        with contextlib.suppress(OSError):  # it costs the next run some reading
            plan.cache.save()
        log.close()


def begin_run(store: FeatureStore, manifest: Manifest, plan: ExtractPlan) -> RunLog:
    """Open the run's record and enter what the store had already."""
    log = RunLog(store.runs, "extract", plan.recipe.spec.recorded())
    log.note(
        features=str(plan.recipe.features_set),
        slides=len(manifest),
        planned=len(plan.jobs),
        planned_slides=[job.item.slide_id for job in plan.jobs],
        passed_over=[list(pair) for pair in manifest.passed_over],
        removed=plan.removed,
    )
    for outcome in plan.done:
        log.outcome(outcome.as_dict())
    return log


def end_run(
    store: FeatureStore, manifest: Manifest, plan: ExtractPlan, log: RunLog, outcomes: Sequence[Outcome]
) -> ExtractResult:
    """Reconcile, close the run's record, and sum up."""
    settled = reconcile(plan, outcomes, store)
    new = [outcome for outcome in settled if outcome.new and outcome.status != "failed"]
    work = {"slides": len(new), "tiles": sum(outcome.tiles for outcome in new), "seconds": round(log.seconds(), 3)}
    log.finish(
        counts=count(settled), work=work, failures={o.slide_id: o.reason for o in settled if o.status == "failed"}
    )
    name = str(plan.recipe.features_set).removeprefix("features-")
    return ExtractResult(name, settled, log.run_id, list(manifest.passed_over), plan.removed)
