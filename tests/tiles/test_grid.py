from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pathotune_pipeline.errors import ScaleError, SpecError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo
from pathotune_pipeline.tiles import TileSpec, grid_coords, tile_slide
from pathotune_pipeline.tissue import TissueMask


def info_of(size: Size, mpp: Mpp, downsamples=(1.0,)) -> SlideInfo:
    levels = tuple(
        Level(Size(max(1, int(size.width / factor)), max(1, int(size.height / factor))), factor)
        for factor in downsamples
    )
    return SlideInfo("array", "array", levels, mpp, "manifest", None)


def all_tissue(info: SlideInfo, mask: np.ndarray | None = None) -> TissueMask:
    assert info.mpp is not None
    mask = np.ones((8, 8), bool) if mask is None else mask
    height, width = mask.shape
    return TissueMask(
        mask, info.size.width * info.mpp.x / width, info.size.height * info.mpp.y / height, info.mpp, info.size,
        np.zeros((8, 8, 3), np.uint8),
    )  # fmt: skip


def tile(info: SlideInfo, mpp: float, tile_px: int, **values: Any):
    return tile_slide(info, all_tissue(info), TileSpec(**values), mpp=mpp, tile_px=tile_px)


def test_a_plain_grid():
    grid = tile(info_of(Size(1000, 600), Mpp.square(0.25), (1.0, 4.0)), 0.5, 128)
    assert grid.coords.dtype == np.int64
    assert grid.coords.tolist() == [[x, y] for y in (0, 256) for x in (0, 256, 512)]
    assert (grid.level, grid.shrink, grid.read_size_px, grid.enlargement) == (0, 2.0, (256, 256), 0.0)
    assert grid.tissue_fraction.dtype == np.float32
    assert (grid.tissue_fraction == 1).all()
    assert tile(info_of(Size(1000, 600), Mpp.square(0.25), (1.0, 4.0)), 1.0, 64).read_size_px == (64, 64)


def test_a_slide_of_exactly_whole_tiles_keeps_the_last_ones():
    assert len(tile(info_of(Size(1024, 512), Mpp.square(0.5)), 0.5, 256)) == 8
    assert len(tile(info_of(Size(1023, 511), Mpp.square(0.5)), 0.5, 256)) == 3
    assert len(tile(info_of(Size(16, 16), Mpp.square(0.5)), 0.5, 256)) == 0
    assert tile(info_of(Size(16, 16), Mpp.square(0.5)), 0.5, 256).coords.shape == (0, 2)


def test_least_tissue_decides():
    info = info_of(Size(800, 200), Mpp.square(0.5))
    mask = all_tissue(info, np.array([[1, 1, 0, 1, 0, 0, 1, 0]], bool))
    for least, kept in ((0.0, [0, 200, 400, 600]), (0.5, [0, 200, 600]), (0.51, [0])):
        grid = tile_slide(info, mask, TileSpec(min_tissue=least), mpp=1.0, tile_px=100)
        assert grid.coords[:, 0].tolist() == kept


def test_refusals():
    info = info_of(Size(1000, 1000), Mpp.square(0.5))
    with pytest.raises(SpecError, match="overlap_px"):
        tile(info, 0.5, 64, overlap_px=64)
    with pytest.raises(ScaleError, match="invent"):
        tile(info, 0.4, 64)
    with pytest.raises(SpecError, match="min_tissue"):
        TileSpec.parse({"min_tissue": 1.5})
    with pytest.raises(SpecError, match="overlap_px"):
        TileSpec.parse({"overlap": 3})


@settings(max_examples=80, deadline=None)
@given(
    base=st.floats(0.12, 1.0), skew=st.floats(1.0, 1.05), shrink=st.floats(0.96, 20.0), tile_px=st.integers(8, 512),
    overlap=st.floats(0, 0.9), width=st.integers(1, 20_000), height=st.integers(1, 20_000),
    steps=st.lists(st.floats(1.9, 4.1), max_size=4),
)  # fmt: skip
def test_every_tile_has_its_physical_size_and_lies_inside(base, skew, shrink, tile_px, overlap, width, height, steps):
    mpp = Mpp(base, base * skew)
    info = info_of(Size(width, height), mpp, (1.0, *np.cumprod(steps).tolist()))
    target = mpp.mean * shrink
    overlap_px = int(overlap * tile_px)
    assume((tile_px - overlap_px) * target >= 1.01 * max(mpp.x, mpp.y))  # shorter steps are refused
    steps_um = (tile_px - overlap_px) * target
    assume(width * mpp.x * height * mpp.y / steps_um**2 < 200_000)  # tiles; more take seconds and show no more
    grid = tile(info, target, tile_px, overlap_px=overlap_px, min_tissue=0.0)
    downsample = info.levels[grid.level].downsample
    for axis, scale, length in ((0, mpp.x, width), (1, mpp.y, height)):
        assert grid.extent_level0[axis] * scale == pytest.approx(tile_px * target)
        assert grid.stride_level0[axis] * scale == pytest.approx((tile_px - overlap_px) * target)
        read_um = grid.read_size_px[axis] * downsample * scale
        assert abs(read_um - tile_px * target) <= 0.5 * downsample * scale + 1e-6
        starts = np.unique(grid.coords[:, axis])
        np.testing.assert_array_equal(starts, np.rint(np.arange(len(starts)) * grid.stride_level0[axis]))
        assert (starts + grid.extent_level0[axis] <= length + 0.5).all()
        if len(grid):  # and not one more tile would have fitted
            assert len(starts) * grid.stride_level0[axis] + grid.extent_level0[axis] > length - 0.5
    assert downsample * mpp.mean <= target * 1.05 * (1 + 1e-6)
    order = grid.coords[:, 1] * (width + 1) + grid.coords[:, 0]
    assert (np.diff(order) > 0).all()


def test_grid_coords_is_anchored_and_rounds_each_corner():
    coords = grid_coords(Size(40, 10), (10.4, 10.0), stride=(10.4, 10.0))
    assert coords.tolist() == [[0, 0], [10, 0], [21, 0]]
