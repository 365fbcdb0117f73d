"""`pathotune serve` as a user has it: it starts its own server, runs what is due, and pauses the schedule when interrupted."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from pathotune_pipeline.store import open_store
from tests.serving import answers, ask, free_port, prefect_environment, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_what_is_due_runs_and_an_interrupt_pauses_it(small_archive: Path, tmp_path: Path) -> None:
    port, home, log = free_port(), tmp_path / "prefect", tmp_path / "serve.log"
    address = f"http://127.0.0.1:{port}/api"
    settings = {"tiles": {"tile_px": 128}, "execution": {"executor": "serial"}}
    parameters = {"slides": str(small_archive / "case-1"), "store": str(tmp_path / "s"), "settings": settings}
    often = {"flow": "extract", "cron": "* * * * *", "concurrency_limit": None, "parameters": parameters}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"deployments": {"often": often}}))
    words = (sys.executable, "-m", "pathotune_pipeline.cli", "serve", "--file", tmp_path / "d.yaml", "--port", port)

    def runs_that_were_due() -> int:
        ended = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
        runs = ask(address, "flow_runs/filter", ended)
        assert all(run["state_type"] == "COMPLETED" for run in runs), log.read_text()
        return sum(run["auto_scheduled"] for run in runs)

    known = 0
    for _ in ("at first", "and again, where it was paused"):
        with running(words, log, prefect_environment(home)) as process:
            wait_for("the server answers", lambda process=process: process.poll() or answers(address), log, seconds=300)
            wait_for("a run is complete", lambda known=known: runs_that_were_due() > known, log, seconds=500)
            known = runs_that_were_due()
            os.killpg(process.pid, signal.SIGINT)  # as a keyboard does: to all that were started from it
            assert process.wait(120) == 0, log.read_text()
        assert not answers(address), "the server that it started is gone"
        with closing(sqlite3.connect(home / "prefect.db")) as database:
            assert database.execute("select paused from deployment").fetchall() == [(1,)]
    assert f"server    {address}" in log.read_text()
    store = open_store(tmp_path / "s")
    (features,) = [name for name in store.sets() if str(name).startswith("features-")]
    assert sorted(store.records(features)) == ["s2.tif", "s3.tif"]
