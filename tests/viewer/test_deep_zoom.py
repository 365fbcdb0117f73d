"""Deep zoom tiles: every pixel of the slide once, at its place, in bounded memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pathotune_pipeline.geometry import Size
from pathotune_pipeline.slides.slide import Level
from pathotune_pipeline.viewer.deep_zoom import MOST_READ_PX, OVERLAP_PX, TILE_PX, DeepZoom, cut_tile, read_tile


def drawn(size: Size, downsamples: tuple[int, ...] = (1,)) -> SimpleNamespace:
    """A slide whose red is x and green y of level 0, in steps that 8 bits hold."""
    across = max(1, -(-size.width // 256))

    def read_region(location: tuple[int, int], level: int, wanted: tuple[int, int]) -> np.ndarray:
        step = downsamples[level]
        x = location[0] + np.arange(wanted[0]) * step + (step - 1) / 2
        y = location[1] + np.arange(wanted[1]) * step + (step - 1) / 2
        out = np.zeros((wanted[1], wanted[0], 3), np.uint8)
        out[..., 0], out[..., 1] = x[None, :] / across, y[:, None] / across
        return out

    levels = tuple(Level(Size(size.width // step, size.height // step), float(step)) for step in downsamples)
    return SimpleNamespace(info=SimpleNamespace(size=size, levels=levels), read_region=read_region)


def test_levels_halve_down_to_one_pixel() -> None:
    zoom = DeepZoom(Size(1000, 600))
    assert zoom.last_level == 10
    sizes = [zoom.level_size(level) for level in (10, 9, 1, 0)]
    assert sizes == [Size(1000, 600), Size(500, 300), Size(2, 2), Size(1, 1)]
    assert DeepZoom(Size(1, 1)).last_level == 0
    assert DeepZoom(Size(1025, 3)).last_level == 11
    assert '<Size Width="1000" Height="600"/>' in zoom.xml()


@pytest.mark.parametrize("level", [10, 9, 8])
def test_tiles_put_together_are_the_level(level: int) -> None:
    size = Size(1000, 600)
    slide, zoom = drawn(size), DeepZoom(size)
    whole = zoom.level_size(level)
    picture = np.zeros((whole.height, whole.width, 3), np.uint8)
    for row in range(-(-whole.height // TILE_PX)):
        for column in range(-(-whole.width // TILE_PX)):
            tile = zoom.tile(level, column, row)
            assert tile is not None
            pixels = read_tile(slide, tile)  # type: ignore[arg-type]
            assert pixels is not None
            assert pixels.shape[:2] == (tile.size.height, tile.size.width)
            x, y = tile.left // tile.step, tile.top // tile.step
            picture[y : y + tile.size.height, x : x + tile.size.width] = pixels
    step = 1 << (10 - level)
    centres = (np.arange(whole.width) + 0.5) * step
    assert np.abs(picture[0, :, 0].astype(float) - centres / 4).max() <= 1.0
    assert picture[:, -1, 0].min() > 240


def test_there_are_no_tiles_beside_the_slide() -> None:
    zoom = DeepZoom(Size(1000, 600))
    assert zoom.tile(10, 3, 2) is not None
    for level, column, row in ((11, 0, 0), (-1, 0, 0), (10, 4, 0), (10, 0, 3), (10, -1, 0), (10, 10**9, 0)):
        assert zoom.tile(level, column, row) is None
    inner = zoom.tile(10, 1, 1)
    assert inner is not None
    assert (inner.left, inner.size.width) == (TILE_PX - OVERLAP_PX, TILE_PX + 2 * OVERLAP_PX)


def test_the_coarsest_level_that_is_fine_enough_is_read() -> None:
    size = Size(4096, 4096)
    slide = drawn(size, (1, 4, 16))
    asked: list[tuple[int, tuple[int, int]]] = []
    read = slide.read_region
    slide.read_region = lambda location, level, wanted: (asked.append((level, wanted)), read(location, level, wanted))[
        1
    ]
    zoom = DeepZoom(size)
    for level in (12, 10, 9):
        tile = zoom.tile(level, 0, 0)
        assert tile is not None
        read_tile(slide, tile)
    assert asked == [(0, (255, 255)), (1, (255, 255)), (1, (510, 510))]


def test_a_flat_slide_is_not_read_whole() -> None:
    size = Size(200_000, 200_000)
    slide, zoom = drawn(size), DeepZoom(size)
    slide.read_region = pytest.fail  # reading so much would be the fault
    tile = zoom.tile(8, 0, 0)
    assert tile is not None
    assert (tile.size.width * tile.step) ** 2 > MOST_READ_PX
    assert read_tile(slide, tile) is None  # type: ignore[arg-type]


def test_tiles_of_the_overview_lie_where_those_of_the_file_do() -> None:
    size = Size(1000, 600)
    ramp = np.zeros((150, 250, 3), np.uint8)
    ramp[..., 0] = np.arange(250)[None, :]
    for level, column, row in ((10, 2, 1), (9, 1, 0), (7, 0, 0)):
        tile = DeepZoom(size).tile(level, column, row)
        assert tile is not None
        pixels = cut_tile(ramp, size, tile)
        assert pixels.shape == (tile.size.height, tile.size.width, 3)
        centres = tile.left + (np.arange(tile.size.width) + 0.5) * tile.step
        expected = np.clip(centres / 4 - 0.5, 0, 249)
        assert np.abs(pixels[tile.size.height // 2, :, 0].astype(float) - expected).max() <= 1.0
