"""Finding tissue by colour, density or texture.

Colour alone loses fat, whose cells are as white as the glass and are told by the net of their walls; and it loses
pale mucin, which is denser than glass but hardly coloured. So a pixel is tissue by chroma, by optical density, or by
local standard deviation, each measured against the slide's own white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from pathotune_pipeline.errors import ScaleError
from pathotune_pipeline.slides.illumination import illumination_of
from pathotune_pipeline.slides.pyramid import read_overview
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tissue.artefacts import ARTEFACT_MPP, lines_and_dust_in, shadow_in, without_grey_pieces
from pathotune_pipeline.tissue.density import Density, mean_density
from pathotune_pipeline.tissue.glass import coarsened, disc, enlarged, extremes, white_point, without_blank
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
from pathotune_pipeline.tissue.pen import find_pen
from pathotune_pipeline.tissue.pieces import drop_pieces, fill_holes
from pathotune_pipeline.tissue.quality import measure_quality
from pathotune_pipeline.tissue.segmenter import CLASSIC
from pathotune_pipeline.tissue.slabs import in_slabs

__all__ = ["REVISION", "Examined", "examine", "find_tissue", "tissue_of", "white_point"]

REVISION = 1
"""Raised by hand whenever the mask of any slide changes: it is part of the stage's fingerprint."""

