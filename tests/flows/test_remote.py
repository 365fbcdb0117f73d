"""A Prefect server on another machine is told nothing unless somebody allowed it.

0.0.0.0 stands for the other machine: it is no loopback address, and what is sent there arrives at a socket of ours.
"""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.deployments import FLOWS
from flows.environment import ALLOW_REMOTE
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.execution.reach import is_here
from tests.flows.hooked import hook
from tests.serving import ROOT, prefect_environment

EXAMPLE = ROOT / "configs" / "deployments.yaml"


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listener that PREFECT_API_URL names, with a login."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.setblocking(False)
        monkeypatch.delenv(ALLOW_REMOTE, raising=False)
        monkeypatch.setenv("PREFECT_API_URL", f"http://user:SECRET@0.0.0.0:{listener.getsockname()[1]}/api")
        yield listener


def heard(listener: socket.socket) -> bool:
    """Whether somebody connected."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://127.8.8.8:4200/api", True),
        ("http://[::1]:4200/api", True),
        ("http://localhost/api", True),
        ("http://localhost.example:4200/api", False),
        ("http://127.0.0.1.example/api", False),
        ("http://127.0.0.1@example/api", False),
        ("http://0.0.0.0:4200/api", False),
        ("http://10.0.0.5:4200/api", False),
        ("https://api.prefect.cloud/api/accounts/1", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_what_is_this_machine(address: str, here: bool) -> None:
    assert is_here(address) is here


@pytest.mark.parametrize("value", ["", "0", "yes"])
def test_verbs_refuse_and_send_nothing(
    other: socket.socket,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str,
) -> None:
    monkeypatch.setenv(ALLOW_REMOTE, value)
    verbs = (
        ("flow", "run", "extract", "--slides", tmp_path, "--store", tmp_path / "s"),
        ("deploy", "--file", EXAMPLE),
        ("serve", "--file", EXAMPLE),
    )
    for words in verbs:
        assert main([*map(str, words)]) == 2
        told = capsys.readouterr().err
        assert len(told.strip().splitlines()) == 1
        assert "which is not this machine" in told
        assert f"{ALLOW_REMOTE}=1" in told
        assert "SECRET" not in told
    assert not heard(other)
    assert not (tmp_path / "s").exists()
    assert main(["deploy", "--file", str(EXAMPLE), "--dry-run"]) == 0, "it tells nobody"
    assert not heard(other)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_that_python_or_a_worker_runs_refuses(other: socket.socket, name: str) -> None:
    flow = FLOWS[name]
    needed = [each.name for each in inspect.signature(flow.fn).parameters.values() if each.default is each.empty]
    for run in (flow, flow.fn):  # a worker runs the function
        with pytest.raises(UsageError, match="which is not this machine"):
            run(**dict.fromkeys(needed, "/x"))
    assert not heard(other)


def test_with_consent_it_is_asked(
    other: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW_REMOTE, "1")
    with hook() as server:
        monkeypatch.setenv("PREFECT_API_URL", f"http://0.0.0.0:{server.server_address[1]}/nothing")
        assert main(["deploy", "--file", str(EXAMPLE)]) == 2
    assert "No Prefect server answers at http://0.0.0.0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_profile_of_another_machine_is_refused_too(other: socket.socket, tmp_path: Path) -> None:
    address = f"http://0.0.0.0:{other.getsockname()[1]}/api"
    (tmp_path / "profiles.toml").write_text(f'active = "far"\n[profiles.far]\nPREFECT_API_URL = "{address}"\n')
    words = [["deploy", "--file", str(EXAMPLE)], ["flow", "run", "extract", "--slides", "/x", "--store", "/x/s"]]
    code = f"from pathotune_pipeline.cli import main\nprint([main(words) for words in {words}])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=prefect_environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "[2, 2]\n", done.stderr
    assert done.stderr.count(f"Prefect's API is {address}, which is not this machine") == 2
    assert not heard(other)
