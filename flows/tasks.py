"""Tasks: a slide, or a handful of small ones; they run in the flow's process and hand work to an Executor.

Prefect never sees Dask, and Dask never sees Prefect. What is done is what the store says, so a task that runs again
does only what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

import flows.environment  # noqa: F401 - before Prefect
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.features.extract import run_jobs
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import SlideJob
from pathotune_pipeline.features.planning import ExtractPlan
from pathotune_pipeline.features.run_logs import RunLogs

if TYPE_CHECKING:
    from pathotune_pipeline.execution.executor import Executor
    from pathotune_pipeline.reports.nights.answers import NightModel
    from pathotune_pipeline.reports.nights.drift import DriftSpec

RETRY_DELAYS_S = [5.0, 30.0]
"""Back-off before a batch's second and third attempt."""
LARGE_FILE_BYTES = 256 * 2**20
"""A slide of this size is a task of its own."""
SMALL_SLIDES_A_TASK = 16


class TransientFailureError(Exception):
    """Some slides failed for a reason that may pass; the task is to run again."""


class Batch:
    """Some slides' jobs, and what became of them so far. Lives in the flow's process, through every attempt."""

    def __init__(self, plan: ExtractPlan, jobs: Sequence[SlideJob], executor: Executor, log: RunLogs) -> None:
        self.plan, self.jobs, self.executor, self.log = plan, list(jobs), executor, log
        self.outcomes: dict[tuple[str, str], Outcome] = {}

    def missing(self) -> list[SlideJob]:
        """Jobs that lack an outcome for one of their sets, or have one whose failure may pass."""
        done = {key for key, outcome in self.outcomes.items() if not outcome.transient}
        return [
            job
            for job in self.jobs
            if not all((job.item.slide_id, str(each.features_set)) in done for each in (job.recipe, *job.also))
        ]

    def run(self) -> list[Outcome]:
        """Do what is missing; the outcomes whose failure may pass, where there is still time for another attempt."""
        try:
            for outcome in run_jobs(self.plan, self.missing(), self.executor):
                key = (outcome.slide_id, outcome.features)
                if (
                    key not in self.outcomes or self.outcomes[key].transient
                ):  # of two sets, one may have been made before
                    self.outcomes[key] = outcome
                    self.log.outcome(outcome)
        except StoreUnwritableError as error:
            self.plan.stopped = error  # no batch begins after this, none is tried again, and the flow fails with it
            return []
        return [] if self.plan.until.over() else [each for each in self.outcomes.values() if each.transient]


def batches(plan: ExtractPlan, executor: Executor, log: RunLogs) -> list[Batch]:
    """Cut the plan's jobs into tasks: each large slide alone, small ones together."""
    found: list[list[SlideJob]] = []
    small: list[SlideJob] = []
    for job in plan.jobs:
        try:
            large = job.item.path.stat().st_size >= LARGE_FILE_BYTES
        except OSError:
            large = False
        if large:
            found.append([job])
        else:
            small.append(job)
    # Enough tasks that every worker has one, and few enough that Prefect's cost per task does not show.
    size = max(1, min(SMALL_SLIDES_A_TASK, -(-len(small) // (2 * executor.workers))))
    found += [small[start : start + size] for start in range(0, len(small), size)]
    return [Batch(plan, jobs, executor, log) for jobs in found]


@task(
    name="extract-slides",
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def extract_slides(batch: Batch) -> int:
    """Extract one batch; how many slides have an outcome.

    Raises:
        TransientFailureError: some failed for a reason that may pass, and attempts are left.
    """
    transient = batch.run()
    attempts = int(task_run.run_count or 1)
    if transient and attempts <= len(RETRY_DELAYS_S):
        raise TransientFailureError(
            f"{len(transient)} of {len(batch.jobs)} slides failed for a reason that may pass, first: {transient[0].reason}"
        )
    return len(batch.outcomes)


@task(name="write-report", cache_policy=NO_CACHE, persist_result=False, retries=1, retry_delay_seconds=2)
def write_report_task(store: str, models: Sequence[str], out: str, features: str) -> str:
    """Write the report of a store; its path."""
    from pathotune_pipeline.reports.report import write_report

    return str(write_report(store, out, models=list(models), features=features))


@task(name="write-night", cache_policy=NO_CACHE, persist_result=False, retries=1, retry_delay_seconds=2)
def write_night_task(
    store: str, out: str, run_id: str, features: str, spec: DriftSpec, model: NightModel | None = None
) -> str:
    """Write the night's page, and the index over nights; the page's path. A model comes quoted: Prefect looks into all else."""
    from pathotune_pipeline.reports.nights.page import write_night

    return str(write_night(store, out, run_id=run_id, features=features, spec=spec, model=model))