THUMBNAIL_PX = 1024
_AROUND_UM = 400.0


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
    mpp = (mpp_x * mpp_y) ** 0.5
    found = examine(overview, spec, mpp=mpp)
    return TissueMask(
        mask=found.mask,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        level0_mpp=info.mpp,
        level0_size=info.size,
        thumbnail=thumbnail_of(overview),
        # Stain, glass and pen are measures of a brightfield slide.
        quality=measure_quality(overview, found.mask, found.pen, white=found.white, mpp=mpp)
        if found.white.any()
        else None,
        pen=found.pen,
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
    return examine(rgb, spec, mpp=mpp).mask


@dataclass(frozen=True)
class Examined:
    """What was found in an overview.

    Attributes:
        mask: bool [h, w], the tissue.
        pen: bool [h, w], pen with its margin.
        white: float32 [3], 0-255, the colour of empty glass.
    """

    mask: np.ndarray
    pen: np.ndarray
    white: np.ndarray


def examine(rgb: np.ndarray, spec: TissueSpec, *, mpp: float) -> Examined:
    """Tissue and pen in an overview.

    Args:
        rgb: uint8 [h, w, 3].
        spec: thresholds, lengths and areas.
        mpp: um/px of the overview.
    """
    if illumination_of(rgb) == "fluorescence":
        return _glowing(rgb, spec, mpp)
    white, rgb = without_blank(rgb)
    small, small_mpp = coarsened(rgb, mpp, ARTEFACT_MPP)
    density = Density.of(small, white)
    shadow = shadow_in(density, small_mpp)
    pen = find_pen(small, white=white, mpp=small_mpp, shadow=shadow)
    pen = enlarged(_widened(pen, spec.pen_margin_um, small_mpp), rgb)
    never = extremes(cv2.split(rgb))[1] <= spec.black_level
    if spec.drop_pen:
        never |= pen
    specks = np.zeros_like(never)
    if spec.drop_artefacts:
        never |= enlarged(shadow, rgb)
        specks = enlarged(lines_and_dust_in(density, small_mpp), rgb)
    ever = ~never
    textured = _textured(rgb, spec, mpp) & ever
    stained = in_slabs(rgb, lambda part: _coloured_or_dense(part, white, spec), margin=1) & ever
    faint = _faint(rgb, white, spec, mpp) & ever
    specks &= _on_glass(stained | faint | textured, specks, mpp)
    mask = np.zeros_like(never)
    for found in (stained, faint, textured):
        mask |= _opened(found & ~specks, spec, mpp)
    # Closing bridges what is narrow. A line over tissue may be closed again; pen, shadow and black stay out.
    mask = _clean(mask, spec, mpp) & ever
    return Examined(without_grey_pieces(mask, rgb, white, mpp=mpp) if spec.drop_artefacts else mask, pen, white)


def _glowing(rgb: np.ndarray, spec: TissueSpec, mpp: float) -> Examined:
    """A fluorescence slide: tissue is what gives light. Stains, pen and glass mean nothing there."""
    # Nuclei are specks of light: they are closed to a sheet before specks are dropped.
    bright = _closed((extremes(cv2.split(rgb))[1] > spec.black_level).view(np.uint8), spec, mpp) > 0
    white = np.zeros(3, np.float32)
    return Examined(_clean(bright, spec, mpp), np.zeros(rgb.shape[:2], bool), white)


def _on_glass(tissue: np.ndarray, specks: np.ndarray, mpp: float) -> np.ndarray:
    """Where most of what lies around, specks apart, is glass. The grey walls of fat are no dust, nor mucin a line."""
    if not specks.any():
        return specks
    side = 2 * round(_AROUND_UM / mpp / 2) + 1
    # Glass is 2, what counts as neither 1, tissue 0: the mean is above 1 where glass prevails.
    around = np.where(specks, np.uint8(1), np.uint8(2) * ~tissue)
    return np.asarray(cv2.boxFilter(around, cv2.CV_32S, (side, side), normalize=False) > side * side)


def _widened(found: np.ndarray, margin_um: float, mpp: float) -> np.ndarray:
    widener = disc(margin_um, mpp)
    if widener is None or not found.any():
        return found
    return np.asarray(cv2.dilate(found.view(np.uint8), widener) > 0)


def _balanced(planes: Sequence[np.ndarray], white: np.ndarray) -> list[np.ndarray]:
    """Planes as they would be if glass were as bright as can be."""
    scale = np.arange(256, dtype=np.float32) / white[:, None]  # [3, 256]
    tables = np.clip(scale * 255.0, 0, 255).astype(np.uint8)
    return [np.asarray(cv2.LUT(plane, table)) for plane, table in zip(planes, tables, strict=True)]


def _coloured_or_dense(rgb: np.ndarray, white: np.ndarray, spec: TissueSpec) -> np.ndarray:
    smooth = cv2.GaussianBlur(rgb, (3, 3), 0)
    low, high = extremes(_balanced(cv2.split(smooth), white))
    coloured = cv2.subtract(high, low) >= ceil(spec.min_chroma)
    return np.asarray(coloured | (mean_density(smooth, white) >= spec.min_optical_density))


def _faint(rgb: np.ndarray, white: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    """Pale stain, seen in local means: both stains absorb green most, which the tints of glass do not."""
    side = _window(spec, mpp)

    def look(part: np.ndarray) -> np.ndarray:
        red, green, blue = _balanced(cv2.split(cv2.blur(part, (side, side))), white)
        stained = cv2.subtract(cv2.max(red, blue), green) >= ceil(spec.min_faint_chroma)
        return np.asarray(stained & (cv2.subtract(green, red) <= 2) & (cv2.subtract(blue, green) >= 2))

    stained = in_slabs(rgb, look, margin=side // 2)
    # The means have widened every strong edge by half a window.
    return np.asarray(cv2.erode(stained.view(np.uint8), np.ones((side, side), np.uint8)) > 0)


def _textured(rgb: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    side = _window(spec, mpp)

    def look(part: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32)
        mean = cv2.blur(grey, (side, side))
        variance = cv2.blur(grey * grey, (side, side)) - mean * mean
        return np.asarray(variance >= spec.min_texture**2)

    uneven = in_slabs(rgb, look, margin=side // 2).view(np.uint8)
    # The net of walls is closed to a sheet; then the half window by which every edge was widened is taken off.
    return np.asarray(cv2.erode(_closed(uneven, spec, mpp), np.ones((side, side), np.uint8)) > 0)


def _window(spec: TissueSpec, mpp: float) -> int:
    return max(3, 2 * round(spec.texture_um / mpp / 2) + 1)


def _closed(image: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    closer = disc(spec.close_um, mpp)
    if closer is None or not image.any():
        return image
    # OpenCV takes what lies beyond the rim for tissue when it erodes: without glass around it, gaps to the rim fill.
    margin = closer.shape[0]
    wide = cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    wide = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, closer)
    return np.asarray(wide[margin:-margin, margin:-margin])


def _opened(mask: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    opener = disc(spec.open_um, mpp)
    if opener is None or not mask.any():
        return mask
    return np.asarray(cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, opener) > 0)


def _clean(mask: np.ndarray, spec: TissueSpec, mpp: float) -> np.ndarray:
    image = _closed(mask.view(np.uint8), spec, mpp)
    image = drop_pieces(image, under_px=spec.min_area_um2 / mpp**2)
    return fill_holes(image, under_px=spec.max_hole_um2 / mpp**2)


def thumbnail_of(rgb: np.ndarray) -> np.ndarray:
    """An overview, its long side at most 1024 px: uint8 [h, w, 3]."""
    height, width = rgb.shape[:2]
    factor = min(1.0, THUMBNAIL_PX / max(height, width))
    if factor == 1.0:
        return rgb.copy()
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    while min(width // size[0], height // size[1]) >= 2:  # by halves, which costs a fraction of any other factor
        rgb = rgb[: height // 2 * 2, : width // 2 * 2]
        width, height = width // 2, height // 2
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return rgb if rgb.shape[1::-1] == size else np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
