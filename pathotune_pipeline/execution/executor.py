"""The seam for the place of work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import field_validator

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.execution.deadline import Deadline, canonical_until, deadline_of
from pathotune_pipeline.spec import Spec, setting


class ExecutionSpec(Spec):
    """Where the work is done, and until when."""

    executor: str = setting(
        "local",
        "serial (this process), local (Dask workers on this machine), a Dask scheduler's address, or a cluster's YAML file.",
        hashed=False,
    )
    workers: int | None = setting(
        None,
        "Worker processes of the local executor; empty: one a GPU, or without any one a core, at most 8.",
        hashed=False,
        ge=1,
        le=512,
    )

    slides_at_once: int = setting(
        2,
        "Slides a worker process has in hand: the next is opened, and its tissue found, while one is encoded.",
        hashed=False,
        ge=1,
        le=16,
    )

    until: str | None = setting(
        None,
        "Time after which no new slide begins, such as 06:00 (the next one) or 2026-11-22T06:00; empty: none.",
        hashed=False,
    )

    _until_as_text = field_validator("until", mode="before")(canonical_until)

    @property
    def here(self) -> bool:
        """Whether the work is done on this machine, whose devices can be looked at before it begins."""
        return self.executor in ("serial", "local")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one item: a value, or the error that stood in its way.

    Attributes:
        index: of the item in the list given to `map`.
        value: what the function returned.
        error: what it raised, or WorkerLostError where its process died too often.
        deaths: how often its process died before; what an earlier try had done may be there already.
    """

    index: int
    value: Any = None
    error: Exception | None = None
    deaths: int = 0


class Executor(Protocol):
    """Maps a function over items. A context manager."""

    @property
    def here(self) -> bool:
        """Whether the work is done on this machine, and sees its disks."""
        ...

    @property
    def workers(self) -> int: ...

    def threads_per_worker(self) -> int:
        """Threads that a worker process may use, so that all of them together fill the machine and no more."""
        ...

    @property
    def until(self) -> Deadline:
        """After it no item begins, nor is one begun again whose process died; those have no result."""
        ...

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        """Results in the order in which they come. An item that fails does not stop the others."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *details: object) -> None: ...


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def create_executor(spec: ExecutionSpec, *, gpus: bool = True, since: datetime | None = None) -> Executor:
    """The executor a Spec names.

    Args:
        spec: which.
        gpus: whether the work may use GPUs: then a local worker is made for each.
        since: when the work was due, from which the time of its end is counted; now where None.

    Raises:
        UsageError: no such executor, or the scheduler does not answer.
        SpecError: the cluster's file has a setting that is not known or not allowed.
        MissingExtraError: what that kind of cluster needs is not installed.
    """
    from pathotune_pipeline.execution.serial import SerialExecutor

    until = deadline_of(spec.until, since=since)
    if spec.executor == "serial":
        return SerialExecutor(spec.slides_at_once, until=until)
    from pathotune_pipeline.execution import clusters

    if spec.executor == "local":
        cluster = clusters.ClusterSpec(workers=spec.workers, use_gpus=gpus)
    elif spec.executor.endswith((".yaml", ".yml")):
        cluster = clusters.read_cluster(Path(spec.executor))
    elif ":" in spec.executor:
        return clusters.connect(spec.executor, slides_at_once=spec.slides_at_once, until=until)
    else:
        raise UsageError(
            f"--executor {spec.executor!r}: give serial, local, a Dask scheduler's address such as tcp://10.0.0.5:8786, or "
            "a cluster's file such as configs/execution/slurm.yaml."
        )
    return clusters.start(cluster, slides_at_once=spec.slides_at_once, until=until)
