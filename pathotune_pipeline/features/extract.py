"""The whole extraction: plan against the store, do what is missing, reconcile with the store, tell of every slide."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pathotune_pipeline.archive.identity import IdentityCache, Pseudonymiser, key_of, redact
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import WorkerLostError
from pathotune_pipeline.execution.executor import ExecutionSpec, Executor
from pathotune_pipeline.features.guidance import Guidance, gather_guidance
from pathotune_pipeline.features.outcome import Outcome, count
from pathotune_pipeline.features.plan import NO_GUIDANCE, ExtractSpec, Recipe, SlideJob, make_recipe
from pathotune_pipeline.features.slide_work import outcome_of_record
from pathotune_pipeline.features.telemetry import summary
from pathotune_pipeline.features.worker import process_slide
from pathotune_pipeline.store.runs import RunLog
from pathotune_pipeline.store.store import FeatureStore

OnOutcome = Callable[[Outcome], None]


@dataclass(slots=True)
class ExtractPlan:
    """What is to be done.

    Attributes:
        recipes: names and fingerprints of what is made, one for each encoder.
        jobs: missing work, largest file first.
        done: outcomes of slides that the store has already, and of those that the audit refused; one for each set.
        cache: content hashes, to be told of new ones.
        guidance: imported masks and annotations, by slide id.
    """

    recipes: tuple[Recipe, ...]
    jobs: list[SlideJob]
    done: list[Outcome]
    cache: IdentityCache
    items: tuple[SlideItem, ...] = ()
    guidance: dict[str, Guidance] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The first encoder's."""
        return self.recipes[0]


@dataclass(slots=True)
class ExtractResult:
    """What a run made of an archive.

    Attributes:
        features: name of the features' set, as `--features` takes it.
        outcomes: one a slide, in the order of the manifest.
        run_id: of the run's record in the store.
        passed_over: files that are no slides, with reasons.
        stream: what reading and encoding cost (`telemetry.summary`).
        others: the same of the other encoders' sets.
    """

    features: str
    outcomes: list[Outcome]
    run_id: str
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    stream: dict[str, float] = field(default_factory=dict)
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


def plan_extract(
    manifest: Manifest, spec: ExtractSpec, store: FeatureStore, *, pseudonymiser: Pseudonymiser | None = None
) -> ExtractPlan:
    """Compare what is asked with what the store holds. Lists commits; reads no slide and opens no array.

    Of a slide with several commits in the set (its annotations, its mask or its file changed and came back), the one
    that is asked for becomes the newest, which is what readers take.

    Raises:
        UsageError: the store cannot be written, or a name is unknown.
        WeightsError: the encoder's weights cannot be had.
    """
    store.initialise()
    store.clear_abandoned()
    recipes = tuple(_recipe(each) for each in spec.of_each_encoder())
    cache = IdentityCache(store.identity_file, pseudonymiser)
    listed = {recipe.features_set: store.committed(recipe.features_set) for recipe in recipes}
    commits = {name: Counter(key for key, _ in pairs) for name, pairs in listed.items()}
    guidance = gather_guidance(manifest.items, spec.regions, store, cache)
    plan = ExtractPlan(recipes, [], [], cache, manifest.items, guidance)
    for item in manifest.items:
        if item.refused is not None:
            reason = redact(f"refused by the audit: {item.refused}", item.path, item.slide_id)
            plan.done += [_failed(item, recipe, reason) for recipe in recipes]
            continue
        mpp, guided = given_mpp(item, spec), guidance[item.slide_id]
        identity, key = cache.get(item.path), key_of(item.slide_id)
        missing = []
        for recipe in recipes:
            name = recipe.features_set
            prints = recipe.fingerprints(identity, mpp, guided) if identity and not guided.problem else None
            if prints is None or (key, prints.features[:12]) not in listed[name]:
                missing.append(recipe)
                continue
            if commits[name][key] > 1:
                store.renew(name, key, prints.features)
            plan.done.append(outcome_of_record(store, recipe, item.slide_id, prints, identity))
        if missing:
            first, *also = missing
            plan.jobs.append(
                SlideJob(
                    item, mpp, first, store.root.absolute(), threads=1, identity=identity, guidance=guided,
                    also=tuple(also),
                )
            )  # fmt: skip
    plan.jobs.sort(key=lambda job: -_size(job.item))
    return plan


