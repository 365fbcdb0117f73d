"""Work on the workers of a Dask scheduler, whichever way they came to be.

Items and results are small; data stay where they are. Each worker process has a few items in hand and no more wait in
Dask: which worker an item goes to is decided here, so that it is known what a worker had in hand when it died. Whatever
that was is done again with the worker to itself; an item under which a worker dies then is the one to blame.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from pathotune_pipeline.errors import DeviceLostError, WorkerLostError
from pathotune_pipeline.execution.deadline import NEVER, Deadline
from pathotune_pipeline.execution.executor import Result
from pathotune_pipeline.execution.hands import Item, Map, Worker

ALLOWED_DEATHS = 2
"""A worker may die once with an item among others in hand, and so many times with nothing else; then it is given up."""
SETTLE_S = 1.0
"""After a death suspects wait so long: a worker that is dying too would be taken for free, and its death for theirs."""
POLL_S = 1.0
"""How often workers are counted while nothing happens."""
UNSEEN_S = 10.0
"""Where workers were not counted for so long, as there was nothing to do, it begins anew how long there was none."""
UNFIT = 70
"""Exit status of a worker process whose device has failed."""
SCALE_S = 10.0
"""How often a cluster is asked to make up for workers that went away."""
TELL_S = 60.0
"""How often it is told that there is no worker."""
FETCH_TIMEOUT_S = 60.0
FETCH_POLL_S = 1.0

_log = logging.getLogger(__name__)


class _ResultLostError(WorkerLostError):
    """An item's worker died under it, or before its result was fetched."""


_GONE = WorkerLostError("the Dask scheduler went away. Start it and run again.")
DEADLY = "its worker process died"
"""How the reason begins of an item that is given up because processes died under it."""
_DEADLY = WorkerLostError(
    f"{DEADLY} {ALLOWED_DEATHS + 1} times under it, {ALLOWED_DEATHS} times with nothing else in hand. Look at "
    "memory, and open the slide alone with `pathotune info`."
)


@dataclass(frozen=True, slots=True)
class Staffing:
    """How many workers a cluster of our own is to have.

    Attributes:
        least: as many from the beginning.
        most: as many are asked for where there is work for them; None leaves the cluster as it is.
        patience_s: so long it is waited for a worker where there is none; then what is left is given up.
    """

    least: int = 0
    most: int | None = None
    patience_s: float = math.inf


AS_IT_IS = Staffing()


