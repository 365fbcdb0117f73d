"""Deep zoom: a slide as tiles of a pyramid that halves at each level, down to one pixel (Microsoft's DZI layout)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from pathotune_pipeline.geometry import Size
from pathotune_pipeline.slides.pyramid import resample
from pathotune_pipeline.slides.slide import Slide

TILE_PX = 254
OVERLAP_PX = 1
MOST_READ_PX = 4096 * 4096
"""Pixels of a slide's level that one tile may cost; beyond it the stored overview is shown."""


@dataclass(frozen=True, slots=True)
class ZoomTile:
    """One tile.

    Attributes:
        left, top: its corner in level-0 pixels.
        size: in pixels of the picture.
        step: level-0 pixels a pixel of the picture.
    """

    left: int
    top: int
    size: Size
    step: int


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """The pyramid over a slide of some size in level-0 pixels."""

    size: Size

    @property
    def last_level(self) -> int:
        """The level of level-0 pixels; level 0 is one pixel."""
        return (max(self.size.width, self.size.height) - 1).bit_length()

    def level_size(self, level: int) -> Size:
        """Size of a level in pixels."""
        step = 1 << (self.last_level - level)
        return Size(ceil(self.size.width / step), ceil(self.size.height / step))

    def tile(self, level: int, column: int, row: int) -> ZoomTile | None:
        """One tile with its overlap; None where there is none."""
        if not 0 <= level <= self.last_level:
            return None
        whole, step = self.level_size(level), 1 << (self.last_level - level)
        left, top = max(0, column * TILE_PX - OVERLAP_PX), max(0, row * TILE_PX - OVERLAP_PX)
        right = min(whole.width, (column + 1) * TILE_PX + OVERLAP_PX)
        bottom = min(whole.height, (row + 1) * TILE_PX + OVERLAP_PX)
        outside = column * TILE_PX >= whole.width or row * TILE_PX >= whole.height
        if column < 0 or row < 0 or outside:
            return None
        return ZoomTile(left * step, top * step, Size(right - left, bottom - top), step)

    def xml(self) -> str:
        """The .dzi file."""
        return (
            f'<?xml version="1.0" encoding="UTF-8"?><Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
            f'Format="jpeg" Overlap="{OVERLAP_PX}" TileSize="{TILE_PX}">'
            f'<Size Width="{self.size.width}" Height="{self.size.height}"/></Image>'
        )


def read_tile(slide: Slide, tile: ZoomTile) -> np.ndarray | None:
    """A tile's pixels from the coarsest level that is fine enough.

    Args:
        slide: an open slide.
        tile: of its pyramid.

    Returns:
        uint8 [h, w, 3]; None where that would take reading more than MOST_READ_PX.

    Raises:
        TileReadError: the file's data cannot be decoded there.
    """
    levels = slide.info.levels
    fine = [index for index, level in enumerate(levels) if level.downsample <= tile.step * 1.01]
    index = fine[-1] if fine else 0
    across = min(tile.size.width * tile.step, slide.info.size.width - tile.left)
    down = min(tile.size.height * tile.step, slide.info.size.height - tile.top)
    width = max(1, round(across / levels[index].downsample))
    height = max(1, round(down / levels[index].downsample))
    if width * height > MOST_READ_PX:
        return None
    return resample(slide.read_region((tile.left, tile.top), index, (width, height)), _pair(tile.size))


def cut_tile(overview: np.ndarray, size: Size, tile: ZoomTile) -> np.ndarray:
    """A tile out of a picture of the whole slide, enlarged or shrunk as it takes.

    Args:
        overview: uint8 [h, w, 3].
        size: of the slide in level-0 pixels.
        tile: of its pyramid.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = overview.shape[:2]
    x, y = width / size.width, height / size.height
    place = np.array(
        [
            [tile.step * x, 0, (tile.left + tile.step / 2) * x - 0.5],
            [0, tile.step * y, (tile.top + tile.step / 2) * y - 0.5],
        ]
    )
    return np.asarray(
        cv2.warpAffine(
            overview,
            place,
            _pair(tile.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def _pair(size: Size) -> tuple[int, int]:
    return size.width, size.height
