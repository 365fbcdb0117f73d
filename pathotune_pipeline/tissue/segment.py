"""Finding tissue by colour, density or texture.

Colour alone loses fat, whose cells are as white as the glass and are told by the net of their walls; and it loses
pale mucin, which is denser than glass but hardly coloured. So a pixel is tissue by chroma, by optical density, or by
local standard deviation, each measured against the slide's own white.
"""

from __future__ import annotations

import cv2
import numpy as np

from pathotune_pipeline.errors import ScaleError
from pathotune_pipeline.slides.pyramid import read_overview
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
from pathotune_pipeline.tissue.segmenter import CLASSIC

REVISION = 1
"""Raised by hand whenever the mask of any slide changes: it is part of the stage's fingerprint."""

THUMBNAIL_PX = 1024
DEFAULT_WHITE = 245.0
"""White where a slide has no background of its own to measure."""
_BLANK = 254
_SCANNED_MIN_SHARE = 0.03
_GLASS_MIN, _GLASS_MAX_CHROMA, _GLASS_MIN_SHARE = 200, 20, 0.005


def find_tissue(slide: Slide, spec: TissueSpec) -> TissueMask:
    """Find the tissue of a slide.

    Args:
        slide: an open slide with a known mpp.
        spec: thresholds, lengths and areas.

    Raises:
        ScaleError: the slide has no mpp.
        TileReadError: a part of the slide cannot be decoded.
        UnknownNameError: no segmenter has the name that `spec` gives.
        WeightsError: the segmenter's files are absent or wrong.
    """
    if spec.segmenter != CLASSIC:
        from pathotune_pipeline.tissue.plugged import find_plugged

        return find_plugged(slide, spec)
    overview, mpp_x, mpp_y = read_overview(slide, spec.mpp)
    info = slide.info
    if info.mpp is None:  # read_overview has refused it; said again for the type checker
        raise ScaleError("no mpp in its metadata.")
    return TissueMask(
        mask=tissue_of(overview, spec, mpp=(mpp_x * mpp_y) ** 0.5),
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        level0_mpp=info.mpp,
        level0_size=info.size,
        thumbnail=_thumbnail(overview),
    )


def tissue_of(rgb: np.ndarray, spec: TissueSpec, *, mpp: float) -> np.ndarray:
    """Tissue in an overview.

    Args:
        rgb: uint8 [h, w, 3].
        spec: thresholds, lengths and areas.
        mpp: um/px of the overview.

    Returns:
        bool [h, w].
    """
    white, rgb = _without_blank(rgb)
    mask = _opened(_coloured_or_dense(rgb, white, spec), spec, mpp) | _opened(_textured(rgb, spec, mpp), spec, mpp)
    # The texture window straddles the rim of a black field, and closing bridges it; what is black stays out.
    black = rgb.max(axis=2) <= spec.black_level
    return _clean(mask & ~black, spec, mpp) & ~black


def white_point(rgb: np.ndarray) -> np.ndarray:
    """The colour of empty glass: float32 [3], 0-255.

    It is the median of bright, colourless pixels; where a slide hardly has any (all tissue, or a black field), 245.

    Args:
        rgb: uint8 [h, w, 3].
    """
    low, high = rgb.min(axis=2), rgb.max(axis=2)
    glass = (low >= _GLASS_MIN) & (high - low <= _GLASS_MAX_CHROMA)
    if np.count_nonzero(glass) < max(1.0, _GLASS_MIN_SHARE * glass.size):
        return np.full(3, DEFAULT_WHITE, np.float32)
    return np.median(rgb[glass], axis=0).astype(np.float32)


def _without_blank(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """White point, and the overview with what was never scanned painted in it.

    Scanners and readers fill what they did not scan with pure white, and its seam with real glass looks like texture.

    Returns:
        float32 [3], 0-255, and uint8 [h, w, 3].
    """
    low, high = rgb.min(axis=2), rgb.max(axis=2)
    blank = low >= _BLANK
    glass = (low >= _GLASS_MIN) & (high - low <= _GLASS_MAX_CHROMA)
    seen, unseen = np.count_nonzero(glass & ~blank), np.count_nonzero(blank)
    if seen >= _SCANNED_MIN_SHARE * blank.size or unseen < _GLASS_MIN_SHARE * blank.size:
        white = white_point(rgb[~blank][None]) if seen else np.full(3, DEFAULT_WHITE, np.float32)
    else:  # the scanner gives glass itself as pure white; what else is pale is tissue
        white = np.full(3, 255.0, np.float32)
    filled = rgb.copy()
    filled[blank] = np.rint(white).astype(np.uint8)
    return white, filled


def _coloured_or_dense(rgb: np.ndarray, white: np.ndarray, spec: TissueSpec) -> np.ndarray:
    smooth = cv2.GaussianBlur(rgb, (3, 3), 0)
    scale = np.arange(256, dtype=np.float32)[:, None] / white  # [256, 3]
    balanced = np.clip(scale * 255.0, 0, 255).astype(np.uint8)
    density = -np.log10(np.clip(scale, 1 / 255, 1)) / 3.0
    red, green, blue = (balanced[smooth[..., c], c] for c in range(3))
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    mean_density = sum(density[smooth[..., c], c] for c in range(3))
    return np.asarray((high - low >= spec.min_chroma) | (mean_density >= spec.min_optical_density))


def _textured(rgb: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = max(3, 2 * round(spec.texture_um / mpp / 2) + 1)
    mean = cv2.blur(grey, (side, side))
    variance = cv2.blur(grey * grey, (side, side)) - mean * mean
    mask = (variance >= spec.min_texture**2).astype(np.uint8)
    # The net of walls is closed to a sheet; then the half window by which every edge was widened is taken off.
    mask = cv2.erode(_closed(mask, spec, mpp), np.ones((side, side), np.uint8))
    return np.asarray(mask > 0)


def _closed(image: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    closer = _disc(spec.close_um, mpp)
    if closer is None:
        return image
    # OpenCV takes what lies beyond the rim for tissue when it erodes: without glass around it, gaps to the rim fill.
    margin = closer.shape[0]
    wide = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    wide = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, closer)
    return np.asarray(wide[margin:-margin, margin:-margin])


def _opened(mask: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    opener = _disc(spec.open_um, mpp)
    if opener is None:
        return mask
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, opener) > 0)


def _disc(radius_um: float, mpp: float) -> np.ndarray | None:
    radius = round(radius_um / mpp)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2) if radius >= 1 else None


def _clean(mask: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    image = _closed(mask.astype(np.uint8), spec, mpp)
    image = _keep_pieces(image, spec.min_area_um2 / mpp**2)
    return _keep_pieces(1 - image, spec.max_hole_um2 / mpp**2, holes=True) == 0


def _keep_pieces(image: np.ndarray, min_px: float, *, holes: bool = False) -> np.ndarray:
    """Drop pieces under a number of pixels. A hole ends where the slide ends: one at its rim is glass, and kept."""
    connectivity = 4 if holes else 8
    _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=connectivity)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    if holes:
        keep[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    keep[0] = False
    return keep[labels].astype(np.uint8)


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    factor = min(1.0, THUMBNAIL_PX / max(height, width))
    if factor == 1.0:
        return rgb.copy()
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
