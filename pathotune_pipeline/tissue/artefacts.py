"""What is on a slide and is neither tissue nor pen: the shadow of the slide's edge, lines, and dust.

None of it is stained. Stain always takes more of one colour than of another; a shadow, an edge of glass and a speck of
dust take all alike. So each is looked for among what is grey, and known by its form: a shadow lies along a side of the
slide, a line is long, thin and straight, dust is small and stands alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from pathotune_pipeline.tissue.density import Density, optical_density
from pathotune_pipeline.tissue.glass import coarsened, enlarged
from pathotune_pipeline.tissue.pieces import Pieces

ARTEFACT_MPP = 16.0
"""um/px at which artefacts are looked for."""
_FAINTEST = 0.15  # sum over the channels of optical density
_SHADOW_MIN_UM, _SHADOW_FORM = 1500.0, 3.0
_LINE_MIN_UM, _LINE_WIDTH_UM, _LINE_FORM = 1500.0, 250.0, 0.04
_DUST_MAX_MM2, _DUST_GREY = 0.4, 0.6
_PIECE_GREY = 0.08


def find_shadow(rgb: np.ndarray, *, white: np.ndarray, mpp: float) -> np.ndarray:
    """The shadow along the slide's edges: grey, and along a side at least three times as long as deep.

    Args:
        rgb: uint8 [h, w, 3], an overview.
        white: colour of empty glass, float32 [3], 0-255.
        mpp: um/px of the overview.

    Returns:
        bool [h, w].
    """
    small, small_mpp = coarsened(rgb, mpp, ARTEFACT_MPP)
    return enlarged(shadow_in(Density.of(small, white), small_mpp), rgb)


def shadow_in(density: Density, mpp: float) -> np.ndarray:
    """As `find_shadow`, from optical densities [h, w] at a scale of `ARTEFACT_MPP` or coarser."""
    return _along_a_side(_grey(density, 0.12), mpp)


def find_lines_and_dust(rgb: np.ndarray, *, white: np.ndarray, mpp: float) -> np.ndarray:
    """Edges of coverslips and of scanned areas, and specks of dust and debris.

    Args:
        rgb: uint8 [h, w, 3], an overview.
        white: colour of empty glass, float32 [3], 0-255.
        mpp: um/px of the overview.

    Returns:
        bool [h, w], with a rim of a pixel or two.
    """
    small, small_mpp = coarsened(rgb, mpp, ARTEFACT_MPP)
    return enlarged(lines_and_dust_in(Density.of(small, white), small_mpp), rgb)


def lines_and_dust_in(density: Density, mpp: float) -> np.ndarray:
    """As `find_lines_and_dust`, from optical densities [h, w] at a scale of `ARTEFACT_MPP` or coarser."""
    found = _lines(_grey(density, 0.12), mpp) | _dust(density, mpp)
    return np.asarray(cv2.dilate(found.view(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def without_grey_pieces(mask: np.ndarray, rgb: np.ndarray, white: np.ndarray, *, mpp: float) -> np.ndarray:
    """A mask without its small pieces that are grey on the whole: residue of mounting medium, clots of dust.

    Args:
        mask: bool [h, w].
        rgb: uint8 [h, w, 3], the overview it was made from.
        white: colour of empty glass, float32 [3], 0-255.
        mpp: um/px of the overview.

    Returns:
        bool [h, w].
    """
    pieces = Pieces.of(mask, connectivity=8)
    small = pieces.areas * mpp**2 <= _DUST_MAX_MM2 * 1e6
    if not small.any():
        return mask
    places, whose = pieces.pixels(small)
    density = optical_density(rgb.reshape(1, -1, 3)[:, places], white)[0]  # [pixels, 3]
    sums = np.stack([np.bincount(whose, density[:, channel], minlength=pieces.count) for channel in range(3)])
    grey = small & (sums.max(axis=0) - sums.min(axis=0) <= _PIECE_GREY * sums.sum(axis=0))
    return pieces.only(~grey)


def _grey(density: Density, spread: float) -> np.ndarray:
    return np.asarray((density.total >= _FAINTEST) & (density.uneven <= 0.015 + spread * density.total))


def _along_a_side(grey: np.ndarray, mpp: float) -> np.ndarray:
    sides = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    if max(map(np.count_nonzero, sides)) * mpp < _SHADOW_MIN_UM:
        return np.zeros_like(grey)
    count, labels = cv2.connectedComponents(grey.view(np.uint8), connectivity=4)
    areas = np.bincount(labels.ravel(), minlength=count)
    keep = np.zeros(count, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        contact = np.bincount(side, minlength=count)
        keep |= (contact * mpp >= _SHADOW_MIN_UM) & (contact.astype(float) ** 2 >= _SHADOW_FORM * areas)
    keep[0] = False
    return np.asarray(keep[labels])


def _lines(grey: np.ndarray, mpp: float) -> np.ndarray:
    """Lines of any direction where they stand alone, and along the slide's axes wherever they are."""
    image = grey.view(np.uint8)
    side = 2 * round(_LINE_WIDTH_UM / mpp / 2) + 1
    thin = image & ~cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    least = max(5, round(_LINE_MIN_UM / mpp))
    found = np.zeros_like(grey)
    for shape, across in (((1, least), (3, 1)), ((least, 1), (1, 3))):
        runs = cv2.dilate(thin, np.ones(across, np.uint8))
        found |= cv2.morphologyEx(runs, cv2.MORPH_OPEN, np.ones(shape, np.uint8)) > 0
    thin &= 1 - cv2.dilate(found.view(np.uint8), np.ones((3, 3), np.uint8))  # where lines cross, the others come apart
    pieces = Pieces.of(thin, connectivity=8)
    spans = np.hypot(pieces.boxes[:, 2], pieces.boxes[:, 3])
    for index in np.flatnonzero(spans >= least):
        places, _ = pieces.pixels(np.arange(pieces.count) == index)
        rows, columns = np.divmod(places, thin.shape[1])
        left, top = pieces.boxes[index, :2]
        _, sides, _ = cv2.minAreaRect(np.stack([columns - left, rows - top], axis=1).astype(np.float32))
        if min(sides) * mpp <= max(_LINE_WIDTH_UM, _LINE_FORM * max(sides) * mpp):
            found[rows, columns] = True
    return found


def _dust(density: Density, mpp: float) -> np.ndarray:
    pieces = Pieces.of(density.total >= _FAINTEST, connectivity=8)
    grey = pieces.count_of(_grey(density, 0.06))
    return pieces.only((pieces.areas * mpp**2 <= _DUST_MAX_MM2 * 1e6) & (grey >= _DUST_GREY * pieces.areas))
