"""Reading tiles at their exact scale, into memory that is already there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.slides.pyramid import read_planned
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tiles.grid import TileGrid

Transform = Callable[[np.ndarray], np.ndarray]
"""What is done to the pixels of each tile, uint8 [P, P, 3] to the same; several threads may call it at once."""


def read_tile(slide: Slide, grid: TileGrid, index: int, out: np.ndarray | None = None) -> np.ndarray:
    """Read one tile.

    Args:
        slide: the open slide the grid was made for.
        grid: its tiles.
        index: which one.
        out: uint8 [tile_px, tile_px, 3] to fill, or None for a new array.

    Returns:
        uint8 [tile_px, tile_px, 3] at exactly `grid.mpp`; `out` where it was given.

    Raises:
        TileReadError: the file's data cannot be decoded there.
    """
    x, y = grid.coords[index]
    return read_planned(slide, grid.plan, location=(int(x), int(y)), out=out)


def read_tiles(
    slide: Slide, grid: TileGrid, start: int, stop: int, out: np.ndarray, *, transform: Transform | None = None
) -> tuple[np.ndarray, str | None]:
    """Read a span of tiles. Several threads may do so on one slide.

    A tile that cannot be read is zeros and not valid: no white tile ever stands in for it.

    Args:
        slide: the open slide the grid was made for.
        grid: its tiles.
        start: first tile.
        stop: one past the last tile.
        out: uint8 [stop - start, tile_px, tile_px, 3] to fill.
        transform: applied to each tile that was read, such as a stain normalisation; tiles that were not stay zeros.

    Returns:
        bool [stop - start], whether each was read; and the reason of the first that was not, or None.
    """
    valid = np.ones(stop - start, bool)
    reason: str | None = None
    for place, index in enumerate(range(start, stop)):
        try:
            read_tile(slide, grid, index, out[place])
            if transform is not None:
                out[place] = transform(out[place])
        except TileReadError as error:
            out[place] = 0
            valid[place] = False
            reason = reason or str(error)
    return valid, reason