class DaskExecutor:
    """Maps over the workers of a Dask client. Several threads may map at once.

    Args:
        client: connected.
        cluster: closed with the executor; None where it is somebody else's.
        slides_at_once: items a worker has in hand, if it has as many threads.
        threads: that a worker process may use; None asks the workers.
        staffing: how many workers the cluster is to have.
        until: when no further item begins.
    """

    def __init__(
        self,
        client: Any,
        cluster: Any = None,
        *,
        slides_at_once: int = 1,
        threads: int | None = None,
        staffing: Staffing = AS_IT_IS,
        until: Deadline = NEVER,
    ) -> None:
        self._client, self._cluster, self.until = client, cluster, until
        self._at_once, self._threads = slides_at_once, threads
        self._staffing, self._asked = staffing, staffing.least
        self._batch = uuid.uuid4().hex[:8]
        self._number = itertools.count()
        self._changed = threading.Condition()
        self._workers: dict[str, Worker] = {}
        self._maps: list[Map] = []
        self._suspects: deque[Item] = deque()
        self._counted_s = self._seen_s = self._scaled_s = self._lost_s = -math.inf
        self._manned_s = self._told_s = time.monotonic()
        self._gone: WorkerLostError | None = None
        self._closed = False

    @property
    def here(self) -> bool:
        return self._cluster is not None

    @property
    def workers(self) -> int:
        """Workers now, or as many as the cluster may have."""
        return max(1, len(self._client.nthreads()), self._staffing.most or 0)

    def threads_per_worker(self) -> int:
        return self._threads or min(self._client.nthreads().values(), default=1)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        mine = Map(function, items, self.until)
        with self._changed:
            self._maps.append(mine)
        try:
            while True:
                with self._changed:
                    self._place()
                    while not mine.ended:
                        if not mine.in_hand and not mine.waits():
                            return
                        if self._gone:
                            break
                        self._changed.wait(POLL_S)
                        self._place()
                    ended = list(mine.ended)
                    mine.ended.clear()
                    if self._gone and not ended:
                        ended = self._give_up(mine)
                for item in ended:
                    result = self._settle(item, mine)
                    if result is not None:
                        yield result
        finally:
            with self._changed:
                self._maps.remove(mine)
                self._drop(mine)

    # --- what became of an item ------------------------------------------------------------------------------------

    def _ended(self, item: Item) -> None:
        """Called by Dask's client when a future is settled, or by the count of workers when its worker is gone."""
        with self._changed:
            for worker in self._workers.values():
                if item in worker.items:
                    worker.items.discard(item)
                    worker.taken = False
                    break
            else:
                return  # its worker was found to be gone, or nobody waits for it any more
            if item.future.status != "finished":
                self._counted_s = -math.inf  # a worker may be gone
            item.owner.ended.append(item)
            self._changed.notify_all()

    def _settle(self, item: Item, mine: Map) -> Result | None:
        """An item's result; None where it is to be done again."""
        if item.future is None:
            result = Result(item.index, error=self._gone or _GONE)
        else:
            result = _lost(item.index) if item.lost else _result(item.index, item.future)
            item.future.release()
        with self._changed:
            if result.error is _GONE:
                self._gone = _GONE
            elif isinstance(result.error, _ResultLostError):
                item.deaths += 1
                self._lost_s = time.monotonic()
                if item.deaths <= ALLOWED_DEATHS:
                    item.lost = False
                    self._suspects.append(item)
                    self._changed.notify_all()
                    return None
                result = Result(item.index, error=_DEADLY)
            mine.in_hand -= 1
        return replace(result, deaths=item.deaths)

    def _give_up(self, mine: Map) -> list[Item]:
        """Everything of a map that has no result, as nobody is left to work on it."""
        left = self._drop(mine)
        while mine.waits():
            left.append(mine.take())
        for item in left:
            item.future = None
        return left

    def _drop(self, mine: Map) -> list[Item]:
        """Take from suspects and workers what belongs to a map; what has not begun does not begin."""
        dropped = [item for item in self._suspects if item.owner is mine]
        self._suspects = deque(item for item in self._suspects if item.owner is not mine)
        for worker in self._workers.values():
            for item in [item for item in worker.items if item.owner is mine]:
                worker.items.discard(item)
                worker.taken = False
                item.future.release()
                dropped.append(item)
        return dropped

    # --- who does what ---------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Hand out items to workers that have room."""
        if self._gone:
            return
        now = time.monotonic()
        if now - self._counted_s >= POLL_S:
            if now - self._seen_s > UNSEEN_S:
                self._manned_s = self._told_s = now  # nobody looked meanwhile; what was then is not known
            self._counted_s = self._seen_s = now
            self._count()
        if self._staffing.most and now - self._scaled_s >= SCALE_S:
            self._scaled_s = now
            self._scale()
        if self.until.over():
            for item in self._suspects:
                item.owner.in_hand -= 1
            self._suspects.clear()
        for worker in self._workers.values():
            if self._suspects and not worker.items and now - self._lost_s >= SETTLE_S:
                self._send(self._suspects.popleft(), worker, alone=True)
        # Where suspects are left, the worker with least in hand gets nothing new until it is free for them.
        spared = min(self._eligible(), key=lambda worker: len(worker.items), default=None) if self._suspects else None
        while True:
            free = [each for each in self._eligible() if each is not spared and len(each.items) < each.slots]
            source = min((each for each in self._maps if each.waits()), key=lambda each: each.in_hand, default=None)
            if not free or source is None:
                return
            self._send(source.take(), min(free, key=lambda worker: len(worker.items)), alone=False)

    def _eligible(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if not worker.taken]

    def _send(self, item: Item, worker: Worker, *, alone: bool) -> None:
        worker.items.add(item)
        worker.taken = alone
        item.future = self._client.submit(
            _work, item.owner.function, item.item, key=f"pathotune-{self._batch}-{next(self._number)}", pure=False,
            workers=[worker.address], allow_other_workers=False, resources=worker.resources(alone=alone),
        )  # fmt: skip
        item.future.add_done_callback(lambda future: self._ended(item) if item.future is future else None)

    def _count(self) -> None:
        """See which workers there are; what was in the hands of one that is gone is lost."""
        try:
            listed = self._client.scheduler_info(n_workers=-1)["workers"]
        except Exception as error:  # noqa: BLE001 - whatever Dask raises when nobody answers
            if self._client.status in ("closed", "closing"):
                self._gone = _GONE
                self._changed.notify_all()
            _log.warning("the Dask scheduler does not answer (%s)", type(error).__name__)
            return
        gpus = {address: float(facts.get("resources", {}).get("GPU", 0)) for address, facts in listed.items()}
        for address, facts in listed.items():
            if address not in self._workers and (gpus[address] or not any(gpus.values())):
                slots = max(1, min(self._at_once, int(facts["nthreads"])))
                self._workers[address] = Worker(address, slots, gpus[address])
        for address in [address for address in self._workers if address not in listed]:
            for item in self._workers.pop(address).items:
                if item.future.status == "pending":
                    item.lost = True
                    item.future.cancel()
                item.owner.ended.append(item)
            self._changed.notify_all()
        self._mind_the_unmanned()

    def _mind_the_unmanned(self) -> None:
        """Say that there is no worker; give up where none comes."""
        now = time.monotonic()
        if self._workers:
            self._manned_s = self._told_s = now
        elif now - self._manned_s > self._staffing.patience_s:
            self._gone = WorkerLostError(
                f"no worker process could be kept or started for {self._staffing.patience_s:.0f} s. Look at this machine's memory "
                "and at what was logged, and run again; what was committed stays."
            )
            self._changed.notify_all()
        elif now - self._told_s > TELL_S:
            self._told_s = now
            _log.warning("there has been no worker for %.0f s; waiting", now - self._manned_s)

    def _scale(self) -> None:
        """Ask for as many workers as there is work for; those that were asked for stay until the end."""
        work = len(self._suspects) + sum(each.left + each.in_hand for each in self._maps)
        self._asked = max(self._asked, min(self._staffing.most or 0, math.ceil(work / self._at_once)))
        if self._cluster is None or not work:
            return
        try:
            self._cluster.scale(self._asked)  # what went away meanwhile is made up for
        except Exception as error:  # noqa: BLE001 - whatever a scheduler of jobs raises; it is asked again
            _log.warning("no %d workers can be had (%s: %s); asking again", self._asked, type(error).__name__, error)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.close()
            if self._cluster is not None:
                self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _work(function: Callable[[Any], Any], item: Any) -> Any:
    """In the worker process. One that can do nothing any more ends; its nanny starts another."""
    try:
        return function(item)
    except DeviceLostError as error:
        logging.getLogger(__name__).error("%s This worker process ends.", error)
        os._exit(UNFIT)


def _lost(index: int, why: str = "its worker process went away under it.") -> Result:
    return Result(index, error=_ResultLostError(f"{why} Run again."))


def _result(index: int, future: Any) -> Result:
    from distributed import KilledWorker

    deadline = time.monotonic() + FETCH_TIMEOUT_S
    while future.status == "finished":
        try:
            return Result(index, value=future.result(timeout=FETCH_POLL_S))
        except TimeoutError as error:
            if time.monotonic() > deadline:
                return _lost(index, f"its result did not come ({type(error).__name__}).")
        except Exception as error:  # noqa: BLE001 - the worker went between finishing and fetching
            return _lost(index, f"its result was lost with its worker ({error}).")
    if future.status == "cancelled":
        return Result(index, error=_GONE)
    if future.status != "error":  # done a moment ago, and lost again with its worker
        return _lost(index, "its result was lost with its worker.")
    raised = future.exception(timeout=FETCH_TIMEOUT_S)
    return _lost(index) if isinstance(raised, KilledWorker) else Result(index, error=raised)
