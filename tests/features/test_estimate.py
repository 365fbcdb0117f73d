"""What a dry run says: nothing is written, and what it foretells is what comes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli.main import main
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.estimate import Estimate, estimate
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.store import FeatureStore, read_runs

SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})


def look(archive: Path, store: FeatureStore, spec: ExtractSpec = SPEC) -> Estimate:
    return estimate(plan_extract(read_manifest(archive), spec, store, only_look=True), store)


def weigh(root: Path) -> tuple[int, int]:
    paths = list((root / "data.zarr").rglob("*")) + list((root / "commits").rglob("*.json"))
    return sum(path.stat().st_size for path in paths if path.is_file() and "commits" not in path.parts), len(paths)


def test_nothing_is_written_where_nothing_is(small_archive: Path, tmp_path: Path) -> None:
    found = look(small_archive / "case-1", FeatureStore(tmp_path / "store"))
    assert (found.slides, found.to_do, found.in_store, found.known_tiles) == (2, 2, 0, 0)
    assert found.tiles > 0
    assert found.hours is None
    assert found.coverage_from == 0
    size = sum(path.stat().st_size for path in (small_archive / "case-1").iterdir())
    assert found.read_gb == pytest.approx(size / 1e9)
    assert list(tmp_path.iterdir()) == []


def test_what_is_foretold_of_known_grids_is_what_comes(small_archive: Path, tmp_path: Path) -> None:
    """Other stain handling makes other features of the same tiles: tiles and files are then foretold exactly."""
    archive, store = small_archive / "case-1", FeatureStore(tmp_path / "store")
    made = extract(read_manifest(archive), SPEC, store, SerialExecutor())
    stained = ExtractSpec.parse({"tiles": {"tile_px": 128, "stain": "reinhard"}})
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    found = look(archive, store, stained)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
    assert found.tiles == found.known_tiles == made.counts()["tiles"]
    assert found.hours is not None
    assert found.hours > 0
    assert found.rate_from == (made.run_id,)
    size, files = weigh(store.root)
    extract(read_manifest(archive), stained, store, SerialExecutor())
    more_size, more_files = weigh(store.root)
    assert more_files - files == found.store_files
    metadata = 2 * 10_000
    assert found.store_gb * 1e9 <= more_size - size <= found.store_gb * 1e9 + metadata


def test_a_new_slide_is_judged_by_those_in_the_store(small_archive: Path, tmp_path: Path) -> None:
    archive, store = tmp_path / "archive", FeatureStore(tmp_path / "store")
    shutil.copytree(small_archive / "case-1", archive)
    made = extract(read_manifest(archive), SPEC, store, SerialExecutor())
    shutil.copy(small_archive / "case-2" / "s4.tif", archive / "new.tif")
    _, files = weigh(store.root)
    found = look(archive, store)
    assert (found.to_do, found.in_store, found.coverage_from) == (1, 2, 2)
    assert found.tiles == pytest.approx(made.counts()["tiles"] / 2, rel=0.05), "the slides are of one size"
    extract(read_manifest(archive), SPEC, store, SerialExecutor())
    assert weigh(store.root)[1] - files == found.store_files
    again = look(archive, store)
    assert (again.to_do, again.tiles, again.store_files, again.in_store) == (0, 0, 0, 3)


def test_the_command_says_it(small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["extract", "--slides", str(small_archive), "--store", str(tmp_path / "s"), "--tile-px", "128", "--dry-run"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["to_do"], told["unopened"]) == (7, 1)
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "7 to do" in out
    assert "not known: no run" in out
    assert "nothing was written" in out
    assert not (tmp_path / "s").exists()


def test_a_removed_slide_is_told_and_keeps_its_features(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, store = tmp_path / "archive", FeatureStore(tmp_path / "store")
    shutil.copytree(small_archive / "case-1", archive)
    extract(read_manifest(archive), SPEC, store, SerialExecutor())
    (archive / "s3.tif").unlink()
    words = [
        "extract",
        "--slides",
        str(archive),
        "--store",
        str(store.root),
        "--tile-px",
        "128",
        "--executor",
        "serial",
    ]
    assert main(words) == 0
    assert "removed   1 in the store and no longer in the archive: s3.tif" in capsys.readouterr().out
    told = [run.record["removed"] for run in read_runs(store.runs)]
    assert sorted(told) == [[], ["s3.tif"]]
    assert len(store.records(store.sets("features")[0])) == 2
