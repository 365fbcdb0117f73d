from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo, SlideSpec, open_slide
from pathotune_pipeline.tiles import TileGrid, TileSpec, read_tile, read_tiles, tile_slide
from pathotune_pipeline.tissue import TissueMask

MARKS_UM = [(x, y) for y in (61.0, 187.0, 333.0, 421.0) for x in (58.0, 211.0, 349.0, 467.0, 583.0)]
RADIUS_UM = 9.0
SIZE_UM = (640.0, 480.0)


def draw(mpp: float) -> np.ndarray:
    """Black discs at known micrometres on white."""
    width, height = round(SIZE_UM[0] / mpp), round(SIZE_UM[1] / mpp)
    y, x = (np.mgrid[:height, :width] + 0.5) * mpp
    picture = np.full((height, width, 3), 250, np.uint8)
    for mark_x, mark_y in MARKS_UM:
        picture[(x - mark_x) ** 2 + (y - mark_y) ** 2 <= RADIUS_UM**2] = 20
    return picture


def write(path: Path, mpp: float, factors: tuple[int, ...]) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for index, factor in enumerate(factors):
            tiff.write(
                draw(mpp * factor), tile=(128, 128), compression="jpeg", compressionargs={"level": 95},
                photometric="rgb", subfiletype=1 if index else 0, metadata=None,
                resolution=(1e4 / mpp / factor,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def whole(info: SlideInfo) -> TissueMask:
    assert info.mpp is not None
    size = info.size
    mpp_x, mpp_y = size.width * info.mpp.x / 4, size.height * info.mpp.y / 4
    return TissueMask(np.ones((4, 4), bool), mpp_x, mpp_y, info.mpp, size, np.zeros((4, 4, 3), np.uint8))


def grid_of(info: SlideInfo, mpp: float, tile_px: int) -> TileGrid:
    return tile_slide(info, whole(info), TileSpec(min_tissue=0), mpp=mpp, tile_px=tile_px)


@pytest.mark.parametrize("reader", ["jpeg", "openslide", "tiffslide"])
@pytest.mark.parametrize(
    ("slide_mpp", "factors", "target", "tile_px"),
    [
        (0.5, (1,), 0.5, 200),
        (0.5, (1, 4), 1.0, 100),
        (0.5, (1, 2, 8), 1.3, 90),
        (0.25, (1, 4), 1.1, 97),
        (0.47, (1, 2), 0.98, 120),
        (0.5, (1,), 0.48, 150),
        (1.0, (1,), 2.7, 60),
    ],
)
def test_marks_lie_where_their_micrometres_say(tmp_path, reader, slide_mpp, factors, target, tile_px):
    slide = open_slide(write(tmp_path / "marks.tif", slide_mpp, factors), SlideSpec(reader=reader))
    grid = grid_of(slide.info, target, tile_px)
    mpp = slide.info.mpp
    assert mpp is not None
    found = 0
    for index, (x0, y0) in enumerate(grid.coords * (mpp.x, mpp.y)):
        dark = (250.0 - read_tile(slide, grid, index).mean(axis=2)).clip(8) - 8
        rows, columns = np.mgrid[:tile_px, :tile_px]
        for mark_x, mark_y in MARKS_UM:
            x, y = (mark_x - x0) / target, (mark_y - y0) / target  # where the mark must be in this tile, in pixels
            reach = RADIUS_UM / target + 3
            if not (reach < x < tile_px - reach and reach < y < tile_px - reach):
                continue
            part = dark * ((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < reach**2)
            centre_x, centre_y = ((columns + 0.5) * part).sum() / part.sum(), ((rows + 0.5) * part).sum() / part.sum()
            level_px_um = slide_mpp * factors[grid.level] if grid.level < len(factors) else slide_mpp
            assert abs(centre_x - x) * target < 0.8 * max(level_px_um, 0.5)
            assert abs(centre_y - y) * target < 0.8 * max(level_px_um, 0.5)
            area_um2 = part.sum() / 222.0 * target**2
            assert area_um2 == pytest.approx(np.pi * RADIUS_UM**2, rel=0.06)
            found += 1
    slide.close()
    assert found >= 5


class PatchySlide:
    """Level-0 pixels tell their x; reads that touch x = 300..310 fail."""

    info = SlideInfo("array", "array", (Level(Size(1000, 200), 1.0),), Mpp.square(0.5), "manifest", None)

    def read_region(self, location, level, size):
        if location[0] <= 310 and location[0] + size[0] > 300:
            raise TileReadError(f"broken at {location}")
        return np.full((size[1], size[0], 3), location[0] // 100 + 1, np.uint8)

    def close(self):
        pass


def test_unreadable_tiles_are_marked_and_never_white():
    slide = PatchySlide()
    grid = grid_of(slide.info, 0.5, 100)
    out = np.full((20, 100, 100, 3), 99, np.uint8)
    valid, reason = read_tiles(slide, grid, 0, 20, out)
    assert valid.dtype == bool
    assert np.nonzero(~valid)[0].tolist() == [3, 13]
    assert reason == "broken at (300, 0)"
    assert not out[~valid].any()
    assert [int(tile[0, 0, 0]) for tile in out] == [1, 2, 3, 0, 5, 6, 7, 8, 9, 10] * 2
    good, none = read_tiles(slide, grid, 4, 6, out[:2])
    assert good.all()
    assert none is None
    with pytest.raises(TileReadError, match="broken"):
        read_tile(slide, grid, 3)


def test_read_tile_fills_what_it_is_given():
    slide = PatchySlide()
    grid = grid_of(slide.info, 1.0, 50)
    out = np.zeros((50, 50, 3), np.uint8)
    assert read_tile(slide, grid, 1, out) is out
    assert (out == 2).all()


def test_threads_read_the_same_pixels(tmp_path):
    slide = open_slide(write(tmp_path / "marks.tif", 0.5, (1, 4)))
    grid = grid_of(slide.info, 0.9, 64)
    count = len(grid)
    alone, together = (np.zeros((count, 64, 64, 3), np.uint8) for _ in range(2))
    read_tiles(slide, grid, 0, count, alone)
    spans = [(start, min(start + 5, count)) for start in range(0, count, 5)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda span: read_tiles(slide, grid, *span, together[span[0] : span[1]]), spans))
    slide.close()
    assert all(valid.all() for valid, _ in results)
    np.testing.assert_array_equal(alone, together)


def test_crc01_reads_at_its_own_scale():
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "slides" / "crc01.tif"
    if not path.exists():
        pytest.skip("../shared is absent")
    slide = open_slide(path)
    grid = grid_of(slide.info, 2.6, 224)
    assert (grid.level, grid.read_size_px) == (1, (224, 224))
    out = np.zeros((4, 224, 224, 3), np.uint8)
    valid, _ = read_tiles(slide, grid, 700, 704, out)
    slide.close()
    assert valid.all()
    assert out.std() > 10
