"""Reconciliation: what an outcome says counts only where the store bears it out."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract, reconcile, run_jobs
from pathotune_pipeline.features.plan import ExtractSpec, SlideJob
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.features.resident import HostLane
from pathotune_pipeline.features.worker import process_slide
from pathotune_pipeline.store import FeatureStore

SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})


def test_what_was_said_to_be_done_and_is_not_committed_has_failed(small_archive: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    manifest = read_manifest(small_archive / "case-1")
    plan = plan_extract(manifest, SPEC, store)
    outcomes = list(run_jobs(plan, plan.jobs, SerialExecutor()))
    assert [outcome.status for outcome in reconcile(plan, outcomes, store)] == ["committed", "committed"]
    next((store.root / "commits").glob("features-*/s2*")).unlink()
    first, second = reconcile(plan, outcomes, store)
    assert (first.status, second.status) == ("failed", "committed")
    assert first.transient
    assert "not found in the store" in first.reason


def test_a_slide_that_nobody_came_to_is_told_of(small_archive: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    plan = plan_extract(read_manifest(small_archive / "case-1"), SPEC, store)
    told = reconcile(plan, [], store)
    assert [outcome.status for outcome in told] == ["failed", "failed"]


def test_a_commit_of_other_contents_under_the_same_name_does_not_count(small_archive: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    store = FeatureStore(tmp_path / "s")
    manifest = read_manifest(small_archive / "case-1")
    extract(manifest, SPEC, store, SerialExecutor())
    plan = plan_extract(manifest, SPEC, store)
    assert not plan.jobs
    plan.done[0] = replace(plan.done[0], identity="0" * 64)
    assert [outcome.status for outcome in reconcile(plan, [], store)] == ["failed", "committed"]


def test_largest_slides_come_first(tmp_path: Path) -> None:
    for name, size in (("a.svs", 10), ("b.svs", 1000), ("c.svs", 100)):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x" * size)
    plan = plan_extract(read_manifest(tmp_path / "in"), SPEC, FeatureStore(tmp_path / "s"))
    assert [job.item.slide_id for job in plan.jobs] == ["b.svs", "c.svs", "a.svs"]


def test_a_slide_that_vanishes_between_plan_and_work_fails_alone(small_archive: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_archive / "case-1", tmp_path / "in")
    store = FeatureStore(tmp_path / "s")
    plan = plan_extract(read_manifest(tmp_path / "in"), SPEC, store)
    (tmp_path / "in" / "s2.tif").unlink()
    told = {
        outcome.slide_id: outcome
        for outcome in reconcile(plan, list(run_jobs(plan, plan.jobs, SerialExecutor())), store)
    }
    assert told["s3.tif"].status == "committed"
    assert told["s2.tif"].status == "failed"
    assert "not there" in told["s2.tif"].reason
    assert str(tmp_path) not in told["s2.tif"].reason


def test_a_run_that_is_broken_off_leaves_no_thread_at_work(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, encoding = FeatureStore(tmp_path / "s"), threading.Event()
    plan = plan_extract(read_manifest(small_archive / "case-1"), SPEC, store)
    launch = HostLane.launch

    def slowly(*args: Any) -> Any:
        encoding.set()
        time.sleep(0.5)  # with so many batches the slide would take far longer than the test
        return launch(*args)

    def work(job: SlideJob) -> Any:
        if job.item.slide_id == plan.jobs[0].item.slide_id:
            return process_slide(job)
        assert encoding.wait(60)
        raise StoreUnwritableError("the disk is full.")

    monkeypatch.setattr(HostLane, "launch", slowly)
    monkeypatch.setattr("pathotune_pipeline.features.sharing.process_leased", work)
    with SerialExecutor(2) as executor, pytest.raises(StoreUnwritableError, match="full"):
        list(run_jobs(plan, plan.jobs, executor))
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("serial-", "engine-"))]
    assert not left
    monkeypatch.undo()
    assert [outcome.status for outcome in run_jobs(plan, plan.jobs, SerialExecutor())] == ["committed", "committed"]


def test_filters_caps_and_stain_go_through_an_extraction(small_archive: Path, tmp_path: Path) -> None:
    store, manifest = FeatureStore(tmp_path / "s"), read_manifest(small_archive / "case-1")
    plain = extract(manifest, SPEC, store, SerialExecutor())
    tiles = {"tile_px": 128, "max_white": 0.3, "max_tiles": 12}
    capped = extract(manifest, ExtractSpec.parse({"tiles": tiles}), store, SerialExecutor())
    stained = extract(manifest, ExtractSpec.parse({"tiles": {**tiles, "stain": "macenko"}}), store, SerialExecutor())
    records = [store.records(store.find_set(result.features)) for result in (plain, capped, stained)]
    for slide_id, record in records[1].items():
        grid = store.group(record.made_from("tiles")).attrs["geometry"]["counts"]
        assert [name for name, _ in grid] == ["grid", "tissue", "white", "cap"]
        numbers = [count for _, count in grid]
        assert sorted(numbers, reverse=True) == numbers
        assert numbers[-1] == record.facts["tiles"] == 12
        everywhere = store.read(records[0][slide_id].made_from("tiles"), "coords").tolist()
        assert all(corner in everywhere for corner in store.read(record.made_from("tiles"), "coords").tolist())
        other = records[2][slide_id]
        assert other.made_from("tiles").group == record.made_from("tiles").group  # stain moves no tile
        assert other.facts["stain"]["method"] == "macenko"
        assert len(other.facts["stain"]["measured"]["vectors"]) == 2
        assert "stain" not in record.facts
        assert not np.array_equal(store.read(other, "features"), store.read(record, "features"))
    again = extract(manifest, ExtractSpec.parse({"tiles": tiles}), FeatureStore(tmp_path / "t"), SerialExecutor())
    assert again.features == capped.features
    other_store = FeatureStore(tmp_path / "t")
    for slide_id, record in other_store.records(other_store.find_set(again.features)).items():
        np.testing.assert_array_equal(
            other_store.read(record, "features"), store.read(records[1][slide_id], "features")
        )


def test_a_slide_that_the_filters_empty_says_so(small_archive: Path, tmp_path: Path) -> None:
    spec = ExtractSpec.parse({"tiles": {"tile_px": 128, "min_sharpness": 1e9}})
    result = extract(read_manifest(small_archive / "case-1"), spec, FeatureStore(tmp_path / "s"), SerialExecutor())
    assert {outcome.status for outcome in result.outcomes} == {"empty"}
    assert all("passed the filters" in outcome.reason and "blur 0" in outcome.reason for outcome in result.outcomes)


def test_quality_flags_are_told_and_stored(small_archive: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    spec = ExtractSpec.parse({"tiles": {"tile_px": 128}, "quality": {"min_area_mm2": 1000.0}})
    extract(read_manifest(small_archive / "case-1"), spec, store, SerialExecutor())
    (features,) = store.sets("features")
    for record in store.records(features).values():
        (flag,) = [each for each in record.facts["flags"] if "mm2" in each]
        assert flag.startswith("only ")
        attrs = store.group(record.made_from("tissue")).attrs
        assert attrs["quality"]["area_mm2"] > 0


def test_grids_of_two_scales_share_their_centres(small_archive: Path, tmp_path: Path) -> None:
    store, manifest = FeatureStore(tmp_path / "s"), read_manifest(small_archive / "case-1")
    boxes = []
    for tiles in (
        {"tile_px": 64, "mpp": 0.5, "max_tiles": 5},
        {"tile_px": 64, "mpp": 1.0, "max_tiles": 5, "centred_on_mpp": 0.5},
    ):
        result = extract(manifest, ExtractSpec.parse({"tiles": tiles}), store, SerialExecutor())
        record = store.records(store.find_set(result.features))["s2.tif"].made_from("tiles")
        extent = store.group(record).attrs["geometry"]["extent_level0"]
        boxes.append((store.read(record, "coords"), np.array(extent)))
        assert store.read(store.records(store.find_set(result.features))["s2.tif"], "features").shape[0] == 5
    (near, near_extent), (far, far_extent) = boxes
    assert (far_extent == 2 * near_extent).all()
    assert np.abs((near + near_extent / 2) - (far + far_extent / 2)).max() <= 0.5
