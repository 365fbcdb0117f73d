"""Looking at an overview a few rows at a time, so that what is computed on the way stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_ROWS = 64


def in_slabs(
    rgb: np.ndarray, look: Callable[[np.ndarray], np.ndarray], *, margin: int, dtype: type = bool
) -> np.ndarray:
    """What is told of each pixel by those around it.

    Args:
        rgb: uint8 [h, w, 3].
        look: tells [n, w] of any n rows. It may take what lies beyond them as OpenCV does: mirrored.
        margin: rows above and below a pixel that it is told by.
        dtype: of what it tells.

    Returns:
        [h, w], the same as `look(rgb)`.
    """
    found: np.ndarray = np.empty(rgb.shape[:2], dtype)
    for top in range(0, len(rgb), _ROWS):
        first = max(0, top - margin)
        part = look(rgb[first : top + _ROWS + margin])
        found[top : top + _ROWS] = part[top - first : top - first + _ROWS]
    return found
