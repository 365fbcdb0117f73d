from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile

from pathotune_pipeline.errors import ScaleError, TileReadError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import (
    Level,
    SlideInfo,
    SlideSpec,
    open_slide,
    plan_region,
    read_at_mpp,
    read_overview,
)  # fmt: skip
from pathotune_pipeline.slides.pixels import over_white
from pathotune_pipeline.slides.pyramid import resample


class ArraySlide:
    """A slide in memory; levels given as (width, height, downsample)."""

    def __init__(self, pixels: np.ndarray, mpp: Mpp, levels: list[np.ndarray] | None = None) -> None:
        self.levels = [pixels, *(levels or [])]
        sizes = [Size(level.shape[1], level.shape[0]) for level in self.levels]
        self.info = SlideInfo(
            "array", "array", tuple(Level(size, sizes[0].width / size.width) for size in sizes), mpp, "manifest", None
        )
        self.largest = 0

    def read_region(self, location, level, size):
        self.largest = max(self.largest, size[0] * size[1])
        downsample = self.info.levels[level].downsample
        x, y = round(location[0] / downsample), round(location[1] / downsample)
        out = np.full((size[1], size[0], 3), 255, np.uint8)
        part = self.levels[level][max(y, 0) : y + size[1], max(x, 0) : x + size[0]]
        out[: part.shape[0], : part.shape[1]] = part
        return out

    def close(self):
        pass


@pytest.mark.parametrize("reader", ["jpeg", "openslide", "tiffslide"])
def test_readers_agree_with_what_was_written(pyramid, reader):
    path, pixels = pyramid
    slide = open_slide(path, SlideSpec(reader=reader))
    assert slide.info.reader == reader
    for location, level, size in (((0, 0), 0, (640, 480)), ((100, 60), 0, (130, 70)), ((64, 128), 2, (33, 21))):
        factor = (1, 2, 4)[level]
        x, y = location[0] // factor, location[1] // factor
        small = cv2.resize(pixels, (640 // factor, 480 // factor), interpolation=cv2.INTER_AREA)
        wanted = small[y : y + size[1], x : x + size[0]].astype(int)
        read = slide.read_region(location, level, size)
        assert read.dtype == np.uint8
        assert np.abs(read - wanted).mean() < 2.5


@pytest.mark.parametrize("reader", ["jpeg", "openslide", "tiffslide", "image"])
def test_outside_the_slide_is_white(pyramid, reader):
    slide = open_slide(pyramid[0], SlideSpec(reader=reader))
    corner = slide.read_region((600, 440), 0, (80, 80))
    assert (corner[:, 41:] == 255).all()
    assert (corner[41:] == 255).all()
    assert corner[:40, :40].min() < 240
    assert (slide.read_region((5000, 5000), 0, (8, 8)) == 255).all()
    assert (slide.read_region((-20, -20), 0, (20, 20)) == 255).all()


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_flat_tiffs_are_read_by_strips(tmp_path, compression):
    pixels = np.full((200, 90, 3), 240, np.uint8)
    pixels[50:120, 20:60] = (150, 60, 120)
    path = tmp_path / "flat.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", compression=compression, rowsperstrip=16, resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    slide = open_slide(path)
    assert (slide.info.reader, slide.info.mpp_source) == ("image", "tiff-resolution")
    assert slide.info.mpp is not None
    assert slide.info.mpp.x == pytest.approx(0.5)
    region = slide.read_region((10, 40), 0, (70, 90))
    assert np.abs(region.astype(int) - pixels[40:130, 10:80]).mean() < (3 if compression == "jpeg" else 1e-9)


def test_grey_tiffs_and_odd_ones(tmp_path):
    from pathotune_pipeline.errors import UnreadableSlideError

    grey, deep = tmp_path / "grey.tif", tmp_path / "deep.tif"
    tifffile.imwrite(grey, np.full((40, 40), 77, np.uint8), photometric="minisblack")
    tifffile.imwrite(deep, np.full((40, 40, 3), 777, np.uint16), photometric="rgb")
    assert (open_slide(grey).read_region((0, 0), 0, (40, 40)) == 77).all()
    with pytest.raises(UnreadableSlideError, match="uint16"):
        open_slide(deep)


def test_alpha_is_composited_over_white():
    rgba = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [100, 200, 0, 51]]], np.uint8)
    assert over_white(rgba)[0].tolist() == [[10, 20, 30], [255, 255, 255], [224, 244, 204]]


@pytest.fixture
def damaged(tmp_path, write_pyramid):
    """A slide of 5 x 5 blocks whose middle block is broken."""
    path = tmp_path / "smith-john.tif"
    rng = np.random.default_rng(3)
    write_pyramid(path, cv2.resize(rng.integers(0, 255, (20, 20, 3), np.uint8), (320, 320)), mpp=0.5, factors=(1,))
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[12], tiff.pages[0].databytecounts[12]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x07" * count
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("reader", ["jpeg", "openslide", "tiffslide", "image"])
def test_a_damaged_block_fails_alone_for_every_thread(damaged, reader):
    slide = open_slide(damaged, SlideSpec(reader=reader))
    places = [(x, y) for y in range(0, 320, 64) for x in range(0, 320, 64)] * 4

    def read(place):
        try:
            return slide.read_region(place, 0, (64, 64))
        except TileReadError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, places))
    reasons = {place: result for place, result in zip(places, results, strict=True) if isinstance(result, str)}
    assert list(reasons) == [(128, 128)]
    assert sum(isinstance(result, str) for result in results) == 4
    assert "smith" not in reasons[128, 128]


