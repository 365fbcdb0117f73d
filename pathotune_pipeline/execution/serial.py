"""Work in this process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from pathotune_pipeline.execution.deadline import NEVER, Deadline
from pathotune_pipeline.execution.executor import Result, usable_cores


class SerialExecutor:
    """Work in this process: a few items in hand, so that the next one is prepared while one is at work.

    Args:
        at_once: items in hand.
        until: when no further item begins.
    """

    def __init__(self, at_once: int = 1, *, until: Deadline = NEVER) -> None:
        self._at_once, self.until = at_once, until
        self._threads: list[threading.Thread] = []

    here = True

    @property
    def workers(self) -> int:
        return 1

    def threads_per_worker(self) -> int:
        return usable_cores()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        waiting, turn = enumerate(items), threading.Lock()
        # As many results as items in hand wait to be taken; then work waits too.
        results: queue.Queue[Result | None] = queue.Queue(maxsize=self._at_once)
        stopped = threading.Event()

        def work() -> None:
            while not stopped.is_set():
                with turn:
                    index, item = (-1, None) if self.until.over() else next(waiting, (-1, None))
                if index < 0:
                    break
                _put(results, _result(function, index, item), stopped)
            _put(results, None, stopped)

        threads = [threading.Thread(target=work, name="serial-executor", daemon=True) for _ in range(self._at_once)]
        self._threads = [thread for thread in self._threads if thread.is_alive()] + threads
        for thread in threads:
            thread.start()
        try:
            ended = 0
            while ended < len(threads):
                result = results.get()
                if result is None:
                    ended += 1
                else:
                    yield result
        finally:
            stopped.set()  # where the caller goes away: what is in hand ends, and nothing more begins

    def close(self) -> None:
        """Wait for what is in hand: a thread that is inside torch when Python goes away would take it down."""
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _result(function: Callable[[Any], Any], index: int, item: Any) -> Result:
    try:
        return Result(index, value=function(item))
    except Exception as error:  # noqa: BLE001 - an item that fails does not stop the others
        return Result(index, error=error)


def _put(results: queue.Queue[Result | None], result: Result | None, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            results.put(result, timeout=0.5)
        except queue.Full:
            continue
        return
