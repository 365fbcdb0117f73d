"""What empty glass looks like on a slide; overviews at coarser scales."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

DEFAULT_WHITE = 245.0
"""White where a slide has no background of its own to measure."""
_BLANK = 254
_SCANNED_MIN_SHARE = 0.03
_GLASS_MIN, _GLASS_MAX_CHROMA, _GLASS_MIN_SHARE = 200, 20, 0.005


def extremes(planes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest channel of each pixel: uint8 [h, w] twice.

    Args:
        planes: red, green and blue, each uint8 [h, w].
    """
    red, green, blue = planes
    return np.asarray(cv2.min(cv2.min(red, green), blue)), np.asarray(cv2.max(cv2.max(red, green), blue))


def white_point(rgb: np.ndarray) -> np.ndarray:
    """The colour of empty glass: float32 [3], 0-255.

    It is the median of bright, colourless pixels; where a slide hardly has any (all tissue, or a black field), 245.

    Args:
        rgb: uint8 [h, w, 3].
    """
    planes = cv2.split(rgb)
    return _median_white(planes, _is_glass(*extremes(planes)))


def without_blank(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """White point, and the overview with what was never scanned painted in it.

    Scanners and readers fill what they did not scan with pure white, and its seam with real glass looks like texture.

    Args:
        rgb: uint8 [h, w, 3].

    Returns:
        float32 [3], 0-255, and uint8 [h, w, 3]; `rgb` itself where nothing is blank.
    """
    planes = cv2.split(rgb)
    low, high = extremes(planes)
    blank = low >= _BLANK
    glass = _is_glass(low, high)
    unseen = int(np.count_nonzero(blank))
    seen = np.count_nonzero(glass) - unseen  # what is blank is bright and colourless too
    if seen >= _SCANNED_MIN_SHARE * blank.size or unseen < _GLASS_MIN_SHARE * blank.size:
        # The share is of what was scanned: a slide that is mostly blank may show little glass.
        white = _median_white(planes, glass & ~blank, of=blank.size - unseen)
    else:  # the scanner gives glass itself as pure white; what else is pale is tissue
        white = np.full(3, 255.0, np.float32)
    if not unseen:
        return white, rgb
    for plane, value in zip(planes, np.rint(white), strict=True):
        np.copyto(plane, np.uint8(value), where=blank)
    return white, np.asarray(cv2.merge(planes))


def coarsened(rgb: np.ndarray, mpp: float, wanted: float) -> tuple[np.ndarray, float]:
    """An overview at a coarser scale by area means, and the um/px it has; itself where it is coarse already."""
    factor = mpp / wanted
    if factor > 0.75:
        return rgb, mpp
    height, width = rgb.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)), mpp * (
        width * height / np.prod(size)
    ) ** 0.5


def enlarged(found: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """A mask made at a coarser scale, brought to the size of an overview: bool [h, w]."""
    if found.shape == rgb.shape[:2]:
        return found
    if not found.any():
        return np.zeros(rgb.shape[:2], bool)
    grown = cv2.resize(found.astype(np.uint8) * 255, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown >= 128)


def disc(radius_um: float, mpp: float) -> np.ndarray | None:
    """A round structuring element, uint8; None where it would be a single pixel."""
    radius = round(radius_um / mpp)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2) if radius >= 1 else None


def _is_glass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.asarray((low >= _GLASS_MIN) & (cv2.subtract(high, low) <= _GLASS_MAX_CHROMA))


def _median_white(planes: Sequence[np.ndarray], glass: np.ndarray, of: int | None = None) -> np.ndarray:
    if np.count_nonzero(glass) < max(1.0, _GLASS_MIN_SHARE * (glass.size if of is None else of)):
        return np.full(3, DEFAULT_WHITE, np.float32)
    where = glass.view(np.uint8)
    counts = [cv2.calcHist([plane], [0], where, [256], [0, 256]).ravel() for plane in planes]
    return np.array([_median_of(count) for count in counts], np.float32)


def _median_of(count: np.ndarray) -> float:
    """The median of values 0-255 that occur so many times, as np.median gives it."""
    upto = np.cumsum(count.astype(np.float64))
    total = upto[-1]
    lower = int(np.searchsorted(upto, (total - 1) // 2 + 1))
    upper = int(np.searchsorted(upto, total // 2 + 1))
    return (lower + upper) / 2
