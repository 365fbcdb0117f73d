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
from pathotune_pipeline.tissue.density import Density
from pathotune_pipeline.tissue.glass import coarsened, disc, enlarged

PEN_MPP = 16.0
"""um/px at which strokes are looked for: no pen is as fine as this."""
_SEED_MM2 = 0.03
_JOIN_UM = 100.0
_CERTAIN_MM2 = 0.3
_MAX_BLACK_SHARE = 0.5
_FAINTEST = 0.12  # sum over the channels of optical density


@dataclass(frozen=True)
class _Ink:
    """Which of some pixels look like one ink.

    Attributes:
        sure: beyond doubt; bool [P].
        like: as ink thinned out, or as ink over tissue; it counts where it hangs together with what is sure.
        dry: as a dry stroke; on a slide that surely has this ink, it counts as sure.
    """

    sure: np.ndarray
    like: np.ndarray
    dry: np.ndarray


class _Looks:
    """How dense the pixels of an overview are that may show ink at all, and which colours their densities have.

    Attributes:
        shape: of the overview.
        places: int64 [P], the pixels, counted row by row.
        total: float32 [P], sum of the channels' optical densities.
        red, green, blue: float32 [P], share of each channel in that.
        spread: float32 [P], share of the largest channel less that of the smallest.
        shadow: bool [P], where a shadow lies.
    """

    def __init__(self, density: Density, shadow: np.ndarray) -> None:
        self.shape = density.total.shape
        self.places = np.flatnonzero(density.total > _FAINTEST)
        some = density.at(self.places)
        share = 1.0 / np.maximum(some.total, 1e-3)
        self.total = some.total
        self.red, self.green, self.blue = some.red * share, some.green * share, some.blue * share
        self.spread = some.uneven * share
        self.shadow = shadow.ravel()[self.places]

    def usual(self, share: np.ndarray, typical: float) -> float:
        """The median of a channel's share over what is stained as tissue is.

        On a slide that shows red ink and hardly any tissue this is the ink's own, and it passes for blood: kept, not
        lost.
        """
        stained = (self.total > 0.25) & (self.total < 1.6)
        if np.count_nonzero(stained) < max(500, 0.005 * self.shape[0] * self.shape[1]):
            return typical
        return float(np.median(share[stained]))

    def picture(self, of: np.ndarray) -> np.ndarray:
        """Pixels brought back to where they are: bool [h, w]."""
        found = np.zeros(self.shape, bool)
        found.ravel()[self.places[of]] = True
        return found


def find_pen(rgb: np.ndarray, *, white: np.ndarray, mpp: float, shadow: np.ndarray | None = None) -> np.ndarray:
    """Where there is pen.

    Args:
        rgb: uint8 [h, w, 3], an overview.
        white: colour of empty glass, float32 [3], 0-255.
        mpp: um/px of the overview.
        shadow: what `find_shadow` gives, where that is known and the overview is not finer than `PEN_MPP`.

    Returns:
        bool [h, w].
    """
    small, small_mpp = coarsened(rgb, mpp, PEN_MPP)
    density = Density.of(cv2.GaussianBlur(small, (3, 3), 0), white)
    if np.count_nonzero(density.total > 3.0) > _MAX_BLACK_SHARE * density.total.size:  # a dark field, not a stroke
        return np.zeros(rgb.shape[:2], bool)
    if shadow is None:
        shadow = find_shadow(small, white=white, mpp=small_mpp)
    looks = _Looks(density, shadow)
    least = _SEED_MM2 * 1e6 / small_mpp**2
    found = np.zeros(density.total.shape, bool)
    for ink_of in (_green_ink, _blue_ink, _red_ink, _black_ink):
        ink = ink_of(looks, least)
        if ink is not None:
            found |= _strokes(looks, ink, small_mpp)
    return enlarged(found, rgb)


def _green_ink(looks: _Looks, least: float) -> _Ink | None:
    sure = (looks.green < 0.27) & (looks.red > 0.38) & (looks.total > 0.3)
    if np.count_nonzero(sure) < least:
        return None
    return _Ink(sure, (looks.green < 0.31) & (looks.red > 0.36) & (looks.total > 0.12), sure)


def _blue_ink(looks: _Looks, least: float) -> _Ink | None:
    lead = looks.red - looks.green
    sure = (looks.red > 0.40) & (lead > 0.03) & (looks.blue < 0.22) & (looks.total > 0.7)
    if np.count_nonzero(sure) < least:
        return None
    beyond = float(np.clip(looks.usual(looks.red, 0.27) + 0.08, 0.40, 0.48))
    sure &= looks.red > beyond
    like = (looks.red > beyond - 0.04) & (lead > -0.02) & (looks.blue < 0.26) & (looks.total > 0.25)
    return _Ink(sure, like, sure)


def _red_ink(looks: _Looks, least: float) -> _Ink | None:
    red, blue, total = looks.red, looks.blue, looks.total
    sure = (red < 0.12) & (blue > 0.34) & (blue < 0.5) & (total > 1.1)
    if np.count_nonzero(sure) < least:
        return None
    usual = looks.usual(blue, 0.29)
    beyond = float(np.clip(usual + 0.05, 0.34, 0.45))
    sure &= blue > beyond
    like = (red < 0.17) & (blue > beyond - 0.01) & (blue < 0.5) & (total > 0.2)
    over = (total > 1.5) & (red < 0.25) & (blue > min(beyond - 0.01, usual + 0.02)) & (blue < 0.5)
    return _Ink(sure, like | over, like & (red < 0.13) & (total > 0.4))


def _black_ink(looks: _Looks, least: float) -> _Ink | None:
    sure = (looks.total > 1.8) & (looks.spread < 0.14) & ~looks.shadow
    if np.count_nonzero(sure) < least:
        return None
    return _Ink(sure, (looks.total > 0.45) & (looks.spread < 0.16) & ~looks.shadow, sure)


def _strokes(looks: _Looks, ink: _Ink, mpp: float) -> np.ndarray:
    """The ink that hangs together with enough of what is sure, over gaps as dry pens leave them: bool [h, w]."""
    least = _SEED_MM2 * 1e6 / mpp**2
    sure = looks.picture(ink.sure)
    if np.count_nonzero(ink.sure) < least:
        return np.zeros_like(sure)
    both = looks.picture(ink.sure | ink.like).view(np.uint8)
    joiner = disc(_JOIN_UM, mpp)
    joined = both if joiner is None else cv2.morphologyEx(both, cv2.MORPH_CLOSE, joiner)
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    keep = _seeded(labels, count, sure, least)
    if np.count_nonzero(keep[labels] & sure) * mpp**2 >= _CERTAIN_MM2 * 1e6:
        keep |= _seeded(labels, count, looks.picture(ink.dry), least)
    return np.asarray(keep[labels])


def _seeded(labels: np.ndarray, count: int, seed: np.ndarray, least: float) -> np.ndarray:
    """Which of the labelled pieces hold so many pixels of a seed, single pixels and threads not counted."""
    solid = cv2.morphologyEx(seed.view(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    keep = np.bincount(labels[solid > 0], minlength=count) >= least
    keep[0] = False
    return np.asarray(keep)