def test_a_closed_slide_says_so(pyramid):
    slide = open_slide(pyramid[0])
    slide.close()
    slide.close()
    with pytest.raises(TileReadError, match="closed"):
        slide.read_region((0, 0), 0, (4, 4))


def test_read_at_mpp_takes_the_level_of_the_rule(pyramid):
    slide = open_slide(pyramid[0])
    assert plan_region(slide.info, 1.0, (64, 64)).level == 1
    assert plan_region(slide.info, 0.97, (64, 64)).level == 1
    assert plan_region(slide.info, 0.9, (64, 64)).level == 0
    enlarged = plan_region(slide.info, 0.48, (100, 100))
    assert enlarged.read_size_px == (96, 96)
    assert enlarged.enlargement == pytest.approx(0.5 / 0.48 - 1)
    with pytest.raises(ScaleError, match="invent"):
        plan_region(slide.info, 0.25, (64, 64))
    assert read_at_mpp(slide, 0.7, location=(10, 20), size_px=(50, 30)).shape == (30, 50, 3)
    direct = slide.read_region((64, 32), 1, (40, 20))
    np.testing.assert_array_equal(read_at_mpp(slide, 1.0, location=(64, 32), size_px=(40, 20)), direct)


def test_axes_of_different_mpp_get_extents_of_their_own():
    plan = plan_region(ArraySlide(np.zeros((500, 500, 3), np.uint8), Mpp(0.50, 0.52)).info, 1.04, (100, 100))
    assert plan.read_size_px == (208, 200)
    assert plan.extent_level0 == pytest.approx((208, 200))


def test_resample_shrinks_by_area_also_beside_an_axis_that_grows():
    pixels = np.random.default_rng(0).integers(0, 255, (96, 200, 3), np.uint8)
    half = cv2.resize(pixels, (100, 96), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resample(pixels, (100, 100)), cv2.resize(half, (100, 100)))
    assert resample(pixels, (200, 96)) is pixels


@pytest.mark.parametrize(
    ("height", "width", "mpp"), [(1100, 1333, 7.3), (1024, 512, 4.0), (700, 300, 0.5), (70, 90, 40)]
)
def test_overview_in_strips_equals_shrinking_the_whole(height, width, mpp):
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    slide = ArraySlide(pixels, Mpp(0.5, 0.5))
    overview, mpp_x, mpp_y = read_overview(slide, mpp)
    rows, columns = overview.shape[:2]
    assert mpp_x * columns == pytest.approx(width * 0.5)
    assert mpp_y * rows == pytest.approx(height * 0.5)
    assert columns == max(1, round(width * 0.5 / mpp))
    whole = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA)
    assert np.abs(overview.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 2), (1, 4), (8, 2), (64, 64)])
def test_an_overview_by_halves_is_the_exact_mean_rounded_half_to_even(across, down):
    # 0 to 3: many blocks have means that end in a half.
    pixels = np.random.default_rng(2).integers(0, 4, (down * 23, across * 31, 3), np.uint8)
    slide = ArraySlide(pixels, Mpp(1.0 / across, 1.0 / down))
    overview, _, _ = read_overview(slide, 1.0)
    means = pixels.reshape(23, down, 31, across, 3).mean(axis=(1, 3))
    assert (means % 1 == 0.5).any() == (across * down > 1)
    np.testing.assert_array_equal(overview, np.rint(means).astype(np.uint8))


def test_overview_is_bounded_and_never_enlarged():
    slide = ArraySlide(np.full((3000, 9000, 3), 90, np.uint8), Mpp(0.5, 0.5))
    overview, mpp_x, _ = read_overview(slide, 0.5, max_pixels=10_000)
    assert overview.shape[0] * overview.shape[1] <= 10_200
    assert mpp_x == pytest.approx(9000 * 0.5 / overview.shape[1])
    assert slide.largest <= 512 * 4096
    assert (overview == 90).all()
    tiny, tiny_x, tiny_y = read_overview(ArraySlide(np.full((5, 7, 3), 9, np.uint8), Mpp(20.0, 20.0)), 8.0)
    assert (tiny.shape, tiny_x, tiny_y) == ((5, 7, 3), 20.0, 20.0)
    speck, speck_x, _ = read_overview(ArraySlide(np.full((4, 4, 3), 9, np.uint8), Mpp(0.5, 0.5)), 8.0)
    assert (speck.shape, speck_x) == ((1, 1, 3), 2.0)


def test_overview_uses_the_pyramid():
    pixels = np.zeros((800, 800, 3), np.uint8)
    slide = ArraySlide(pixels, Mpp(0.5, 0.5), [np.full((200, 200, 3), 33, np.uint8)])
    overview, _, _ = read_overview(slide, 8.0)
    assert overview.shape == (50, 50, 3)
    assert (overview == 33).all()
