"""The records of an extraction: one for each set of features, open as long as the run goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import Recipe
from pathotune_pipeline.features.planning import ExtractPlan
from pathotune_pipeline.store.leases import take_lease
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.runs import RunLog, run_lease
from pathotune_pipeline.store.store import FeatureStore


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
                removed=plan.removed.get(str(recipe.features_set), []),
                until=str(plan.until) or None,
                **({"part": str(manifest.part)} if manifest.part else {}),
            )
            log.keep_alive(take_lease(store.place, run_lease(log.run_id), recipe.spec.leases.lease_s))
            self._logs[str(recipe.features_set)] = log
            numbers = {"slides": len(manifest), "planned": len(planned)}
            enter(store, "extract", state="begun", run=log.run_id, features=str(recipe.features_set), **numbers)
        for outcome in plan.done:
            self.outcome(outcome)

    def outcome(self, outcome: Outcome) -> None:
        """Append what became of one slide to its set's record."""
        self._logs[outcome.features].outcome(outcome.as_dict())

    def note(self, **facts: Any) -> None:
        """Add facts to each record."""
        for log in self._logs.values():
            log.note(**facts)

    def close(self) -> None:
        """Say that the run goes on no longer."""
        for log in self._logs.values():
            log.close()

    def of(self, recipe: Recipe) -> RunLog:
        return self._logs[str(recipe.features_set)]


@contextlib.contextmanager
def recorded_run(store: FeatureStore, manifest: Manifest, plan: ExtractPlan) -> Iterator[RunLogs]:
    """A run's records, open while the run goes on. Content hashes are kept, and a stop is told, however it ends."""
    logs = RunLogs(store, manifest, plan)
    try:
        yield logs
    except StoreUnwritableError as error:
        with contextlib.suppress(OSError):  # there may be room for a word
            logs.note(stopped=str(error))
        raise
    finally:
        with contextlib.suppress(OSError):  # it costs the next run some reading
            plan.cache.save()
        logs.close()
