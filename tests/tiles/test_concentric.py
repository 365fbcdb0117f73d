"""Grids of several scales around the same centres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathotune_pipeline.errors import ScaleError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo, open_slide, read_at_mpp
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tiles import TileSpec, concentric, read_tiles, tile_slide
from pathotune_pipeline.tissue import TissueMask


def info_of(size: Size, mpp: Mpp) -> SlideInfo:
    levels = tuple(Level(Size(round(size.width / f), round(size.height / f)), f) for f in (1.0, 4.0))
    return SlideInfo("made", "made", levels, mpp, "openslide", None)


def whole(info: SlideInfo) -> TissueMask:
    assert info.mpp is not None
    across, down = info.size.width * info.mpp.x / 8, info.size.height * info.mpp.y / 8
    return TissueMask(np.ones((8, 8), bool), across, down, info.mpp, info.size, np.zeros((4, 4, 3), np.uint8))


@settings(deadline=None, max_examples=60)
@given(
    mpp=st.floats(0.2, 0.5), skew=st.floats(1.0, 1.04), base=st.floats(0.5, 1.2),
    factors=st.lists(st.floats(1.0, 9.0), min_size=1, max_size=3), tile_px=st.integers(32, 256),
)  # fmt: skip
def test_centres_agree(mpp, skew, base, factors, tile_px):
    info = info_of(Size(4100, 3300), Mpp(mpp, mpp * skew))
    mask = whole(info)
    grid = tile_slide(info, mask, TileSpec(), mpp=base, tile_px=tile_px)
    around = concentric(grid, info, mask=mask, mpps=[base * factor for factor in factors])
    centres = grid.coords + np.array(grid.extent_level0) / 2
    for factor, other in zip(factors, around, strict=True):
        assert len(other) == len(grid)
        assert other.coords.dtype == np.int64
        assert other.tile_px == tile_px
        assert other.mpp == base * factor
        assert np.abs(other.coords + np.array(other.extent_level0) / 2 - centres).max(initial=0) <= 0.5 + 1e-9
        assert other.extent_level0 == pytest.approx(np.array(grid.extent_level0) * factor)
        assert (other.tissue_fraction <= 1).all()


def test_what_reaches_over_the_edge_is_counted_and_holds_less_tissue():
    info = info_of(Size(1024, 1024), Mpp.square(0.5))
    mask = whole(info)
    grid = tile_slide(info, mask, TileSpec(), mpp=0.5, tile_px=256)  # 4 x 4 tiles
    same, wide = concentric(grid, info, mask=mask, mpps=[0.5, 1.0])
    assert same.beyond_edge == 0
    np.testing.assert_array_equal(same.coords, grid.coords)
    assert wide.beyond_edge == 12
    assert wide.coords[0].tolist() == [-128, -128]
    assert wide.tissue_fraction[[0, 1, 5]] == pytest.approx([0.5625, 0.75, 1.0])
    with pytest.raises(ScaleError, match="invent detail"):
        concentric(grid, info, mask=mask, mpps=[0.1])


def test_pixels_are_those_of_direct_reads_and_white_outside(tmp_path):
    write_slide(tmp_path / "s.tif", size_px=(1024, 1024), seed=3)
    slide = open_slide(tmp_path / "s.tif")
    mask = whole(slide.info)
    grid = tile_slide(slide.info, mask, TileSpec(), mpp=0.5, tile_px=128)
    (wide,) = concentric(grid, slide.info, mask=mask, mpps=[2.0])
    out = np.zeros((len(wide), 128, 128, 3), np.uint8)
    valid, _ = read_tiles(slide, wide, 0, len(wide), out)
    assert valid.all()
    for index in (0, 9, 27, 63):
        x, y = (int(value) for value in wide.coords[index])
        np.testing.assert_array_equal(out[index], read_at_mpp(slide, 2.0, location=(x, y), size_px=(128, 128)))
    assert wide.coords[0].tolist() == [-192, -192]
    assert (out[0][:47] == 255).all()  # 192 px at 0.5 um/px are 48 at 2
    assert (out[0][:, :47] == 255).all()
    assert out[0][49:, 49:].min() < 250
    # The inner quarter of the wide tile is the tile itself, shrunk.
    near = np.zeros((1, 128, 128, 3), np.uint8)
    read_tiles(slide, grid, 27, 28, near)
    small = near[0].reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(out[27][48:80, 48:80] - small).mean() < 6
    slide.close()
