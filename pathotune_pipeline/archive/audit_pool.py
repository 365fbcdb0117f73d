"""Child processes that look at slides: long-lived, and killed and replaced on a crash, a hang or too much memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pathotune_pipeline.errors import WorkerLostError

START_LIMIT_S = 120.0
FILES_PER_CHILD = 200
"""A child is replaced after as many files: what native libraries leak is given back."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pathotune_pipeline.archive.audit_child import main; main()"
)
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONWARNINGS": "ignore"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a child said of one file.

    Attributes:
        facts: empty where there is a problem.
        problem: why the file cannot be used, or None.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class AuditChild:
    """One child process, started when first asked, and again whenever it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._asked = 0
        self._stopped = False

    def ask(self, request: dict[str, Any]) -> Answer:
        """Have one request answered within its `time_limit_s`. Whatever becomes of the child, there is an answer.

        Raises:
            WorkerLostError: no child can be started.
        """
        process = self._running()
        stage = "beginning"
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            self._asked += 1
            until = time.monotonic() + request["time_limit_s"]
            while True:
                message = self._message(process, until)
                if "stage" not in message:
                    break
                stage = message["stage"]
        except TimeoutError:
            self.close()
            return Answer(problem=f"{stage} took longer than {request['time_limit_s']:g} s and was stopped")
        except (BrokenPipeError, EOFError):
            how = self._end_of(process)
            self.close()
            return Answer(problem=f"{stage} crashed its reader ({how})")
        if message.get("last") or self._asked >= FILES_PER_CHILD:
            self.close()
        return Answer(message.get("facts", {}), message.get("problem"))

    def close(self) -> None:
        """Kill the child."""
        process, self._process = self._process, None
        self._pending, self._asked = b"", 0
        if process is None:
            return
        _kill(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk cannot be ended
            process.wait(timeout=5)

    def stop(self) -> None:
        """Kill the child for good; from any thread. The one that waits for its answer is told that it crashed."""
        self._stopped = True
        process = self._process
        if process is not None:
            _kill(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._stopped:
            raise WorkerLostError("The audit was stopped.")
        if self._process is None:
            command = [sys.executable, "-c", _BOOT, json.dumps(sys.path)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, **_QUIET}, start_new_session=True,
            )  # fmt: skip
            if self._stopped:  # by another thread, meanwhile
                _kill(self._process)
            try:
                self._message(self._process, time.monotonic() + START_LIMIT_S)
            except (TimeoutError, EOFError):
                self.close()
                raise WorkerLostError(
                    "The audit's child process does not start. Run `pathotune doctor`, and give it more memory."
                ) from None
        return self._process

    def _message(self, process: subprocess.Popen[bytes], until: float) -> dict[str, Any]:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                left = until - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    raise EOFError
                self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    @staticmethod
    def _end_of(process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its process went silent"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def ask_all(items: Sequence[T], request_of: Callable[[T], dict[str, Any]], *, jobs: int) -> Iterator[tuple[T, Answer]]:
    """Have every item's request answered by a pool of children; answers in the order in which they come.

    Args:
        items: what to ask about.
        request_of: the request for an item.
        jobs: children at work at once.
    """
    children: queue.SimpleQueue[AuditChild] = queue.SimpleQueue()
    pool = [AuditChild() for _ in range(max(1, min(jobs, len(items))))]
    for child in pool:
        children.put(child)

    def one(item: T) -> tuple[T, Answer]:
        child = children.get()
        try:
            return item, child.ask(request_of(item))
        finally:
            children.put(child)

    threads = ThreadPoolExecutor(len(pool))
    try:
        for done in as_completed([threads.submit(one, item) for item in items]):
            yield done.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for child in pool:
            child.stop()
        threads.shutdown(wait=True)
        for child in pool:
            child.close()
