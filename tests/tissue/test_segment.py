from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.errors import ScaleError, TileReadError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, Slide, SlideInfo, open_slide
from pathotune_pipeline.tissue import TissueMask, TissueSpec, find_tissue
from pathotune_pipeline.tissue.segment import tissue_of, white_point

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SPEC = TissueSpec()
PINK, GLASS = (200, 120, 170), (241, 240, 243)


@pytest.fixture
def real() -> Iterator[Callable[..., TissueMask]]:
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    opened: list[Slide] = []

    def find(name: str, mpp: float | None = None) -> TissueMask:
        opened.append(open_slide(SHARED / "data" / "slides" / name, mpp=mpp))
        return find_tissue(opened[-1], SPEC)

    yield find
    for slide in opened:
        slide.close()


def glass(height: int = 300, width: int = 400, colour=GLASS) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-1, 2, (height, width, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_coloured_tissue_is_found_without_a_rim():
    picture = glass()
    truth = cv2.ellipse(np.zeros((300, 400), np.uint8), (200, 150), (120, 80), 20, 0, 360, 1, -1) > 0
    picture[truth] = PINK
    assert iou(tissue_of(picture, SPEC, mpp=8.0), truth) > 0.97


def test_pale_tissue_is_found_where_the_scanner_saturates_glass():
    picture = np.full((300, 400, 3), 255, np.uint8)
    picture[100:200, 100:300] = (196, 190, 199)
    picture[98:100, 100:300] = picture[200:202, 100:300] = (226, 224, 227)
    truth = np.zeros((300, 400), bool)
    truth[99:201, 100:300] = True
    assert iou(tissue_of(picture, SPEC, mpp=8.0), truth) > 0.95


def test_fat_is_found_by_its_walls():
    picture = glass()
    truth = np.zeros((300, 400), bool)
    truth[60:220, 80:320] = True
    for place in range(0, 241, 10):
        picture[60:220, 80 + min(place, 239)] = (222, 212, 222)
        picture[60 + min(place, 159), 80:320] = (222, 212, 222)
    found = tissue_of(picture, SPEC, mpp=8.0)
    assert iou(found, truth) > 0.9
    assert not tissue_of(picture, SPEC.with_values(min_texture=200.0), mpp=8.0).any()


def test_glass_black_and_seams_are_no_tissue():
    assert not tissue_of(glass(), SPEC, mpp=8.0).any()
    assert not tissue_of(glass(colour=(225, 222, 214)), SPEC, mpp=8.0).any()
    assert not tissue_of(np.zeros((200, 200, 3), np.uint8), SPEC, mpp=8.0).any()
    assert not tissue_of(np.full((200, 200, 3), 255, np.uint8), SPEC, mpp=8.0).any()
    seam = glass()
    seam[:, 150:] = 255
    assert not tissue_of(seam, SPEC, mpp=8.0).any()


def test_a_slide_that_is_all_tissue_is_all_found():
    picture = glass(colour=PINK)
    assert tissue_of(picture, SPEC, mpp=8.0).all()
    np.testing.assert_array_equal(white_point(picture), [245, 245, 245])


def test_areas_are_physical():
    picture = glass()
    cv2.circle(picture, (100, 100), 8, PINK, -1)  # 12,900 um2: dropped
    cv2.circle(picture, (250, 150), 60, PINK, -1)
    cv2.circle(picture, (250, 130), 7, GLASS, -1)  # 9,900 um2: filled
    cv2.circle(picture, (250, 170), 20, GLASS, -1)  # 80,000 um2: stays a hole
    found = tissue_of(picture, SPEC, mpp=8.0)
    assert not found[100, 100]
    assert found[130, 250]
    assert not found[170, 250]
    keeping = tissue_of(picture, SPEC.with_values(min_area_um2=5000.0, max_hole_um2=200_000.0), mpp=8.0)
    assert keeping[100, 100]
    assert keeping[170, 250]


def test_a_slide_smaller_than_a_mask_pixel():
    class Speck:
        info = SlideInfo("a", "a", (Level(Size(4, 4), 1.0),), Mpp.square(0.5), "manifest", None)

        def read_region(self, location, level, size):
            return np.full((size[1], size[0], 3), 120, np.uint8)

        def close(self): ...

    found = find_tissue(Speck(), SPEC)
    assert found.mask.shape == (1, 1)
    assert found.mpp_x == 2.0
    assert found.level0_px_per_mask_px == (4.0, 4.0)


def crc01_cells() -> tuple[np.ndarray, np.ndarray]:
    """Class of each cell, uint8 [167, 202], and its boxes, float64 [N, 4]."""
    grid = np.load(SHARED / "data" / "truth" / "crc01" / "class_grid_228x167.npy")[:, :202]
    rows, columns = np.mgrid[: grid.shape[0], : grid.shape[1]]
    side = np.full(grid.size, 86.154)
    return grid, np.stack([columns.ravel() * 86.154, rows.ravel() * 86.154, side, side], axis=1)


def test_crc01_against_another_tools_tissue_classes(real):
    found = real("crc01.tif")
    grid, boxes = crc01_cells()
    predicted = (found.fraction(boxes) >= 0.5).reshape(grid.shape)
    truth = (grid != 0) & (grid != 255)
    hit = (predicted & truth).sum()
    assert hit / predicted.sum() > 0.965  # measured .974
    assert hit / truth.sum() > 0.985  # measured .992
    recall = {name: predicted[grid == index].mean() for name, index in (("fat", 4), ("mucin", 5), ("tumour", 3))}
    assert min(recall.values()) > 0.97, recall
    assert max(found.thumbnail.shape) == 1024


@pytest.mark.parametrize(
    ("name", "mpp", "truth", "least"),
    [("cmu-1-small-region", None, "cmu-1-small-region", 0.87), ("tcga-cr-7395-01a-01-ts1", 0.5, "tcga-cr-7395", 0.91)],
)
def test_real_slides_against_histolab(real, name, mpp, truth, least):
    found = real(f"{name}.svs", mpp).mask
    other = np.load(SHARED / "data" / "truth" / "masks" / f"histolab_tissue-mask-{truth}.npy")
    resized = cv2.resize(found.astype(np.uint8), other.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    assert iou(resized, other) > least


def test_real_oddities(real):
    assert real("absurd-mpp.tiff", 0.5).share == 1.0
    assert real("invalid-resolution.tif", 0.5).share == 0.0
    assert len(real("two-pieces.tif").polygons()) == 2
    assert real("flat-kidney.tif", 8.0).share < 0.02
    assert not real("tiny-16px.svs").mask.any()
    with pytest.raises(TileReadError, match="Bogus"):
        real("unreadable.svs")
    with pytest.raises(ScaleError, match="no mpp"):
        real("flat-kidney.tif")
