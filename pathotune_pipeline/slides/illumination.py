"""Brightfield or fluorescence, told from an overview's pixels.

In transmitted light glass is bright and tissue takes away from it; what is black was never scanned, and what lies
beside it is bright. In fluorescence the ground is black, and what shines on it fades into it: many pixels
lie between, most lit ones are dim or of one pure colour, and few are bright in all three. So an overview is
fluorescence where much of it is black, black passes into light, the lit rest is dim or pure, and hardly any of it is
as pale as glass. All tissue, dark stains, empty glass and black borders around a brightfield scan are not taken for it.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from pathotune_pipeline.geometry import Size
from pathotune_pipeline.slides.pyramid import resample
from pathotune_pipeline.slides.slide import Slide

Illumination = Literal["brightfield", "fluorescence"]

BLACK_LEVEL = 40
"""A pixel whose brightest channel is at most this is ground, with what a camera adds to nothing."""
MIN_BLACK_SHARE = 0.4
MAX_LIT_MEDIAN = 150
"""Median of the lit pixels' brightest channel above which they are glass or tissue in transmitted light."""
PALE_LEVEL, MAX_PALE_SHARE = 170, 0.25
"""A lit pixel whose darkest channel is at least this is as pale as glass; the largest share of them in fluorescence."""
MAX_PURE = 0.15
"""Darkest over brightest channel, in the middle of the lit pixels, up to which they are of one pure colour."""
FILL_LEVEL, MIN_FADING = 8, 0.03
"""Black above the level is ground that light fades into, not a border's; the least of it per lit pixel."""
_MIN_LIT_SHARE = 1e-4

GLANCE_PX = 768
_MOST_READ_PX = 4096
_MOSAIC, _PATCH_PX = 16, 48


def illumination_of(rgb: np.ndarray) -> Illumination:
    """What light an overview was taken in.

    Args:
        rgb: uint8 [h, w, 3], a whole slide, small.
    """
    red, green, blue = cv2.split(rgb)
    bright = np.asarray(cv2.max(cv2.max(red, green), blue))
    lit = bright > BLACK_LEVEL
    lit_share = np.count_nonzero(lit) / max(1, lit.size)
    if 1.0 - lit_share < MIN_BLACK_SHARE:
        return "brightfield"
    if lit_share < _MIN_LIT_SHARE:  # nothing but black: no brightfield slide is that
        return "fluorescence"
    if np.count_nonzero((bright > FILL_LEVEL) & ~lit) < MIN_FADING * np.count_nonzero(lit):
        return "brightfield"
    high, low = bright[lit].astype(np.float32), cv2.min(cv2.min(red, green), blue)[lit]
    dim_or_pure = np.median(high) < MAX_LIT_MEDIAN or np.median(low / high) <= MAX_PURE
    return "fluorescence" if dim_or_pure and np.mean(low >= PALE_LEVEL) <= MAX_PALE_SHARE else "brightfield"


def glance(slide: Slide) -> np.ndarray:
    """A small picture of a slide of any scale or none, from its coarsest level that is large enough.

    A large slide without a pyramid is not read whole: patches evenly spread over it are put side by side.

    Returns:
        uint8 [h, w, 3]. For statistics of pixels, not for looking at.

    Raises:
        TileReadError: a part of it cannot be decoded.
    """
    levels = slide.info.levels
    index = next((i for i in reversed(range(len(levels))) if _longest(levels[i].size) >= GLANCE_PX), 0)
    size = levels[index].size
    if _longest(size) <= _MOST_READ_PX:
        pixels = slide.read_region((0, 0), index, (size.width, size.height))
        factor = min(1.0, GLANCE_PX / _longest(size))
        return resample(pixels, (max(1, round(size.width * factor)), max(1, round(size.height * factor))))
    rows = []
    width, height = min(_PATCH_PX, size.width), min(_PATCH_PX, size.height)
    downsample = levels[index].downsample
    for y in np.linspace(0, size.height - height, _MOSAIC):
        places = [(round(x * downsample), round(y * downsample)) for x in np.linspace(0, size.width - width, _MOSAIC)]
        rows.append(np.concatenate([slide.read_region(place, index, (width, height)) for place in places], axis=1))
    return np.concatenate(rows, axis=0)


def _longest(size: Size) -> int:
    return max(size.width, size.height)
