"""Pen on the glass: blue, green, black and red, beside tissue and over it.

What tells ink from stain is physics. Haematoxylin and eosin both absorb green light most, so whatever their amounts the
green channel stays the darkest or nearly so: ink through which green passes best is no stain. Blue ink absorbs red far
beyond green, and blue hardly. Black ink absorbs all alike, and much. Red ink has the hue of blood and of strong eosin;
it is told by how dense it is and by how far its hue lies from that of the slide's own tissue. All of them come as
strokes: smooth, and wider than a cell or a fibre.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pathotune_pipeline.tissue.artefacts import find_shadow
from pathotune_pipeline.tissue.glass import coarsened, disc, enlarged, optical_density

PEN_MPP = 16.0
"""um/px at which strokes are looked for: no pen is as fine as this."""
_SEED_MM2 = 0.03
_JOIN_UM = 100.0
_CERTAIN_MM2 = 0.3
_MAX_BLACK_SHARE = 0.5


@dataclass(frozen=True)
class _Ink:
    """Where a slide's pixels look like one ink.

    Attributes:
        sure: beyond doubt; bool [h, w].
        like: as ink thinned out, or as ink over tissue; it counts where it hangs together with what is sure.
        dry: as a dry stroke; on a slide that surely has this ink, it counts as sure.
    """

    sure: np.ndarray
    like: np.ndarray
    dry: np.ndarray


def find_pen(rgb: np.ndarray, *, white: np.ndarray, mpp: float) -> np.ndarray:
    """Where there is pen.

    Args:
        rgb: uint8 [h, w, 3], an overview.
        white: colour of empty glass, float32 [3], 0-255.
        mpp: um/px of the overview.

    Returns:
        bool [h, w].
    """
    small, small_mpp = coarsened(rgb, mpp, PEN_MPP)
    density = optical_density(cv2.GaussianBlur(small, (3, 3), 0), white)
    red, green, blue = cv2.split(density)
    total = red + green + blue
    if np.count_nonzero(total > 3.0) > _MAX_BLACK_SHARE * total.size:  # a dark field, not a stroke
        return np.zeros(rgb.shape[:2], bool)
    share = 1.0 / np.maximum(total, 1e-3)
    red_share, green_share, blue_share = red * share, green * share, blue * share
    usual_red, usual_blue = _usual(total, red_share, 0.27), _usual(total, blue_share, 0.29)
    inks = (
        _green_ink(total, red_share, green_share),
        _blue_ink(total, red_share, green_share, blue_share, usual_red),
        _red_ink(total, red_share, blue_share, usual_blue),
        _black_ink(total, density, share, find_shadow(small, white=white, mpp=small_mpp)),
    )
    found = np.zeros(total.shape, bool)
    for ink in inks:
        found |= _strokes(ink, small_mpp)
    return enlarged(found, rgb)


def _usual(total: np.ndarray, share: np.ndarray, typical: float) -> float:
    """The median of a channel's share of the density over what is stained as tissue is.

    On a slide that shows red ink and hardly any tissue this is the ink's own, and it passes for blood: kept, not lost.
    """
    stained = (total > 0.25) & (total < 1.6)
    if np.count_nonzero(stained) < max(500, 0.005 * stained.size):
        return typical
    return float(np.median(share[stained]))


def _green_ink(total: np.ndarray, red_share: np.ndarray, green_share: np.ndarray) -> _Ink:
    sure = (green_share < 0.27) & (red_share > 0.38) & (total > 0.3)
    return _Ink(sure, (green_share < 0.31) & (red_share > 0.36) & (total > 0.12), sure)


def _blue_ink(
    total: np.ndarray, red_share: np.ndarray, green_share: np.ndarray, blue_share: np.ndarray, usual_red: float
) -> _Ink:
    beyond = float(np.clip(usual_red + 0.08, 0.40, 0.48))
    lead = red_share - green_share
    sure = (red_share > beyond) & (lead > 0.03) & (blue_share < 0.22) & (total > 0.7)
    like = (red_share > beyond - 0.04) & (lead > -0.02) & (blue_share < 0.26) & (total > 0.25)
    return _Ink(sure, like, sure)


def _red_ink(total: np.ndarray, red_share: np.ndarray, blue_share: np.ndarray, usual_blue: float) -> _Ink:
    beyond = float(np.clip(usual_blue + 0.05, 0.34, 0.45))
    sure = (red_share < 0.12) & (blue_share > beyond) & (blue_share < 0.5) & (total > 1.1)
    like = (red_share < 0.17) & (blue_share > beyond - 0.01) & (blue_share < 0.5) & (total > 0.2)
    over = (
        (total > 1.5) & (red_share < 0.25) & (blue_share > min(beyond - 0.01, usual_blue + 0.02)) & (blue_share < 0.5)
    )
    return _Ink(sure, like | over, like & (red_share < 0.13) & (total > 0.4))


def _black_ink(total: np.ndarray, density: np.ndarray, share: np.ndarray, shadow: np.ndarray) -> _Ink:
    red, green, blue = cv2.split(density)
    spread = (cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)) * share
    sure = (total > 1.8) & (spread < 0.14) & ~shadow
    return _Ink(sure, (total > 0.45) & (spread < 0.16) & ~shadow, sure)


def _strokes(ink: _Ink, mpp: float) -> np.ndarray:
    """The ink that hangs together with enough of what is sure, over gaps as dry pens leave them."""
    least = _SEED_MM2 * 1e6 / mpp**2
    if np.count_nonzero(ink.sure) < least:
        return np.zeros_like(ink.sure)
    both = (ink.sure | ink.like).astype(np.uint8)
    joiner = disc(_JOIN_UM, mpp)
    joined = both if joiner is None else cv2.morphologyEx(both, cv2.MORPH_CLOSE, joiner)
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    keep = _seeded(labels, count, ink.sure, least)
    if np.count_nonzero(keep[labels] & ink.sure) * mpp**2 >= _CERTAIN_MM2 * 1e6:
        keep |= _seeded(labels, count, ink.dry, least)
    return np.asarray(keep[labels])


def _seeded(labels: np.ndarray, count: int, seed: np.ndarray, least: float) -> np.ndarray:
    """Which of the labelled pieces hold so many pixels of a seed, single pixels and threads not counted."""
    solid = cv2.morphologyEx(seed.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    keep = np.bincount(labels[solid > 0], minlength=count) >= least
    keep[0] = False
    return np.asarray(keep)
