"""Annotations from flag to store: what is kept, what is told, what is computed again and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore

LEFT, RIGHT = (0, 0, 768, 1536), (768, 0, 1536, 1536)


def write(folder: Path, name: str, **classes: tuple[int, int, int, int]) -> Path:
    folder.mkdir(exist_ok=True)
    features = []
    for label, (x0, y0, x1, y1) in classes.items():
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"classification": {"name": label}},
            }
        )
    path = folder / name
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def place(tmp_path: Path, small_archive: Path) -> tuple[Manifest, Path, FeatureStore]:
    """Two slides, s2.tif and s3.tif, an empty folder for annotations, and a store."""
    (tmp_path / "marks").mkdir()
    return read_manifest(small_archive / "case-1"), tmp_path / "marks", FeatureStore(tmp_path / "s")


def go(manifest: Manifest, store: FeatureStore, marks: Path | None, **regions: Any) -> ExtractResult:
    if marks is not None:
        regions["annotations"] = str(marks)
    spec = ExtractSpec.parse({"tiles": {"tile_px": 128}, "regions": regions})
    return extract(manifest, spec, store, SerialExecutor())


def tiles(store: FeatureStore, result: ExtractResult, slide: str) -> dict[str, Any]:
    features = store.records(store.find_set(result.features))[slide]
    record = features.made_from("tiles")
    group = store.group(record)
    found: dict[str, Any] = {
        "coords": store.read(record, "coords"),
        "attrs": dict(group.attrs),
        "n": features.facts["tiles"],
    }
    if "class_fraction" in group:
        found["class_fraction"] = store.read(record, "class_fraction")
    return found


def test_roi_and_exclude_choose_tiles_and_class_shares_are_stored(place: Any) -> None:
    manifest, marks, store = place
    write(marks, "s2.geojson", Tumor=LEFT, Stroma=RIGHT)
    write(marks, "s3.tif.json", Tumor=RIGHT, Fold=(768, 0, 1536, 768))
    plain = go(manifest, store, None)
    assert "class_fraction" not in tiles(store, plain, "s2.tif")
    told = go(manifest, store, marks, roi=["Tumor"], exclude=["Fold"])
    assert [outcome.status for outcome in told.outcomes] == ["committed", "committed"]
    found = tiles(store, told, "s2.tif")
    assert found["attrs"]["classes"] == ["Stroma", "Tumor"]
    assert found["class_fraction"].shape == (found["n"], 2)
    assert found["class_fraction"].dtype == np.float32
    np.testing.assert_allclose(found["class_fraction"].sum(axis=1), 1, atol=1e-5)
    assert (found["class_fraction"][:, 1] >= 0.25).all()
    assert found["coords"][:, 0].max() < 768
    everywhere = tiles(store, plain, "s2.tif")["coords"]
    assert (everywhere[:, 0] >= 768).any()
    np.testing.assert_array_equal(found["coords"], everywhere[everywhere[:, 0] < 768])
    other = tiles(store, told, "s3.tif")
    assert (other["coords"][:, 0] >= 768 - 128).all()
    assert (other["coords"][:, 1] >= 768 - 128).all()


def test_a_changed_annotation_makes_one_slides_tiles_and_features_anew_and_no_tissue(place: Any) -> None:
    manifest, marks, store = place
    first_file = write(marks, "s2.geojson", Tumor=LEFT)
    before = first_file.read_bytes()
    write(marks, "s3.geojson", Tumor=LEFT)
    first = go(manifest, store, marks, roi=["Tumor"])
    assert first.counts()["computed"] == 2
    tissue = set(store.committed(store.sets("tissue")[0]))
    assert go(manifest, store, marks, roi=["Tumor", "Tumor"]).counts()["computed"] == 0
    assert go(manifest, store, marks, roi=["Tumor"], missing="whole").counts()["computed"] == 0
    small = tiles(store, first, "s2.tif")["n"]

    write(marks, "s2.geojson", Tumor=(0, 0, 1536, 1536))
    second = go(manifest, store, marks, roi=["Tumor"])
    assert [outcome.new for outcome in second.outcomes] == [True, False]
    assert second.features == first.features
    assert [set(store.committed(name)) for name in store.sets("tissue")] == [tissue]
    assert tiles(store, first, "s2.tif")["n"] > small

    first_file.write_bytes(before)  # and back: nothing is computed, and readers see the old ones again
    assert go(manifest, store, marks, roi=["Tumor"]).counts()["computed"] == 0
    assert tiles(store, first, "s2.tif")["n"] == small


def test_slides_without_a_file_fail_or_are_whole_or_empty(place: Any) -> None:
    manifest, marks, store = place
    write(marks, "s2.geojson", Tumor=LEFT)
    told = go(manifest, store, marks, roi=["Tumor"])
    assert [outcome.status for outcome in told.outcomes] == ["committed", "failed"]
    assert "no annotation file" in told.outcomes[1].reason
    whole = go(manifest, store, marks, roi=["Tumor"], missing="whole")
    assert [(outcome.status, outcome.new) for outcome in whole.outcomes] == [("committed", False), ("committed", True)]
    assert tiles(store, whole, "s3.tif")["class_fraction"].shape == (whole.outcomes[1].tiles, 0)
    plain = go(manifest, store, None)
    assert whole.outcomes[1].tiles == plain.outcomes[1].tiles
    empty = go(manifest, store, marks, roi=["Tumor"], missing="empty")
    assert [outcome.status for outcome in empty.outcomes] == ["committed", "empty"]
    assert empty.outcomes[1].reason == "it has no annotation file"


def test_each_bad_file_fails_its_slide_alone(place: Any) -> None:
    manifest, marks, store = place
    (marks / "s2.geojson").write_text("{")
    write(marks, "s3.geojson", Tumor=LEFT)
    told = go(manifest, store, marks, roi=["Tumor"])
    assert [outcome.status for outcome in told.outcomes] == ["failed", "committed"]
    assert "not JSON" in told.outcomes[0].reason
    write(marks, "s2.geojson", Stroma=LEFT)
    assert (
        "'Tumor' was asked for, its annotations hold: Stroma"
        in go(manifest, store, marks, roi=["Tumor"]).outcomes[0].reason
    )
    write(marks, "s2.geojson", Tumor=(9000, 0, 9900, 50))
    assert "outside the slide" in go(manifest, store, marks, roi=["Tumor"]).outcomes[0].reason
    write(marks, "s2.json", Tumor=LEFT)
    assert "2 files fit it" in go(manifest, store, marks, roi=["Tumor"]).outcomes[0].reason


def test_a_class_that_no_file_holds_is_a_wrong_call(place: Any) -> None:
    manifest, marks, store = place
    write(marks, "s2.geojson", Tumor=LEFT, Fold=RIGHT)
    for flag in ("roi", "exclude"):
        with pytest.raises(SpecError, match=rf"--{flag} 'Folds'.*Did you mean 'Fold'"):
            go(manifest, store, marks, **{flag: ["Folds"]})
    with pytest.raises(SpecError, match="--roi Tumor needs --annotations"):
        go(manifest, store, None, roi=["Tumor"])


def test_no_name_of_folder_or_file_reaches_the_store(tmp_path: Path, small_archive: Path) -> None:
    marks = tmp_path / "marks-of-doe-john"
    write(marks, "s2.geojson", Tumor=LEFT)
    key = Pseudonymiser(b"0123456789abcdef")
    manifest = read_manifest(small_archive / "case-1").pseudonymised(key)
    spec = ExtractSpec.parse({"tiles": {"tile_px": 128}, "regions": {"annotations": str(marks), "roi": ["Tumor"]}})
    told = extract(manifest, spec, FeatureStore(tmp_path / "s"), SerialExecutor(), pseudonymiser=key)
    assert [outcome.status for outcome in told.outcomes] == ["committed", "failed"]
    for path in (tmp_path / "s").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"doe-john" not in data
            assert b"s2.geojson" not in data
