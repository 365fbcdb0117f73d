"""Which tiles of a grid are kept: filters that look at pixels, and a cap with seeded sampling.

The filters look at each tile once, at a coarse scale, before anything is encoded; so the coordinates that are committed
are final. A tile that cannot be read there is kept: it is marked invalid when its features are made, not dropped in
silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.slides.pyramid import plan_region, read_planned
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tiles.grid import TileGrid, TileSpec

WHITE_LEVEL, BLACK_LEVEL = 220, 20
"""A pixel is white where its darkest channel is at least this, black where its brightest is at most that."""


def select_tiles(slide: Slide, grid: TileGrid, spec: TileSpec, *, content: str, threads: int = 1) -> TileGrid:
    """Apply the filters and the cap that a Spec asks for; with its defaults the grid comes back as it is.

    Args:
        slide: the open slide the grid was made for.
        grid: tiles with enough tissue, from `tile_slide`.
        spec: `max_white`, `max_black`, `min_sharpness`, `filter_mpp`; `max_tiles`, `sample_seed`.
        content: what stands for the slide's content, such as its content hash: each slide is sampled by itself, and the
            same slide alike wherever it lies.
        threads: that read tiles for the filters. The result does not depend on it.

    Returns:
        The tiles that are left, in raster order, with `counts` after each filter that was on.
    """
    tests: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = []
    if spec.max_white < 1:
        tests.append(("white", lambda seen: seen[:, 0] <= spec.max_white))
    if spec.max_black < 1:
        tests.append(("black", lambda seen: seen[:, 1] <= spec.max_black))
    if spec.min_sharpness > 0:
        tests.append(("blur", lambda seen: seen[:, 2] >= spec.min_sharpness))
    if tests:
        measures = measure_tiles(slide, grid, spec.filter_mpp, threads=threads)
        unread = np.isnan(measures).any(axis=1)
        kept = np.ones(len(grid), bool)
        counts = list(grid.counts)
        for name, passes in tests:
            kept &= passes(measures) | unread
            counts.append((name, int(kept.sum())))
        grid = _take(grid, np.flatnonzero(kept), counts)
    if spec.max_tiles is not None:
        places = sample(len(grid), spec.max_tiles, seed=spec.sample_seed, content=content)
        grid = _take(grid, places, [*grid.counts, ("cap", len(places))])
    return grid


def sample(count: int, most: int, *, seed: int, content: str) -> np.ndarray:
    """Draw places uniformly at random, without replacement.

    Every place gets a random number from seed and content, and the lowest are taken; so of two caps the smaller one's
    places are among the larger one's. NumPy promises these numbers for every version and machine.

    Args:
        count: how many places there are.
        most: how many are taken where there are more.
        seed: the user's.
        content: the slide's.

    Returns:
        int64 [min(count, most)], rising.
    """
    if count <= most:
        return np.arange(count, dtype=np.int64)
    entropy = int.from_bytes(hashlib.sha256(f"{seed}:{content}".encode()).digest()[:16], "big")
    lots = np.random.PCG64(entropy).random_raw(count)
    return np.sort(np.argsort(lots, kind="stable")[:most]).astype(np.int64)


def measure_tiles(slide: Slide, grid: TileGrid, mpp: float, *, threads: int = 1) -> np.ndarray:
    """Look at every tile at a coarse scale.

    Args:
        slide: the open slide the grid was made for.
        grid: its tiles.
        mpp: um/px; a grid that is coarser is looked at in its own.
        threads: that read.

    Returns:
        float64 [N, 3]: share of white pixels, share of black ones, sharpness; NaN where a tile cannot be read.
    """
    mpp = max(mpp, grid.mpp)
    side = max(1, round(grid.tile_px * grid.mpp / mpp))
    # The side is whole pixels: the scale gives way a little, so that just the tile is looked at.
    plan = plan_region(slide.info, grid.tile_px * grid.mpp / side, (side, side))

    def look(corner: np.ndarray) -> tuple[float, float, float]:
        try:
            return measure(read_planned(slide, plan, location=(int(corner[0]), int(corner[1]))))
        except TileReadError:
            return (float("nan"),) * 3

    if threads <= 1:
        seen = [look(corner) for corner in grid.coords]
    else:
        with ThreadPoolExecutor(threads) as pool:
            seen = list(pool.map(look, grid.coords))
    return np.array(seen, np.float64).reshape(-1, 3)


def measure(rgb: np.ndarray) -> tuple[float, float, float]:
    """What the filters ask of pixels.

    Args:
        rgb: uint8 [h, w, 3].

    Returns:
        Share of white pixels, share of black ones, and sharpness: the variance of the Laplacian of the brightness
        (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000), 0-255 squared.
    """
    white = float((rgb.min(axis=2) >= WHITE_LEVEL).mean())
    black = float((rgb.max(axis=2) <= BLACK_LEVEL).mean())
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return white, black, float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _take(grid: TileGrid, places: np.ndarray, counts: list[tuple[str, int]]) -> TileGrid:
    return replace(grid, coords=grid.coords[places], tissue_fraction=grid.tissue_fraction[places], counts=tuple(counts))