def _recipe(spec: ExtractSpec) -> Recipe:
    encoder = create_encoder(spec.encoder)
    return make_recipe(spec, encoder.card, encoder.recipe())


def _failed(item: SlideItem, recipe: Recipe, reason: str, *, transient: bool = False) -> Outcome:
    return Outcome(
        item.slide_id, "failed", reason=reason, transient=transient, features=str(recipe.features_set)
    )  # fmt: skip


def given_mpp(item: SlideItem, spec: ExtractSpec) -> float | None:
    """The um/px that a user gave for a slide: the manifest's, else the override for all, else none."""
    return item.mpp if item.mpp is not None else spec.slide.mpp_override


def _size(item: SlideItem) -> int:
    try:
        return item.path.stat().st_size
    except OSError:
        return 0


def run_jobs(plan: ExtractPlan, jobs: Sequence[SlideJob], executor: Executor) -> Iterator[Outcome]:
    """Do jobs; an outcome for each set, in the order in which they come. New content hashes go to the plan's cache."""
    threads = plan.recipe.spec.engine.threads or executor.threads_per_worker()
    items = [replace(job, threads=threads) for job in jobs]
    for result in executor.map(process_slide, items):
        item = items[result.index].item
        if result.error is not None:
            lost = isinstance(result.error, WorkerLostError)
            told = str(result.error) if lost else f"{type(result.error).__name__}: {result.error}"
            reason, job = redact(told, item.path, item.slide_id), items[result.index]
            yield from (_failed(item, recipe, reason, transient=lost) for recipe in (job.recipe, *job.also))
            continue
        outcome: Outcome = result.value
        if outcome.identity:
            plan.cache.put(item.path, outcome.identity)
        yield from outcome.each()


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
        if outcome is None:
            outcome = _failed(item, recipe, "the run ended before its turn. Run again.", transient=True)
        elif outcome.status != "failed" and _pair(plan, item, outcome, recipe) not in committed:
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
    """
    plan = plan_extract(manifest, spec, store, pseudonymiser=pseudonymiser)
    log = begin_run(store, manifest, plan)
    if on_plan:
        on_plan(plan)
    outcomes = []
    try:
        for outcome in run_jobs(plan, plan.jobs, executor):
            outcomes.append(outcome)
            log.outcome(outcome)
            if on_outcome:
                on_outcome(outcome)
    finally:
        plan.cache.save()
    return end_run(store, manifest, plan, log, outcomes)


class RunLogs:
    """The records of an extraction: one for each set of features."""

    def __init__(self, store: FeatureStore, manifest: Manifest, plan: ExtractPlan) -> None:
        self.began = time.perf_counter()
        self._logs: dict[str, RunLog] = {}
        for recipe in plan.recipes:
            planned = [job.item.slide_id for job in plan.jobs if recipe in (job.recipe, *job.also)]
            log = RunLog(store.runs, "extract", recipe.spec.recorded())
            log.note(
                features=str(recipe.features_set),
                slides=len(manifest),
                planned=len(planned),
                planned_slides=planned,
                passed_over=[list(pair) for pair in manifest.passed_over],
            )
            self._logs[str(recipe.features_set)] = log
        for outcome in plan.done:
            self.outcome(outcome)

    def outcome(self, outcome: Outcome) -> None:
        """Append what became of one slide to its set's record."""
        self._logs[outcome.features].outcome(outcome.as_dict())

    def of(self, recipe: Recipe) -> RunLog:
        return self._logs[str(recipe.features_set)]


def begin_run(store: FeatureStore, manifest: Manifest, plan: ExtractPlan) -> RunLogs:
    """Open the run's records and enter what the store had already."""
    return RunLogs(store, manifest, plan)


def end_run(
    store: FeatureStore, manifest: Manifest, plan: ExtractPlan, logs: RunLogs, outcomes: Sequence[Outcome]
) -> ExtractResult:
    """Reconcile, close the run's records, and sum up."""
    seconds, results = time.perf_counter() - logs.began, []
    for recipe in plan.recipes:
        settled, log = reconcile(plan, outcomes, store, recipe), logs.of(recipe)
        stream = summary(settled, seconds)
        failures = {o.slide_id: o.reason for o in settled if o.status == "failed"}
        log.finish(counts=count(settled), failures=failures, stream=stream)
        name = str(recipe.features_set).removeprefix("features-")
        results.append(ExtractResult(name, settled, log.run_id, list(manifest.passed_over), stream))
    return replace(results[0], others=results[1:])
