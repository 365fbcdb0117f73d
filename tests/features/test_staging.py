"""Copies of slides: whole, within the budget, ahead of reading, and gone afterwards, also after a kill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pathotune_pipeline.archive.identity import content_hash
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.errors import SlideChangedError, UsageError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features import sharing, staging
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec, SlideJob, StagingSpec
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.features.staging import Prefetcher, Stage, staged
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.store.owner import owner_name


def spec_of(stage: Path, budget: str = "200GB") -> ExtractSpec:
    return ExtractSpec.parse({"tiles": {"tile_px": 128}, "staging": {"stage": str(stage), "stage_budget": budget}})


def stage_of(folder: Path, budget: str = "1GB") -> Stage:
    stage = Stage(StagingSpec(stage=str(folder), stage_budget=budget), owner_name())
    stage.prepare()
    return stage


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def mirax(root: Path) -> Path:
    (root / "m" / "deep").mkdir(parents=True)
    (root / "m.mrxs").write_bytes(b"index")
    for name in ("Slidedat.ini", "Data0000.dat", "deep/Data0001.dat"):
        (root / "m" / name).write_bytes(name.encode() * 100)
    return root / "m.mrxs"


def test_a_copy_has_every_companion_and_the_slides_identity(tmp_path: Path) -> None:
    slide = mirax(tmp_path / "in")
    stage = stage_of(tmp_path / "fast")
    copy = stage.fetch(slide)
    assert copy is not None
    assert copy.name == slide.name
    assert content_hash(copy) == content_hash(slide)
    assert stage.fetch(slide) == copy, "one copy is enough"
    stage.drop(slide, copy)
    stage.close()
    assert list((tmp_path / "fast").iterdir()) == []


def test_copies_stay_within_the_budget(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.svs").write_bytes(bytes(400_000))
    one, other = (
        stage_of(tmp_path / "fast"),
        Stage(StagingSpec(stage=str(tmp_path / "fast"), stage_budget="1MB"), "else-1-2"),
    )
    assert one.fetch(tmp_path / "a.svs")
    assert other.fetch(tmp_path / "b.svs")
    assert not other.has_room(tmp_path / "c.svs")
    assert other.fetch(tmp_path / "c.svs") is None, "the budget is the machine's, whoever made the copies"
    one.drop(tmp_path / "a.svs")
    assert other.fetch(tmp_path / "c.svs")
    (tmp_path / "huge.svs").write_bytes(bytes(1_100_000))
    assert other.has_room(tmp_path / "huge.svs") is None


def test_a_slide_that_changes_under_the_copy_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"pixels")
    stage, states = stage_of(tmp_path / "fast"), iter(("before", "after"))
    monkeypatch.setattr(staging, "state_of", lambda path: next(states))
    with pytest.raises(SlideChangedError):
        stage.fetch(slide)
    assert files_in(tmp_path / "fast") == []


def test_a_stage_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--stage"):
        stage_of(tmp_path / "file")


@pytest.fixture
def jobs(small_archive: Path, tmp_path: Path) -> list[SlideJob]:
    """Three jobs whose slides need 1 MB each, with a budget for two copies."""
    archive = tmp_path / "in"
    archive.mkdir()
    for number, name in enumerate(("case-0/s0.tif", "case-0/s1.tif", "case-1/s2.tif")):
        shutil.copy(small_archive / name, archive / f"{number}.tif")
        os.truncate(archive / f"{number}.tif", 1_000_000)
    plan = plan_extract(read_manifest(archive), spec_of(tmp_path / "fast", "2.5MB"), FeatureStore(tmp_path / "store"))
    return [replace(job, planner=owner_name()) for job in plan.jobs]


def test_slides_are_copied_ahead_as_far_as_the_budget_goes(jobs: list[SlideJob], tmp_path: Path) -> None:
    ahead = Prefetcher(jobs)

    def whole() -> set[str]:
        return {path.name for path in tmp_path.glob("fast/.pathotune-*/*/whole/*")}

    names = [job.item.path.name for job in jobs]
    wait_for(lambda: whole() == set(names[:2]))
    with staged(jobs[0]) as ready:
        assert ready.item.path.parent.name == "whole"
        assert ready.item.path.read_bytes() == jobs[0].item.path.read_bytes()
    ahead.done(jobs[0])
    wait_for(lambda: whole() == set(names[1:]))
    ahead.close()
    assert list((tmp_path / "fast").iterdir()) == []


def test_where_there_is_no_room_the_slide_is_read_where_it_lies(jobs: list[SlideJob], tmp_path: Path) -> None:
    stage = Stage(jobs[0].recipe.spec.staging, owner_name())
    stage.prepare()
    assert stage.fetch(jobs[1].item.path)
    assert stage.fetch(jobs[2].item.path)
    with staged(jobs[0]) as ready:
        assert ready is jobs[0]


def test_an_extraction_reads_copies_and_leaves_none(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    process = sharing.process_slide

    def spy(job: SlideJob) -> object:
        seen.append(job.item.path)
        return process(job)

    monkeypatch.setattr(sharing, "process_slide", spy)
    archive, fast = tmp_path / "in", tmp_path / "fast"
    shutil.copytree(small_archive / "case-0", archive)
    manifest = read_manifest(archive)
    result = extract(manifest, spec_of(fast), FeatureStore(tmp_path / "one"), SerialExecutor())
    assert {outcome.slide_id: outcome.status for outcome in result.outcomes} == {
        "broken.svs": "failed", "s0.tif": "committed", "s1.tif": "committed",
    }  # fmt: skip
    assert all(fast in path.parents for path in seen)
    assert list(fast.iterdir()) == []
    assert not any(str(tmp_path) in outcome.reason for outcome in result.outcomes)
    plain = ExtractSpec.parse({"tiles": {"tile_px": 128}})
    again = extract(manifest, plain, FeatureStore(tmp_path / "one"), SerialExecutor())
    assert again.counts()["computed"] == 0, "the source's identity is known, and the fingerprints are the same"
    for path in files_in(tmp_path / "one"):
        assert str(fast).encode() not in path.read_bytes()


def test_copies_of_a_killed_run_are_cleared_by_the_next(small_archive: Path, tmp_path: Path) -> None:
    store, fast = tmp_path / "store", tmp_path / "fast"
    command = [
        sys.executable, "-m", "pathotune_pipeline.cli", "extract", "--slides", str(small_archive / "case-1"), "--store",
        str(store), "--tile-px", "128", "--executor", "serial", "--stage", str(fast), "--stage-budget", "1GB",
    ]  # fmt: skip
    env = {**os.environ, "PATHOTUNE_FAILPOINT": "features.chunk"}
    killed = subprocess.run(command, env=env, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert files_in(fast)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(fast.iterdir()) == []
    assert len(open_store(store).records(open_store(store).sets("features")[0])) == 2
