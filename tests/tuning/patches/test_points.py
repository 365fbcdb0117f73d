"""Patches around points and boxes of slides: the right pixels, at the right scale, whatever the edge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pathotune_pipeline.errors import ManifestError, SpecError
from pathotune_pipeline.tuning.patches import PatchSet, PatchSpec, read_patches
from tests.tuning.patches.conftest import MPP, place_coded

Write = Callable[..., Path]
PIXELS = place_coded()


def read(source: Path, **settings: object) -> PatchSet:
    return read_patches(PatchSpec.parse({"source": source, "side_px": 32, **settings}))


@pytest.fixture
def points(tmp_path: Path, write_slide: Write, table: Write) -> Callable[..., Path]:
    """A CSV of points on two slides, one named without its ending."""

    def make(*centres: tuple[float, float]) -> Path:
        for name in ("one.tif", "deep/two.tif"):
            write_slide(tmp_path / "slides" / name)
        rows = [
            {"x": x, "y": y, "label": number % 2 + 1, "slide": ("slides/one.tif", "two")[number % 2]}
            for number, (x, y) in enumerate(centres)
        ]
        return table(tmp_path / "points.csv", rows)

    return make


def test_points_are_the_middles_of_their_patches(points: Callable[..., Path]) -> None:
    centres = [(100, 50), (301, 200.5), (40, 390 - 16), (16, 16), (584, 384)]
    patches = read(points(*centres))
    for image, (x, y) in zip(patches.images, centres, strict=True):
        left, top = round(x - 16), round(y - 16)
        assert np.array_equal(image, PIXELS[top : top + 32, left : left + 32])
    assert patches.groups == ("slides/one.tif", "two") * 2 + ("slides/one.tif",)
    assert patches.names[1] == "two@301,200.5"
    assert patches.classes == ("1", "2")
    assert not any("edge" in note for note in patches.notes)


def test_patches_at_another_scale_cover_that_much_tissue(points: Callable[..., Path]) -> None:
    source = points((200, 200), (301, 120))
    for patches in (read(source, mpp=2 * MPP), read_patches(PatchSpec(source=source), side_px=32, mpp=2 * MPP)):
        for image, (x, y) in zip(patches.images, [(200, 200), (301, 120)], strict=True):
            region = PIXELS[y - 32 : y + 32, x - 32 : x + 32]
            assert np.array_equal(image, cv2.resize(region, (32, 32), interpolation=cv2.INTER_AREA))
    with pytest.raises(ManifestError, match=r"invent detail\. Ask for --patch-mpp 0\.5"):
        read(source, mpp=MPP / 2)
    # A user's word about the scale goes before the file's: 2 * MPP is level 0 then.
    patches = read(source, mpp=2 * MPP, slide={"mpp_override": 2 * MPP})
    assert np.array_equal(patches.images[0], PIXELS[184:216, 184:216])


def test_beyond_the_edge_is_white_or_refused(points: Callable[..., Path]) -> None:
    source = points((6, 50), (100, 100), (595, 395))
    patches = read(source)
    assert (patches.images[0][:, :10] == 255).all()
    assert np.array_equal(patches.images[0][:, 10:], PIXELS[34:66, :22])
    assert np.array_equal(patches.images[2][:21, :21], PIXELS[379:, 579:])
    assert (patches.images[2][21:] == 255).all()
    assert any("2 patches reach over a slide's edge" in note for note in patches.notes)
    with pytest.raises(ManifestError, match=r"2 of 3 patches .*around \(6, 50\) reaches over"):
        read(source, edge="refuse")
    assert read(source, edge="refuse", unreadable="skip").names == ("two@100,100",)


def test_points_outside_and_slides_that_are_absent(points: Callable[..., Path], tmp_path: Path, table: Write) -> None:
    with pytest.raises(ManifestError, match=r"\(601, 50\) lies outside the slide of 600 x 400"):
        read(points((601, 50), (10, 10)))
    rows = [{"x": 5, "y": 5, "label": "ab"[number % 2], "slide": name} for number, name in enumerate(["two", "three"])]
    with pytest.raises(ManifestError, match="1 of 2 files are missing: three"):
        read(table(tmp_path / "points.csv", rows))
    with pytest.raises(SpecError, match="nothing says how large"):
        read(points((50, 50), (60, 60)), side_px=None)


def test_order_and_threads_do_not_matter(points: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    centres = [(int(x), int(y)) for x, y in zip(rng.integers(20, 580, 600), rng.integers(20, 380, 600), strict=True)]
    centres = list(dict.fromkeys(centres))
    patches = read(points(*centres), threads=3)
    for image, (x, y) in zip(patches.images, centres, strict=True):
        assert np.array_equal(image, PIXELS[y - 16 : y + 16, x - 16 : x + 16])


def coco(path: Path, boxes: list[list[float]], **changes: Any) -> Path:
    """MIDOG's layout: two images, two categories."""
    images = [{"id": 5, "file_name": "001.tif", "width": 600, "height": 400}, {"id": 6, "file_name": "002.tif"}]
    document = {
        "images": images,
        "categories": [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "not mitotic figure"}],
        "annotations": [
            {"id": number, "image_id": 5 + number % 2, "category_id": 1 + number % 2, "bbox": box}
            for number, box in enumerate(boxes)
        ],
        **changes,
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def slides(tmp_path: Path, write_slide: Write) -> Path:
    for name in ("001.tif", "002.tif"):
        write_slide(tmp_path / name)
    return tmp_path


