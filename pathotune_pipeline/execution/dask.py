"""Work on Dask workers: a cluster of this machine's own, or one that already runs somewhere.

Items and results are small; data stay where they are. Items are handed out through a sliding window, because Dask
queues everything it is given at once and then rebalances it over and over.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from pathotune_pipeline.errors import UsageError, WorkerLostError
from pathotune_pipeline.execution.executor import Result, usable_cores

ALLOWED_DEATHS = 2
"""A worker may die under an item so many times; at the next death the item is given up."""
CONNECT_TIMEOUT_S = 10.0
WORKERS_TIMEOUT_S = 120.0

_NANNY_ENVIRONMENT = {
    # The nanny's defaults serve dataframes. Threads are set where the work is; trimming on every free is dear.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
}


class _ResultLostError(WorkerLostError):
    """An item was done, and its worker died before its result was fetched."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """An item on its way: its place in the list, and how often its result was lost before."""

    index: int
    item: Any
    attempt: int = 0


class DaskExecutor:
    """Maps over the workers of a Dask client."""

    def __init__(self, client: Any, cluster: Any = None, *, threads: int = 1) -> None:
        self._client = client
        self._cluster = cluster
        self._threads = threads
        self._closed = threading.Event()

    @property
    def workers(self) -> int:
        return max(1, len(self._client.nthreads()))

    def threads_per_worker(self) -> int:
        return self._threads

    def _window(self) -> int:
        return 2 * max(1, sum(self._client.nthreads().values()))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        from distributed import as_completed

        batch = uuid.uuid4().hex[:8]
        waiting = enumerate(items)
        places: dict[str, _Sent] = {}

        def send(sent: _Sent) -> Any:
            key = f"pathotune-{batch}-{sent.index}-{sent.attempt}"
            places[key] = sent
            return self._client.submit(function, sent.item, key=key, pure=False)

        def submit(count: int) -> list[Any]:
            return [send(_Sent(index, item)) for index, item in itertools.islice(waiting, count)]

        running = as_completed(submit(self._window()))
        for future in running:
            sent = places.pop(future.key)
            result = _result(sent.index, future)
            future.release()
            if isinstance(result.error, _ResultLostError) and sent.attempt < ALLOWED_DEATHS:
                running.add(send(replace(sent, attempt=sent.attempt + 1)))
                continue
            running.update(submit(max(0, self._window() - len(places))))
            yield result

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._client.close()
            if self._cluster is not None:
                self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _result(index: int, future: Any) -> Result:
    from distributed import KilledWorker

    if future.status == "finished":
        try:
            return Result(index, value=future.result(timeout=60))
        except Exception as error:  # noqa: BLE001 - the worker went between finishing and fetching
            return Result(index, error=_ResultLostError(f"its result was lost with its worker ({error}). Run again."))
    if future.status == "cancelled":
        return Result(index, error=WorkerLostError("the Dask scheduler went away. Start it and run again."))
    if future.status != "error":  # done a moment ago, and lost again with its worker
        return Result(index, error=_ResultLostError("its result was lost with its worker. Run again."))
    raised = future.exception(timeout=60)
    if isinstance(raised, KilledWorker):
        return Result(
            index,
            error=WorkerLostError(
                f"its worker process died {ALLOWED_DEATHS + 1} times under it. Look at memory, and open the slide alone "
                "with `pathotune info`."
            ),
        )
    return Result(index, error=raised)


def local_executor(workers: int) -> DaskExecutor:
    """A cluster of worker processes on this machine; they restart when they die."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.nanny.pre-spawn-environ": _NANNY_ENVIRONMENT,
        "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
        "distributed.scheduler.worker-saturation": 1.0,  # an item waiting behind a deadly one is not blamed for it
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.profile.enabled": False,
    }
    logging.getLogger("distributed").setLevel(logging.ERROR)  # what became of items is told by results
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
        )
    return DaskExecutor(Client(cluster), cluster, threads=max(1, usable_cores() // workers))


def connected_executor(address: str) -> DaskExecutor:
    """The workers of a running scheduler. Their number and threads are theirs to choose.

    Raises:
        UsageError: nothing answers there, or no worker appears.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--executor {address}: no Dask scheduler answers there ({type(error).__name__}). "
            "Start one with `dask scheduler`, or use --executor local."
        ) from None
    try:
        client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
    except TimeoutError:
        client.close()
        raise UsageError(
            f"--executor {address}: the scheduler has no worker. Start one with `dask worker {address}`."
        ) from None
    return DaskExecutor(client)
