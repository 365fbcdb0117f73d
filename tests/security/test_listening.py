"""What is started without an address listens on loopback: sockets of real processes are looked at."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from typing import Any

import psutil
import pytest

from flows.environment import local_server
from pathotune_pipeline.execution import ExecutionSpec, create_executor
from pathotune_pipeline.viewer.serve import bind
from pathotune_pipeline.viewer.spec import ViewSpec


def listening() -> set[tuple[int, str, int]]:
    """Process, address and port of every socket that this process or one of its children listens at."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        (process.pid, each.laddr.ip, each.laddr.port)
        for process in processes
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }


@pytest.mark.filterwarnings("ignore")
def test_a_local_cluster() -> None:
    before = listening()
    with create_executor(ExecutionSpec(executor="local", workers=1)) as executor:
        found = listening() - before
        list(executor.map(str, [1]))
        found |= listening() - before
    assert len({pid for pid, _, _ in found}) > 1, "scheduler and worker"
    assert [each for each in found if not ipaddress.ip_address(each[1]).is_loopback] == []


def test_the_viewer() -> None:
    before = listening()
    with bind(ViewSpec(port=0)):
        ((_, address, _),) = listening() - before
    assert address == "127.0.0.1"
    with bind(ViewSpec(port=0, host="0.0.0.0")):
        ((_, address, _),) = listening() - before
    assert address == "0.0.0.0", "an open socket would have been seen"


def test_the_prefect_server_of_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half a minute to start one: what it is told is looked at."""
    told: list[list[str]] = []

    def start(words: list[str], **options: Any) -> None:
        told.append(words)
        raise OSError("enough")

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="enough"), local_server(1):
        pass
    (words,) = told
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert "PREFECT_API_URL" not in os.environ
