"""Real servers for tests, each a process on loopback in a group of its own, killed with all its children in the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prefect_environment(home: Path, **more: str) -> dict[str, str]:
    """A process's environment with a Prefect home of its own, and nothing of the caller's Prefect."""
    quiet = {
        "PREFECT_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PATHOTUNE_"))}
    return {**kept, **quiet, **more}


@contextmanager
def running(words: Sequence[object], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the block; what it says goes to a file."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*map(str, words)], env=environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process, its group and all that stands below it, stopped ones and those in sessions of their own too."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(30)


def wait_for(what: str, true: Callable[[], Any], *logs: Path, seconds: float = 180.0) -> Any:
    """Wait until something is true, and hand it on; what the logs' last lines say where it never is.

    A server that does not answer, on a machine with much else to do, is asked again.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = true()
            if found:
                return found
        time.sleep(0.2)
    said = "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)
    raise AssertionError(f"it never came about: {what}\n{said}")


@contextmanager
def prefect_server(home: Path, port: int, log: Path, **more: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prefect server: the address of its API, once it answers, and its process."""
    words = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
    address = f"http://127.0.0.1:{port}/api"
    with running(words, log, prefect_environment(home, **more)) as process:

        def up() -> bool:
            assert process.poll() is None, log.read_text()
            return answers(address)

        wait_for("the Prefect server answers", up, log)
        yield address, process


def answers(address: str) -> bool:
    """Whether a Prefect server answers."""
    try:
        urllib.request.urlopen(f"{address}/health", timeout=2).close()
    except OSError:
        return False
    return True


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What a Prefect server answers to a POST of a body, or without one to a GET."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/{path}", data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def pathotune(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "pathotune_pipeline.cli", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