def test_boxes_as_corners_and_as_sizes(slides: Path) -> None:
    corners = read(coco(slides / "a.json", [[300, 200, 350, 250], [75, 75, 125, 125.0]]))
    sizes = read(coco(slides / "b.json", [[300, 200, 50, 50], [75, 75, 50, 50]]))
    for patches in (corners, sizes):
        assert np.array_equal(patches.images[0], PIXELS[209:241, 309:341])
        assert np.array_equal(patches.images[1], PIXELS[84:116, 84:116])
        assert patches.classes == ("mitotic figure", "not mitotic figure")
        assert patches.labels.tolist() == [0, 1]
        assert patches.groups == ("001.tif", "002.tif")
        assert patches.names == ("001.tif#0", "002.tif#1")
    unclear = coco(slides / "c.json", [[10, 10, 50, 50], [20, 20, 30, 30]])
    with pytest.raises(ManifestError, match=r"both|Give patches\.boxes"):
        read(unclear)
    assert np.array_equal(read(unclear, boxes="corners").images[0], PIXELS[14:46, 14:46])
    assert np.array_equal(read(unclear, boxes="xywh").images[0], PIXELS[19:51, 19:51])
    with pytest.raises(ManifestError, match="neither way"):
        read(coco(slides / "d.json", [[300, 200, 250, 250], [300, 200, -5, 5]]))


def test_a_table_of_slides_says_domain_and_split(slides: Path, table: Write) -> None:
    source = coco(slides / "a.json", [[300, 200, 350, 250], [75, 75, 125, 125]])
    lines = [{"Slide": 1, "Dataset": "train", "Tumor": "breast"}, {"Slide": 2, "Dataset": "test", "Tumor": "lung"}]
    patches = read(source, slide_table=table(slides / "slides.csv", lines))
    assert patches.domains == ("breast", "lung")
    assert patches.splits == ("train", "test")
    assert patches.groups == ("001.tif", "002.tif")
    whose = [{"slide": "001.tif", "patient": "p"}, {"slide": "002", "patient": "p"}]
    assert read(source, slide_table=table(slides / "slides.csv", whose)).groups == ("p", "p")
    with pytest.raises(ManifestError, match=r"no line for 1 slides: 002\.tif"):
        read(source, slide_table=table(slides / "slides.csv", lines[:1]))
    with pytest.raises(ManifestError, match="there twice"):
        read(source, slide_table=table(slides / "slides.csv", [*lines, {"Slide": "01", "Dataset": "", "Tumor": ""}]))
    with pytest.raises(ManifestError, match="no column of group"):
        read(source, slide_table=table(slides / "slides.csv", [{"Slide": 1, "Colour": "red"}]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, "lists images, annotations, categories"),
        ({"images": []}, "'annotations' cannot be used \\(5 is absent\\)"),
        ({"images": [{"id": 5}]}, "'images' cannot be used \\('file_name' is absent\\)"),
        ({"annotations": []}, "no annotation"),
        ({"annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2]}]}, "expected 4"),
    ],
)
def test_json_that_is_no_coco(slides: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(coco(slides / "a.json", [[300, 200, 350, 250]], **changes))
    (slides / "a.json").write_text("{")
    with pytest.raises(ManifestError, match="is not JSON"):
        read(slides / "a.json")
