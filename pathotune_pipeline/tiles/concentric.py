"""Grids of several scales that share centres: the same place seen from nearer and from farther."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathotune_pipeline.slides.pyramid import plan_region
from pathotune_pipeline.slides.slide import SlideInfo
from pathotune_pipeline.tiles.grid import ROUNDING_PX, TileGrid
from pathotune_pipeline.tissue.mask import TissueMask


def concentric(grid: TileGrid, info: SlideInfo, *, mask: TissueMask, mpps: Sequence[float]) -> list[TileGrid]:
    """For each tile of a grid the tiles of the same side in pixels at other scales, around the same centre.

    Centres agree to half a level-0 pixel, as corners are whole pixels. A coarser tile near the slide's edge reaches over
    it: it is read as it is, white outside, and counted in `beyond_edge`; nothing is moved inwards, which would move the
    centre, and nothing is dropped, so that tile i of every grid belongs to tile i of the first.

    Args:
        grid: the tiles around whose centres the others lie.
        info: facts of their slide.
        mask: its tissue; outside the slide there is none.
        mpps: um/px of the other grids.

    Returns:
        One grid for each of `mpps`, each as long as `grid`, to be read by `read_tiles`. Its `stride_level0` is that of
        `grid`.

    Raises:
        ScaleError: no mpp, or the slide is too coarse for one of `mpps`.
    """
    centres = grid.coords + np.array(grid.extent_level0) / 2  # [N, 2]
    around = []
    for mpp in mpps:
        plan = plan_region(info, mpp, (grid.tile_px, grid.tile_px))
        extent = np.array(plan.extent_level0)
        coords = np.rint(centres - extent / 2).astype(np.int64)
        boxes = np.concatenate([coords, np.broadcast_to(extent, coords.shape)], axis=1)  # [N, 4]
        limit = np.array([info.size.width, info.size.height]) + ROUNDING_PX
        beyond = ((coords < 0) | (coords + extent > limit)).any(axis=1)
        around.append(
            TileGrid(
                coords=coords,
                tissue_fraction=mask.fraction(boxes),
                tile_px=grid.tile_px,
                mpp=mpp,
                level=plan.level,
                shrink=plan.shrink,
                extent_level0=plan.extent_level0,
                stride_level0=grid.stride_level0,
                read_size_px=plan.read_size_px,
                enlargement=plan.enlargement,
                counts=grid.counts,
                beyond_edge=int(beyond.sum()),
            )
        )
    return around
