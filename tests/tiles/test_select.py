"""Filters that look at pixels, and the cap: what goes, what is counted, and that chance is seeded."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo
from pathotune_pipeline.tiles import TileGrid, TileSpec, select_tiles, tile_slide
from pathotune_pipeline.tiles.select import measure, sample
from pathotune_pipeline.tissue import TissueMask

TILE, ACROSS, DOWN = 64, 12, 10
WHITE, BLACK, BLURRED, BROKEN = {(0, 0), (5, 2)}, {(3, 3)}, {(7, 7), (8, 7), (9, 7)}, {(11, 9)}


class MadeSlide:
    """64 px cells of sharp texture at 0.5 um/px; some are white, black, blurred or cannot be read."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(90, 190, (DOWN * TILE // 8, ACROSS * TILE // 8, 3), dtype=np.uint8)
        self.pixels = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
        soft = cv2.GaussianBlur(self.pixels, (0, 0), 14)
        for cells, value in ((WHITE, 240), (BLACK, 5)):
            for column, row in cells:
                self._cell(self.pixels, column, row)[:] = value
        for column, row in BLURRED:
            self._cell(self.pixels, column, row)[:] = self._cell(soft, column, row)
        self.info = SlideInfo(
            "made", "made", (Level(Size(ACROSS * TILE, DOWN * TILE), 1.0),), Mpp.square(0.5), "openslide", None
        )

    @staticmethod
    def _cell(pixels, column, row):
        return pixels[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]

    def read_region(self, location, level, size):
        x, y = location
        if (x // TILE, y // TILE) in BROKEN:
            raise TileReadError("damaged")
        return self.pixels[y : y + size[1], x : x + size[0]].copy()

    def close(self):
        pass


def grid_of(slide: MadeSlide) -> TileGrid:
    size = slide.info.size
    mask = np.ones((DOWN, ACROSS), bool)
    mask[:, :1] = False
    mask[0, 0] = True
    found = TissueMask(mask, TILE * 0.5, TILE * 0.5, Mpp.square(0.5), size, np.zeros((4, 4, 3), np.uint8))
    return tile_slide(slide.info, found, TileSpec(), mpp=0.5, tile_px=TILE)


def cells(grid: TileGrid) -> set[tuple[int, int]]:
    return {(int(x) // TILE, int(y) // TILE) for x, y in grid.coords}


def test_the_defaults_read_nothing_and_change_nothing():
    grid = grid_of(MadeSlide())
    assert select_tiles(None, grid, TileSpec(), content="") is grid  # type: ignore[arg-type]
    assert grid.counts == (("grid", 120), ("tissue", 111))


@pytest.mark.parametrize("threads", [1, 3])
def test_each_filter_drops_its_own_and_is_counted(threads):
    slide = MadeSlide()
    grid = grid_of(slide)
    spec = TileSpec(max_white=0.5, max_black=0.5, min_sharpness=150.0)
    left = select_tiles(slide, grid, spec, content="a", threads=threads)
    assert left.counts == (("grid", 120), ("tissue", 111), ("white", 109), ("black", 108), ("blur", 105))
    assert cells(grid) - cells(left) == WHITE | BLACK | BLURRED
    assert cells(left) >= BROKEN  # what cannot be read is told later, not dropped in silence
    order = left.coords[:, 1] * 10_000 + left.coords[:, 0]
    assert (np.diff(order) > 0).all()
    assert len(left.tissue_fraction) == len(left)
    only = select_tiles(slide, grid, TileSpec(max_white=0.5), content="a")
    assert cells(grid) - cells(only) == WHITE
    assert [name for name, _ in only.counts] == ["grid", "tissue", "white"]


def test_the_cap_draws_by_seed_and_content_in_raster_order():
    grid = grid_of(MadeSlide())

    def drawn(most: int, seed: int = 0, content: str = "a") -> set[tuple[int, int]]:
        spec = TileSpec(max_tiles=most, sample_seed=seed)
        left = select_tiles(None, grid, spec, content=content)  # type: ignore[arg-type]
        assert len(left) == min(most, len(grid))
        assert left.counts[-1] == ("cap", len(left))
        assert (np.diff(left.coords[:, 1] * 10_000 + left.coords[:, 0]) > 0).all()
        return cells(left)

    assert drawn(30) == drawn(30)
    assert drawn(30) != drawn(30, seed=1)
    assert drawn(30) != drawn(30, content="b")
    assert drawn(10) < drawn(30)
    assert drawn(500) == cells(grid)


def test_sampling_is_uniform_and_pinned():
    hits = np.zeros(20)
    for seed in range(3000):
        hits[sample(20, 5, seed=seed, content="x")] += 1
    assert hits.sum() == 15_000
    assert np.abs(hits - 750).max() < 5 * (3000 * 0.25 * 0.75) ** 0.5
    # The numbers are NumPy's promise: should they change, every capped grid would.
    assert sample(100, 6, seed=0, content="0" * 64).tolist() == [10, 52, 57, 92, 93, 99]


def test_measures_of_plain_pixels():
    assert measure(np.full((16, 16, 3), 230, np.uint8)) == (1.0, 0.0, 0.0)
    assert measure(np.full((16, 16, 3), 10, np.uint8)) == (0.0, 1.0, 0.0)
    pink = np.zeros((16, 16, 3), np.uint8)
    pink[:] = (250, 200, 230)
    assert measure(pink) == (0.0, 0.0, 0.0)


def test_counts_survive_the_store(tmp_path):
    from pathotune_pipeline.features.persist import grid_facts, load_grid
    from pathotune_pipeline.store.layout import SetName
    from pathotune_pipeline.store.store import FeatureStore

    slide = MadeSlide()
    spec = TileSpec(max_white=0.5, max_tiles=20)
    grid = replace(select_tiles(slide, grid_of(slide), spec, content="a"), beyond_edge=3)
    store, name = FeatureStore(tmp_path), SetName("tiles", "64px-0.5mpp", "0" * 12)
    store.initialise()
    with store.stage("s", "s", name, "1" * 64) as staged:
        staged.put("coords", grid.coords)
        staged.put("tissue_fraction", grid.tissue_fraction)
        head = {"slide_id": "s", "set": str(name), "fingerprint": "1" * 64, "group": f"s/{name.group('1' * 12)}"}
        staged.commit({**head, "geometry": grid_facts(grid)}, {**head, "geometry": grid_facts(grid)})
    record = store.record(name, "s", "1" * 64)
    again = load_grid(store, record)
    assert again.counts == grid.counts
    assert again.beyond_edge == 3
    assert again.plan == grid.plan
    assert json.loads(json.dumps(grid_facts(grid)))["counts"][0] == ["grid", 120]
