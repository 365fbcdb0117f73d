"""What is on a slide and is neither tissue nor pen: the shadow of the slide's edge, lines, and dust.

None of it is stained. Stain always takes more of one colour than of another; a shadow, an edge of glass and a speck of
dust take all alike. So each is looked for among what is grey, and known by its form: a shadow lies along a side of the
slide, a line is long, thin and straight, dust is small and stands alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from pathotune_pipeline.tissue.glass import coarsened, enlarged, optical_density

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
    grey = _grey(optical_density(small, white), 0.12)
    return enlarged(_along_a_side(grey, small_mpp), rgb)


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
    density = optical_density(small, white)
    found = _lines(_grey(density, 0.12), small_mpp) | _dust(density, small_mpp)
    return enlarged(cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0, rgb)


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
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] * mpp**2 <= _DUST_MAX_MM2 * 1e6
    small[0] = False
    where = small[labels]
    if not where.any():
        return mask
    density = optical_density(rgb[where][None], white)[0]  # [pixels, 3]
    pieces = labels[where]
    sums = np.stack([np.bincount(pieces, density[:, channel], minlength=count) for channel in range(3)])
    grey = small & (sums.max(axis=0) - sums.min(axis=0) <= _PIECE_GREY * sums.sum(axis=0))
    return np.asarray(mask & ~grey[labels])


def _grey(density: np.ndarray, spread: float) -> np.ndarray:
    red, green, blue = cv2.split(density)
    total = red + green + blue
    uneven = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    return np.asarray((total >= _FAINTEST) & (uneven <= 0.015 + spread * total))


def _along_a_side(grey: np.ndarray, mpp: float) -> np.ndarray:
    count, labels = cv2.connectedComponents(grey.astype(np.uint8), connectivity=4)
    areas = np.bincount(labels.ravel(), minlength=count)
    keep = np.zeros(count, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        contact = np.bincount(side, minlength=count)
        keep |= (contact * mpp >= _SHADOW_MIN_UM) & (contact.astype(float) ** 2 >= _SHADOW_FORM * areas)
    keep[0] = False
    return np.asarray(keep[labels])


def _lines(grey: np.ndarray, mpp: float) -> np.ndarray:
    """Lines of any direction where they stand alone, and along the slide's axes wherever they are."""
    image = grey.astype(np.uint8)
    side = 2 * round(_LINE_WIDTH_UM / mpp / 2) + 1
    thin = image & ~cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    least = max(5, round(_LINE_MIN_UM / mpp))
    found = np.zeros_like(grey)
    for shape, across in (((1, least), (3, 1)), ((least, 1), (1, 3))):
        runs = cv2.dilate(thin, np.ones(across, np.uint8))
        found |= cv2.morphologyEx(runs, cv2.MORPH_OPEN, np.ones(shape, np.uint8)) > 0
    thin &= 1 - cv2.dilate(
        found.astype(np.uint8), np.ones((3, 3), np.uint8)
    )  # where lines cross, the others come apart
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thin, connectivity=8)
    spans = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    for index in np.nonzero(spans >= least)[0]:
        if index == 0:
            continue
        left, top, width, height = stats[index, :4]
        rows, columns = np.nonzero(labels[top : top + height, left : left + width] == index)
        _, sides, _ = cv2.minAreaRect(np.stack([columns, rows], axis=1).astype(np.float32))
        if min(sides) * mpp <= max(_LINE_WIDTH_UM, _LINE_FORM * max(sides) * mpp):
            found[rows + top, columns + left] = True
    return found


def _dust(density: np.ndarray, mpp: float) -> np.ndarray:
    anything = (density.sum(axis=2) >= _FAINTEST).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(anything, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    grey = np.bincount(labels[_grey(density, 0.06)], minlength=count)
    keep = (areas * mpp**2 <= _DUST_MAX_MM2 * 1e6) & (grey >= _DUST_GREY * areas)
    keep[0] = False
    return np.asarray(keep[labels])
