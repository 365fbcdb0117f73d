"""Where in a slide tiles may be drawn: a mask kept small, and uniform draws by rejection against it."""

from __future__ import annotations

import zlib

import numpy as np

from pathotune_pipeline.slides.slide import SlideInfo
from pathotune_pipeline.tissue.mask import TissueMask

_CANDIDATES = 256
_ROUNDS = 16


class PackedMask:
    """A mask at a bit a pixel, compressed: some kilobytes a slide, so that thousands are kept."""

    def __init__(self, mask: np.ndarray) -> None:
        self._shape = mask.shape
        self._data = zlib.compress(np.packbits(mask).tobytes(), 1)

    def __len__(self) -> int:
        return len(self._data)

    def unpack(self, info: SlideInfo) -> TissueMask:
        """The mask of the slide with these facts, without a thumbnail."""
        height, width = self._shape
        bits = np.unpackbits(np.frombuffer(zlib.decompress(self._data), np.uint8), count=height * width)
        mask = bits.astype(bool).reshape(height, width)
        if info.mpp is None:
            raise ValueError("a mask is of a slide with a known mpp")
        mpp_x, mpp_y = info.size.width * info.mpp.x / width, info.size.height * info.mpp.y / height
        return TissueMask(mask, mpp_x, mpp_y, info.mpp, info.size, np.zeros((1, 1, 3), np.uint8))


class Region:
    """The places of one slide that hold enough tissue."""

    def __init__(self, mask: TissueMask) -> None:
        self._mask = mask
        columns, rows = np.flatnonzero(mask.mask.any(axis=0)), np.flatnonzero(mask.mask.any(axis=1))
        across, down = mask.level0_px_per_mask_px
        self.any = bool(len(rows))
        """Whether there is tissue at all."""
        self._x = (int(columns[0] * across), int((columns[-1] + 1) * across) + 1) if self.any else (0, 0)
        self._y = (int(rows[0] * down), int((rows[-1] + 1) * down) + 1) if self.any else (0, 0)

    def place(self, extent: tuple[float, float], min_tissue: float, rng: np.random.Generator) -> tuple[int, int] | None:
        """A place for a tile, uniform over all whole-pixel places within the slide with enough tissue.

        Args:
            extent: (width, height) of the tile in level-0 pixels; not larger than the slide.
            min_tissue: least share of it that is tissue.
            rng: where chance comes from.

        Returns:
            Top-left corner (x, y) in level-0 pixels, or None where 4096 tries found none.
        """
        size = self._mask.level0_size
        x = _span(size.width, extent[0], self._x if min_tissue > 0 else None)
        y = _span(size.height, extent[1], self._y if min_tissue > 0 else None)
        boxes = np.empty((_CANDIDATES, 4), np.float64)
        boxes[:, 2:] = extent
        for _ in range(_ROUNDS):
            boxes[:, 0] = rng.integers(*x, size=_CANDIDATES)
            boxes[:, 1] = rng.integers(*y, size=_CANDIDATES)
            good = np.flatnonzero(self._mask.fraction(boxes) >= np.float32(min_tissue))
            if len(good):
                return int(boxes[good[0], 0]), int(boxes[good[0], 1])
        return None


def _span(length: int, extent: float, tissue: tuple[int, int] | None) -> tuple[int, int]:
    """First corner and one past the last: within the slide, and touching the tissue's bounds where they are given."""
    last = max(0, int(length - extent))
    if tissue is None:
        return 0, last + 1
    first = min(max(0, int(tissue[0] - extent)), last)
    return first, max(first, min(last, tissue[1])) + 1
