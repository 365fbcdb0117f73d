"""Correct a mask, extract, go back: exactly what depends on it is made, and readers see what was asked for last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.errors import StoreError, UsageError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.masks import MaskChange, export_masks, import_masks, revert_masks
from pathotune_pipeline.features.persist import load_tissue
from pathotune_pipeline.features.plan import IMPORTED_SET, ExtractSpec
from pathotune_pipeline.store import FeatureStore
from pathotune_pipeline.store.masks import MaskPointer, current_masks, use_mask


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_archive: Path) -> Path:
    store = FeatureStore(tmp_path_factory.mktemp("made") / "s")
    go(small_archive, store)
    return store.root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> FeatureStore:
    import shutil

    shutil.copytree(made, tmp_path / "s")
    return FeatureStore(tmp_path / "s")


def go(archive: Path, store: FeatureStore, **settings: Any) -> ExtractResult:
    spec = ExtractSpec.parse({"tiles": {"tile_px": 128}, **settings})
    return extract(read_manifest(archive / "case-1"), spec, store, SerialExecutor())


def n_tiles(store: FeatureStore, result: ExtractResult, slide: str = "s2.tif") -> int:
    return int(store.records(store.find_set(result.features))[slide].facts["tiles"])


def halved(path: Path) -> None:
    """Keep what lies in the left half of the slide: one rectangle."""
    ring = [[0, 0], [768, 0], [768, 1536], [0, 1536], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tissue"}},
    }
    path.write_text(json.dumps([feature]))


def test_an_export_that_nobody_changed_changes_nothing(store: FeatureStore, tmp_path: Path) -> None:
    files = export_masks(store, tmp_path / "m")
    assert [path.name for path in files.values()] == ["s2.tif.geojson", "s3.tif.geojson"]
    assert json.loads(files["s2.tif"].read_text())["type"] == "FeatureCollection"
    assert import_masks(store, tmp_path / "m") == [MaskChange("s2.tif", "unchanged"), MaskChange("s3.tif", "unchanged")]
    assert not current_masks(store)
    assert not store.committed(IMPORTED_SET)


def test_one_corrected_mask_makes_one_slide_anew_and_reverting_makes_none(
    store: FeatureStore, tmp_path: Path, small_archive: Path
) -> None:
    before = go(small_archive, store)
    assert before.counts()["computed"] == 0
    old = n_tiles(store, before)
    files = export_masks(store, tmp_path / "m")
    halved(files["s2.tif"])
    assert [change.status for change in import_masks(store, tmp_path / "m")] == ["imported", "unchanged"]
    assert [change.status for change in import_masks(store, tmp_path / "m")] == ["unchanged", "unchanged"]

    after = go(small_archive, store)
    assert [(outcome.slide_id, outcome.new) for outcome in after.outcomes] == [("s2.tif", True), ("s3.tif", False)]
    assert after.features == before.features
    assert n_tiles(store, after) == 12 * 6
    record = store.records(store.find_set(after.features))["s2.tif"]
    assert str(record.facts["tissue_group"]).startswith("s2.tif/tissue-imported-")
    assert load_tissue(store, record.made_from("tissue")).share == pytest.approx(0.5, abs=0.01)
    assert go(small_archive, store).counts()["computed"] == 0
    assert (
        go(small_archive, store, tissue={"min_chroma": 20.0}).outcomes[0].tiles == 12 * 6
    )  # settings do not go over it

    assert [change.status for change in revert_masks(store)] == ["reverted"]
    back = go(small_archive, store)
    assert back.counts()["computed"] == 0
    assert n_tiles(store, back) == old
    import_masks(store, tmp_path / "m")
    again = go(small_archive, store)
    assert again.counts()["computed"] == 0
    assert n_tiles(store, again) == 12 * 6
    for name in store.sets():
        for each in store.records(name).values():
            store.verify(each)


def test_importing_the_mask_as_it_was_found_is_going_back(store: FeatureStore, tmp_path: Path) -> None:
    files = export_masks(store, tmp_path / "m", ["s2.tif"])
    assert list(files) == ["s2.tif"]
    found = files["s2.tif"].read_bytes()
    halved(files["s2.tif"])
    import_masks(store, tmp_path / "m")
    assert set(current_masks(store)) == {"s2.tif"}
    exported = export_masks(store, tmp_path / "n", ["s2.tif"])["s2.tif"].read_text()
    assert len(json.loads(exported)["features"]) == 1
    files["s2.tif"].write_bytes(found)
    assert [change.status for change in import_masks(store, tmp_path / "m")] == ["reverted"]
    assert not current_masks(store)


def test_a_png_of_any_size_that_covers_the_slide(store: FeatureStore, tmp_path: Path, small_archive: Path) -> None:
    (tmp_path / "m").mkdir()
    picture = np.zeros((48, 48), np.uint8)
    picture[:24] = 255
    cv2.imwrite(str(tmp_path / "m" / "s3.png"), picture)
    [change] = import_masks(store, tmp_path / "m")
    assert (change.slide_id, change.status) == ("s3.tif", "imported")
    assert change.area_um2 == pytest.approx(768 * 768 / 2)
    told = go(small_archive, store)
    assert [outcome.new for outcome in told.outcomes] == [False, True]
    assert n_tiles(store, told, "s3.tif") == 12 * 6
    picture[:] = 0
    cv2.imwrite(str(tmp_path / "m" / "s3.png"), picture)
    import_masks(store, tmp_path / "m")
    assert [outcome.status for outcome in go(small_archive, store).outcomes] == ["committed", "empty"]


def test_the_same_mask_from_another_file_is_the_same(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    picture = np.zeros((96, 96), np.uint8)
    picture[:, :48] = 1
    cv2.imwrite(str(tmp_path / "m" / "s2.png"), picture)
    import_masks(store, tmp_path / "m")
    first = current_masks(store)["s2.tif"]
    (tmp_path / "m" / "s2.png").unlink()
    halved(tmp_path / "m" / "s2.geojson")
    assert [change.status for change in import_masks(store, tmp_path / "m")] == ["unchanged"]
    assert current_masks(store)["s2.tif"] == first


def test_a_mask_counts_only_for_the_contents_it_was_made_for(
    store: FeatureStore, tmp_path: Path, small_archive: Path
) -> None:
    import shutil

    files = export_masks(store, tmp_path / "m", ["s2.tif"])
    halved(files["s2.tif"])
    import_masks(store, tmp_path / "m")
    archive = tmp_path / "in" / "case-1"
    shutil.copytree(small_archive / "case-1", archive)
    shutil.copy(archive / "s3.tif", archive / "s2.tif")
    told = go(tmp_path / "in", store)
    assert told.outcomes[0].new
    assert n_tiles(store, told, "s2.tif") == n_tiles(store, told, "s3.tif")


def test_another_mpp_for_a_corrected_slide(store: FeatureStore, tmp_path: Path, small_archive: Path) -> None:
    files = export_masks(store, tmp_path / "m", ["s2.tif"])
    halved(files["s2.tif"])
    import_masks(store, tmp_path / "m")
    told = go(small_archive, store, slide={"mpp_override": 0.25})
    record = store.records(store.find_set(told.features))["s2.tif"]
    tissue = load_tissue(store, record.made_from("tissue"))
    assert tissue.level0_mpp.x == 0.25
    assert tissue.area_um2 == pytest.approx(768 * 1536 / 16)
    assert record.facts["tiles"] == 6 * 3


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("s2.png", b"no png", "no PNG"),
        ("s2.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\0\0\0\x60\0\0\0\x60", "damaged PNG"),
        ("s2.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\0\xff\0\0\0\xff\0\0", "at most"),
        ("s2.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\0\0\0\x60\0\0\0\x30", "does not cover the same area"),
        ("s2.geojson", b"[]", "no annotation with an area"),
    ],
)
def test_a_bad_file_is_told_and_changes_nothing(
    store: FeatureStore, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(data)
    [change] = import_masks(store, tmp_path / "m")
    assert change.status == "failed"
    assert message in change.reason
    assert not current_masks(store)


def test_wrong_calls(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(UsageError, match="named after a slide"):
        import_masks(store, tmp_path / "m")
    with pytest.raises(UsageError, match=r"Did you mean 's2.tif'"):
        export_masks(store, tmp_path / "m", ["s2.tiff"])
    empty = FeatureStore(tmp_path / "empty")
    empty.initialise()
    with pytest.raises(UsageError, match="no tissue yet"):
        revert_masks(empty)


def test_the_newest_pointer_counts_and_none_is_ever_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path / "s")
    store.initialise()
    pointers = [MaskPointer(letter * 64, "0" * 64) for letter in "abc"]
    for pointer in pointers:
        use_mask(store, "x", "x", pointer)
    monkeypatch.setattr("time.time_ns", lambda: 5)  # a clock set back
    use_mask(store, "x", "x", pointers[0])
    assert current_masks(store) == {"x": pointers[0]}
    assert pointers[0].for_slide("0" * 64) == "a" * 64
    assert pointers[0].for_slide("1" * 64) is None
    use_mask(store, "x", "x", None)
    assert current_masks(store) == {}
    files = sorted((store.root / "masks").iterdir())
    assert len(files) == 5
    files[-1].write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        current_masks(store)
