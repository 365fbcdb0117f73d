"""What Prefect must be told before it is imported. Import this first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pathotune_pipeline.execution.reach import answers, without_login

STARTUP_S = 180
"""A server migrates its database when it is new, which takes longer than Prefect waits."""
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


def server_problem() -> str:
    """Why no Prefect server can be told of anything, and what to do; empty where one answers."""
    from prefect.settings import get_current_settings

    address = os.environ.get("PREFECT_API_URL") or get_current_settings().api.url
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
        OSError: it does not start.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        yield without_login(named)
        return
    address = f"http://127.0.0.1:{port}/api"
    if answers(address):
        raise OSError(
            f"port {port} has a Prefect server already: set PREFECT_API_URL={address}, or give another --port"
        )
    words = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
        process.wait()
