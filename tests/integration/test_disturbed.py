"""Disturbed runs: stopped past a lease, a full disk, a read-only mount, a slide cut short. The next run mends all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ENVIRONMENT, await_stop, canonical, pathotune, start  # type: ignore[import-not-found]

SERIAL = ("--executor", "serial")
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def archive(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides."""
    root = tmp_path_factory.mktemp("three")
    for number, place in enumerate(("case-0/s0.tif", "case-0/s1.tif", "case-1/s2.tif")):
        shutil.copy(small_archive / place, root / f"s{number}.tif")
    return root


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    finish(start(archive, store, *SERIAL))
    return canonical(store)


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    """What a run said in the end."""
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    return dict(json.loads(stdout)) if stdout else {"stderr": stderr}


@pytest.fixture
def begin(archive: Path) -> Iterator[Begin]:
    """Begins extractions, and ends those that a failed test leaves stopped."""
    begun: list[subprocess.Popen[str]] = []

    def one(store: Path, *more: object, slides: Path = archive, failpoint: str | None = None) -> subprocess.Popen[str]:
        begun.append(start(slides, store, *SERIAL, *more, failpoint=failpoint))
        return begun[-1]

    yield one
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_two_runs_at_once_share_the_slides(begin: Begin, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    store = tmp_path / "store"
    told = [finish(process) for process in [begin(store) for _ in range(2)]]
    assert [each["counts"]["committed"] for each in told] == [3, 3]
    assert sum(each["counts"]["computed"] for each in told) == 3, "no slide is computed twice"
    assert canonical(store) == undisturbed
    assert not list((store / "leases").rglob("*.json"))


def test_a_run_stopped_past_its_lease_is_taken_over_and_does_no_harm_when_it_wakes(
    begin: Begin, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store = tmp_path / "store"
    sleeper = begin(store, "--lease-s", 2, failpoint="store.staged:3:stop")
    await_stop(sleeper)
    told = finish(begin(store, "--lease-s", 2))
    assert told["counts"]["computed"] == 3
    assert canonical(store) == undisturbed
    os.killpg(sleeper.pid, signal.SIGCONT)
    told = finish(sleeper)
    assert told["counts"]["committed"] == 3
    assert canonical(store) == undisturbed
    assert not list((store / "staging").rglob("zarr.json"))
    assert not list(store.rglob(".*.tmp")), "awake, it finishes or deletes what it had begun to write"


def test_a_slide_cut_short_during_the_run_is_not_committed(
    archive: Path, begin: Begin, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    own, store = tmp_path / "archive", tmp_path / "store"
    shutil.copytree(archive, own)
    process = begin(store, "--slides-at-once", 1, slides=own, failpoint="tissue.committed:2:stop")
    await_stop(process)
    (cut,) = [slide for slide in (f"s{number}.tif" for number in range(3))
              if len(list((store / "data.zarr" / slide).glob("t*"))) == 1]  # fmt: skip
    os.truncate(own / cut, (own / cut).stat().st_size // 2)
    os.killpg(process.pid, signal.SIGCONT)
    told = finish(process, 3)
    (failed,) = [each for each in told["outcomes"] if each["status"] == "failed"]
    assert failed["slide_id"] == cut
    assert "changed while it was read" in failed["reason"]
    shutil.copy2(archive / cut, own / cut)
    finish(begin(store, slides=own))
    assert canonical(store) == undisturbed


def in_a_mount(script: str, place: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script whose mounts nobody else sees; $EXTRACT begins an extraction."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is absent")
    place.mkdir()
    extract = f"{sys.executable} -m pathotune_pipeline.cli extract --tile-px 128 --json --executor serial"
    env = {**ENVIRONMENT, "PLACE": str(place), "EXTRACT": extract, **{name: str(v) for name, v in variables.items()}}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=env, capture_output=True, text=True, check=False, timeout=300
    )
    if "unshare:" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    return done


@pytest.mark.parametrize("size_kib", [60, 250])
def test_a_full_disk_stops_the_run_at_once_and_the_next_one_completes_it(
    archive: Path, tmp_path: Path, undisturbed: dict[str, str], size_kib: int
) -> None:
    script = """
    mount -t tmpfs -o size=${KIB}k tmpfs $PLACE
    $EXTRACT --slides $SLIDES --store $PLACE/store > $OUT/first 2>&1; echo $? > $OUT/code
    cp -a $PLACE/store $OUT/full
    mount -o remount,size=64m $PLACE
    $EXTRACT --slides $SLIDES --store $PLACE/store > $OUT/second 2>&1 || exit 1
    cp -a $PLACE/store $OUT/store
    """
    done = in_a_mount(script, tmp_path / "small", KIB=size_kib, SLIDES=archive, OUT=tmp_path)
    told = (tmp_path / "first").read_text()
    assert done.returncode == 0, done.stderr + told + (tmp_path / "second").read_text()
    assert (tmp_path / "code").read_text().strip() == "1", told
    assert "No space left on device" in told
    assert "Free space" in told
    assert "Traceback" not in told
    assert told.count("failed:") == 0, "one message, not one a slide"
    records = {name for name in canonical(tmp_path / "full") if name.startswith("commits/")}
    assert records < {name for name in undisturbed if name.startswith("commits/")}
    assert pathotune("status", "--store", tmp_path / "full", "--verify").returncode == 0
    assert canonical(tmp_path / "store") == undisturbed


def test_a_mount_that_turns_read_only_stops_the_run(archive: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    script = """
    mount -t tmpfs -o size=64m tmpfs $PLACE
    export PATHOTUNE_FAILPOINT=store.staged:4:stop
    $EXTRACT --slides-at-once 1 --slides $SLIDES --store $PLACE/store > $OUT/first 2>&1 & RUN=$!
    unset PATHOTUNE_FAILPOINT
    while ! grep -q 'State:.T' /proc/$RUN/status; do sleep 0.05; done
    mount -o remount,ro $PLACE || exit 5
    cp -a $PLACE/store $OUT/before
    kill -CONT $RUN; wait $RUN; echo $? > $OUT/code
    $EXTRACT --slides $SLIDES --store $PLACE/store > $OUT/refused 2>&1; echo $? >> $OUT/code
    cp -a $PLACE/store $OUT/after
    mount -o remount,rw $PLACE
    $EXTRACT --slides $SLIDES --store $PLACE/store > $OUT/second 2>&1 || exit 1
    cp -a $PLACE/store $OUT/store
    """
    done = in_a_mount(script, tmp_path / "turning", SLIDES=archive, OUT=tmp_path)
    told = (tmp_path / "first").read_text()
    assert done.returncode == 0, done.stderr + told
    assert (tmp_path / "code").read_text().split() == ["1", "2"], told
    assert "Read-only file system" in told
    assert "Read-only file system" in (tmp_path / "refused").read_text()
    assert "Traceback" not in told
    assert canonical(tmp_path / "after") == canonical(tmp_path / "before")
    assert canonical(tmp_path / "store") == undisturbed
