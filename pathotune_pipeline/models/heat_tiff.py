"""An attention map as a pyramidal, tiled TIFF that OpenSlide and QuPath open at the slide's scale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.models.field import AttentionField, colours

TILE_PX = 256
_SMALLEST_PX = 512
_CLASSIC_BYTES = 2**32 - 2**25
"""A file that may become larger is a BigTIFF."""


def write_heat_tiff(path: Path, field: AttentionField, *, level0: Size, mpp: Mpp, downsample: int) -> None:
    """Write the map: pixel (i, j) is the colour at level-0 pixel ((i + 0.5) d, (j + 0.5) d); white where there is no tile.

    Without loss. Memory does not grow with the map: tiles are drawn as they are written.

    Args:
        path: where to.
        field: levels from 0 to 1.
        level0: size of the slide in level-0 pixels.
        mpp: um/px of level 0.
        downsample: d, level-0 pixels for each pixel of the map; 1 or more.
    """
    steps = list(_levels(level0, downsample))
    raw = sum(size.area * 3 for _, size in steps)
    with tifffile.TiffWriter(path, bigtiff=raw > _CLASSIC_BYTES) as tif:
        for index, (step, size) in enumerate(steps):
            tif.write(
                _tiles(field, step, size),
                shape=(size.height, size.width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="adobe_deflate",
                resolution=(1e4 / (mpp.x * step), 1e4 / (mpp.y * step)),
                resolutionunit="CENTIMETER",
                subfiletype=1 if index else 0,
                metadata=None,
                software=False,
            )


def pick_downsample(extent: tuple[float, float], pixels: int) -> int:
    """The largest power of two that leaves a tile at least so many pixels wide and high; 1 at least."""
    ratio = min(extent) / pixels
    return 1 << max(0, int(np.floor(np.log2(ratio)))) if ratio >= 1 else 1


def _levels(level0: Size, downsample: int) -> Iterator[tuple[int, Size]]:
    step = downsample
    while True:
        size = Size(-(-level0.width // step), -(-level0.height // step))
        yield step, size
        if max(size.width, size.height) <= _SMALLEST_PX:
            return
        step *= 2


def _tiles(field: AttentionField, step: int, size: Size) -> Iterator[np.ndarray]:
    for top in range(0, size.height, TILE_PX):
        y = (np.arange(top, top + TILE_PX) + 0.5) * step
        for left in range(0, size.width, TILE_PX):
            x = (np.arange(left, left + TILE_PX) + 0.5) * step
            levels, covered = field.sample(x, y)
            tile = colours(levels)
            tile[~covered] = 255
            yield tile
