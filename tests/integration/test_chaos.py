"""Dask's processes killed under an extraction: the scheduler, and workers at named places. The next run mends all."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ENVIRONMENT, canonical, pathotune, start  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow
SERIAL = ("--executor", "serial")


@pytest.fixture(scope="module")
def undisturbed(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    start(small_archive, store, *SERIAL).communicate(timeout=300)
    return canonical(store)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler's address, its process, and one worker of its own."""
    file = folder / "scheduler.json"
    dask, common = [sys.executable, "-m", "dask"], ["--scheduler-file", str(file), "--no-dashboard"]
    own = ([*dask, "scheduler", *common, "--host", "127.0.0.1", "--port", "0"],
           [*dask, "worker", *common, "--nworkers", "1", "--nthreads", "2", "--local-directory", str(folder)])  # fmt: skip
    running = [
        subprocess.Popen(each, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in own
    ]
    try:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], running[0]
    finally:
        for process in running:
            process.kill()
            process.wait(30)


def mended(archive: Path, store: Path, undisturbed: dict[str, str]) -> None:
    """The next run does the rest, and the store is as if nothing had happened."""
    again = start(archive, store, *SERIAL)
    stdout, stderr = again.communicate(timeout=300)
    assert again.returncode == 3, stderr  # one slide of the archive is no slide
    assert json.loads(stdout)["counts"]["committed"] == 6
    gone = pathotune("gc", "--store", store)  # what a kill left of files that were not yet there
    assert gone.returncode == 0, gone.stderr
    assert canonical(store) == undisturbed
    assert pathotune("verify", "--store", store).returncode == 0


def test_a_scheduler_killed_during_the_run(small_archive: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    store = tmp_path / "store"
    with cluster(tmp_path) as (address, scheduler):
        run = start(small_archive, store, "--executor", address)
        deadline = time.monotonic() + 120
        while not list(store.glob("commits/features-*/*.json")):
            assert time.monotonic() < deadline
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        scheduler.kill()
        stdout, stderr = run.communicate(timeout=300)
    assert run.returncode == 3, stderr
    outcomes = json.loads(stdout)["outcomes"]
    assert len(outcomes) == 7, "every slide is told of"
    mended(small_archive, store, undisturbed)


@pytest.mark.parametrize(
    ("failpoint", "never_ends"),
    [("features.batch:2", True), ("store.placed:2", False), ("tissue.committed", False), ("store.committed:2", False)],
)
def test_workers_that_die_again_and_again_at_a_place(
    small_archive: Path, tmp_path: Path, undisturbed: dict[str, str], failpoint: str, never_ends: bool
) -> None:
    """Every worker process dies there, its successors too. What each commits stays; a slide that never ends is given up."""
    store = tmp_path / "store"
    run = start(small_archive, store, "--executor", "local", "--workers", 2, failpoint=failpoint)
    stdout, stderr = run.communicate(timeout=500)
    assert run.returncode == 3, stderr
    outcomes = json.loads(stdout)["outcomes"]
    assert len(outcomes) == 7
    lost = [each for each in outcomes if "its worker process died 3 times" in each["reason"]]
    assert lost or not never_ends
    assert not any(each["transient"] for each in lost), "no use in trying again at once"
    assert all("The next run tries it once more." in each["reason"] for each in lost)
    mended(small_archive, store, undisturbed)
