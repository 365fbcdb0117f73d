"""Tiles under annotations: whole tiles of the grid, labelled by the class that covers them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.errors import ManifestError, SpecError
from pathotune_pipeline.tuning.patches import PatchSet, PatchSpec, read_patches
from tests.tuning.patches.conftest import MPP, place_coded

Write = Callable[..., Path]
PIXELS = place_coded()


def annotate(path: Path, **boxes: tuple[float, float, float, float]) -> Path:
    """A GeoJSON of boxes (left, top, right, bottom) in level-0 pixels by class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = []
    for name, (left, top, right, bottom) in boxes.items():
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"classification": {"name": name}},
            }
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def archive(tmp_path: Path, write_slide: Write) -> Path:
    """Two annotated slides and one that is not; tiles of 50 px lie on a grid of 12 x 8."""
    for name in ("case/one.tif", "two.tif", "bare.tif"):
        write_slide(tmp_path / "slides" / name)
    annotate(tmp_path / "annotations/case/one.geojson", Tumor=(0, 0, 200, 100), Stroma=(200, 0, 330, 100))
    annotate(tmp_path / "annotations/two.geojson", Stroma=(0, 0, 100, 400))
    return tmp_path


def read(archive: Path, **settings: object) -> PatchSet:
    where = {"source": archive / "annotations", "images": archive / "slides"}
    return read_patches(PatchSpec.parse({**where, "side_px": 50, **settings}))


def test_tiles_are_those_of_the_grid_that_a_class_covers(archive: Path) -> None:
    patches = read(archive)
    assert patches.classes == ("Stroma", "Tumor")
    # Stroma ends at 330: the tiles at 300 are covered to 0.6.
    assert patches.counts() == {"Stroma": 2 * 2 + 2 * 8, "Tumor": 4 * 2}
    assert Counter(patches.groups) == {"case/one.tif": 12, "two.tif": 16}
    assert read(archive, min_cover=0.59).counts() == {"Stroma": 3 * 2 + 2 * 8, "Tumor": 4 * 2}
    for name, image, label in zip(patches.names, patches.images, patches.labels, strict=True):
        x, y = map(float, name.split("@")[1].split(","))
        left, top = int(x - 25), int(y - 25)
        assert left % 50 == top % 50 == 0
        assert np.array_equal(image, PIXELS[top : top + 50, left : left + 50])
        if name.startswith("case"):
            assert label == (left < 200)


def test_scale_and_overlap(archive: Path) -> None:
    coarse = read(archive, mpp=2 * MPP)
    assert coarse.counts() == {"Stroma": 1 + 4, "Tumor": 2}
    assert coarse.side_px == 50
    assert read(archive, overlap_px=25).counts()["Tumor"] == 7 * 3
    with pytest.raises(SpecError, match="over their overlap of 50 px"):
        read(archive, overlap_px=50)
    with pytest.raises(SpecError, match="need a side"):
        read(archive, side_px=None)


def test_too_many_are_drawn_by_seed(archive: Path) -> None:
    one, again, other = (read(archive, max_per_slide=5, sample_seed=seed) for seed in (1, 1, 2))
    assert one.counts() == {"Stroma": 4 + 5, "Tumor": 5}
    assert one.names == again.names != other.names
    assert set(one.names) < set(read(archive).names)


def test_tiles_of_two_classes_are_left_out_and_told(archive: Path) -> None:
    annotate(archive / "annotations/two.geojson", Stroma=(0, 0, 100, 400), Tumor=(0, 0, 100, 100))
    patches = read(archive)
    assert patches.counts() == {"Stroma": 4 + 2 * 6, "Tumor": 8}
    assert any("4 tiles lie under annotations of two classes" in note for note in patches.notes)


def test_classes_and_a_table_of_slides(archive: Path, table: Write) -> None:
    lines = [{"slide": "one.tif", "patient": "p", "split": "train"}, {"slide": "two", "patient": "q", "split": "test"}]
    patches = read(
        archive, rename={"Tumor": "tumour"}, classes=["tumour", "Stroma"], slide_table=table(archive / "t.csv", lines)
    )
    assert patches.classes == ("tumour", "Stroma")
    assert set(zip(patches.groups, patches.splits, strict=True)) == {("p", "train"), ("q", "test")}
    with pytest.raises(ManifestError, match=r"no line for 1 slides: two\.tif"):
        read(archive, slide_table=table(archive / "t.csv", lines[:1]))
    with pytest.raises(ManifestError, match=r"none of the classes Stroma, Necrosis: 'Tumor' \(8\)"):
        read(archive, classes=["Stroma", "Necrosis"])


def test_slides_of_one_name_are_told_apart_by_their_folders(archive: Path, table: Write, write_slide: Write) -> None:
    write_slide(archive / "slides/other/one.tif")
    annotate(archive / "annotations/other/one.geojson", Tumor=(0, 0, 200, 100))
    (archive / "annotations/two.geojson").unlink()
    lines = [{"slide": "one", "patient": "p"}]
    with pytest.raises(ManifestError, match="one line fits several slides: one"):
        read(archive, slide_table=table(archive / "t.csv", lines))
    lines = [{"slide": "case/one.tif", "patient": "p"}, {"slide": "other/one", "patient": "q"}]
    patches = read(archive, slide_table=table(archive / "t.csv", lines))
    whose = {(name.split("/")[0], group) for name, group in zip(patches.names, patches.groups, strict=True)}
    assert whose == {("case", "p"), ("other", "q")}


def test_what_cannot_be_used(archive: Path) -> None:
    annotate(archive / "annotations/bare.geojson", Tumor=(700, 0, 800, 100))
    with pytest.raises(ManifestError, match=r"1 of 3 annotated slides .*bare\.tif: an annotation lies outside"):
        read(archive)
    patches = read(archive, unreadable="skip")
    assert len(patches) == 28
    assert any("1 annotated slides cannot be used" in note for note in patches.notes)
    (archive / "annotations/bare.geojson").unlink()
    with pytest.raises(ManifestError, match=r"none of 0 slides has an annotation file"):
        read(archive, images=None, kind="annotations")
    for path in (archive / "annotations").rglob("*.geojson"):
        annotate(path)
    with pytest.raises(ManifestError, match="lists no patch"):
        read(archive)
