"""The webhook: what it is told, that nothing of it fails a night, and that its secrets are told to nobody else."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from flows.notify import MOST_SLIDES, TOKEN, URL, notify, tell_of_failure
from tests.flows.hooked import hook


def test_it_is_told_numbers_and_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    with hook() as server:
        monkeypatch.setenv(URL, server.address)
        monkeypatch.setenv(TOKEN, "SECRETTOKEN")
        ids = [f"s{number}" for number in range(MOST_SLIDES + 5)]
        assert notify("slides", "nightly", run="calm-owl", slides={"failed": ids}, counts={"slides": 200})
        tell_of_failure(
            SimpleNamespace(name="extract"),
            SimpleNamespace(name="red-fox"),
            SimpleNamespace(name="Failed", message="ValueError: /data/MUSTERMANN.svs"),
        )
    first, second = server.told
    assert first == {
        "source": "pathotune", "event": "slides", "flow": "nightly", "run": "calm-owl", "counts": {"slides": 200},
        "slides": {"failed": {"count": MOST_SLIDES + 5, "slide_ids": ids[:MOST_SLIDES]}},
    }  # fmt: skip
    assert second == {
        "source": "pathotune", "event": "failure", "flow": "extract", "run": "red-fox", "slides": {}, "state": "Failed",
    }  # fmt: skip
    assert server.headers[0]["Authorization"] == "Bearer SECRETTOKEN"
    assert server.headers[0]["Content-Type"] == "application/json"


def test_without_one_nobody_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv(URL, raising=False)
    assert not notify("failure", "nightly")
    assert not caplog.records


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/hook-SECRETPATH", "https://SECRETPATH.invalid/x", "file:///etc/SECRETPATH", "SECRETPATH",
        "http://[SECRETPATH", "http://127.0.0.1:1/SECRET PATH\n", "http://user:SECRETPATH@127.0.0.1:port/",
    ],
)  # fmt: skip
def test_trouble_is_logged_without_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    monkeypatch.setenv(URL, address)
    monkeypatch.setenv(TOKEN, "SECRETTOKEN")
    with caplog.at_level(logging.DEBUG):
        assert not notify("failure", "nightly")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(("status", "told"), [(500, "HTTP 500"), (403, "HTTP 403"), (307, "HTTP 307")])
def test_what_refuses_or_redirects_is_not_told_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int, told: str
) -> None:
    with hook() as elsewhere, hook(status, elsewhere.address) as server:
        monkeypatch.setenv(URL, server.address)
        assert not notify("failure", "nightly")
    assert len(server.told) == 1
    assert elsewhere.told == []
    assert told in caplog.text
    assert "SECRET" not in caplog.text
