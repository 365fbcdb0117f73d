"""What Prefect must be told before it is imported. Import this first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.execution.reach import answers, is_here, without_login

STARTUP_S = 180
"""A server migrates its database when it is new, which takes longer than Prefect waits."""
ENDING_S = 30
"""A server that was told to end, and does not, is killed."""
ALLOW_REMOTE = "PATHOTUNE_ALLOW_REMOTE_PREFECT"
"""Consent to a Prefect server on another machine, which hears of parameters, slide ids and logs: 1."""
DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_S),
    "PREFECT_CLI_COLORS": "false",
}


def prepare() -> None:
    """Set defaults for what the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


prepare()


def named_server() -> str | None:
    """The address of the API that this process's Prefect talks to; None where it starts a server of its own."""
    from prefect.settings import get_current_settings

    return os.environ.get("PREFECT_API_URL") or get_current_settings().api.url


def remote_problem(address: str | None) -> str:
    """Why a server must not be told of anything, and what to do; empty where it is this machine's, or allowed."""
    if not address or is_here(address) or os.environ.get(ALLOW_REMOTE) == "1":
        return ""
    return (
        f"Prefect's API is {without_login(address)}, which is not this machine, and would hear of parameters, slide ids and "
        f"logs. Nothing was sent. Where that is meant, set {ALLOW_REMOTE}=1 here and where workers run; else take "
        "PREFECT_API_URL away, or choose another profile (`prefect profile use ephemeral`)."
    )


def refuse_remote() -> None:
    """See that nothing is told to another machine's server without consent; call it before anything is sent.

    Raises:
        UsageError: Prefect's API, by PREFECT_API_URL or the active profile, is another machine's, and nobody allowed it.
    """
    problem = remote_problem(named_server())
    if problem:
        raise UsageError(problem)


def server_problem() -> str:
    """Why no Prefect server can be told of anything, and what to do; empty where one answers."""
    address = named_server()
    problem = remote_problem(address)
    if problem:
        return problem
    if not address:
        return (
            "No Prefect server is named. Start one with `prefect server start`, and set PREFECT_API_URL to its API, such as "
            "http://127.0.0.1:4200/api; or use `pathotune serve`, which needs none."
        )
    if not answers(address):
        return f"No Prefect server answers at {without_login(address)}. Start it, or mend PREFECT_API_URL."
    return ""


@contextmanager
def local_server(port: int) -> Iterator[str]:
    """The address of the server that is named, or of one that is started on this machine alone, for the block.

    Raises:
        UsageError: the one that is named is another machine's, and nobody allowed it.
        OSError: it does not start.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        problem = remote_problem(named)
        if problem:
            raise UsageError(problem)
        yield without_login(named)
        return
    address = f"http://127.0.0.1:{port}/api"
    if answers(address):
        raise OSError(
            f"port {port} has a Prefect server already: set PREFECT_API_URL={address}, or give another --port"
        )
    words = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # a session of its own: an interrupt from the keyboard is for us, and the server must still hear that schedules pause
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + STARTUP_S
        while not answers(address):
            if process.poll() is not None or time.monotonic() > end:
                raise OSError(f"no Prefect server can be started on port {port}; is it taken? Give another --port")
            time.sleep(0.5)
        os.environ["PREFECT_API_URL"] = address
        yield address
    finally:
        process.terminate()
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
