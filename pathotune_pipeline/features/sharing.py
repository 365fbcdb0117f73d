"""Several runs on one store: each slide is worked on by one of them, and the others come back for it.

A worker takes a lease before it begins a slide. Where another run holds it, the slide is put off: the others are done
first, then it is waited for. A slide whose run has died is taken over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.execution.deadline import Deadline
from pathotune_pipeline.execution.executor import Executor, Result
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import SlideJob
from pathotune_pipeline.features.staging import Prefetcher, staged
from pathotune_pipeline.features.worker import process_slide
from pathotune_pipeline.store.leases import LeaseWatch, take_lease
from pathotune_pipeline.store.store import FeatureStore

POLL_S = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """A slide that another run is working on, by the lease's name."""

    lease: str


def leases_of(job: SlideJob) -> list[str]:
    """Names of a job's leases: each set, and the slide. Its contents are hashed under them."""
    return sorted(f"{recipe.features_set}/{key_of(job.item.slide_id)}" for recipe in (job.recipe, *job.also))


def process_leased(job: SlideJob) -> Outcome | HeldElsewhere:
    """Do one slide's job under a lease, or say that another run does it.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    place, lease_s = FeatureStore(job.store).place, job.recipe.spec.leases.lease_s
    with ExitStack() as held:
        for name in leases_of(job):  # in one order everywhere, so that no two jobs wait for each other
            lease = take_lease(place, name, lease_s, run=job.planner)
            if lease is None:
                return HeldElsewhere(name)
            held.enter_context(lease)
        return process_slide(held.enter_context(staged(job)))


def map_shared(executor: Executor, jobs: Sequence[SlideJob]) -> Iterator[Result]:
    """Do jobs on an executor; those that another run is at come last.

    Returns:
        One result a job, in the order in which they come; its index is the job's. Of jobs that had not begun when the
        executor's deadline came, none.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden; what has not begun is left.
        UsageError: the folder for copies cannot be written.
    """
    if not jobs or executor.until.over():
        return
    first = jobs[0]
    watch = LeaseWatch(FeatureStore(first.store).place, lease_s=first.recipe.spec.leases.lease_s)
    ahead = Prefetcher(jobs) if first.recipe.spec.staging.stage is not None and executor.here else None
    ready, held = list(range(len(jobs))), []
    try:
        while ready:
            for result in executor.map(process_leased, [jobs[index] for index in ready]):
                index = ready[result.index]
                if ahead is not None:
                    ahead.done(jobs[index])
                if isinstance(result.error, StoreUnwritableError):
                    raise result.error
                if isinstance(result.value, HeldElsewhere):
                    watch.state(result.value.lease)  # its time runs from here
                    held.append(index)
                else:
                    yield replace(result, index=index)
            ready, held = _wait(watch, jobs, held, executor.until)
    finally:
        if ahead is not None:
            ahead.close()


def _wait(watch: LeaseWatch, jobs: Sequence[SlideJob], held: list[int], until: Deadline) -> tuple[list[int], list[int]]:
    """Wait until one of the slides that others are at is free, or the deadline comes; the free ones, and the rest."""
    if held:
        _log.warning("%d slides are being made by another run on this store; waiting for it", len(held))
    while held and not until.over():
        free = [index for index in held if all(watch.state(name) != "held" for name in leases_of(jobs[index]))]
        if free:
            return free, [index for index in held if index not in free]
        time.sleep(POLL_S)
    return [], []
