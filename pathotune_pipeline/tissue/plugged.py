"""Tissue as a segmenter that is plugged in tells it."""

from __future__ import annotations

import threading

import numpy as np

from pathotune_pipeline.errors import ScaleError, UnreadableSlideError
from pathotune_pipeline.slides.pyramid import read_overview
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec
from pathotune_pipeline.tissue.pieces import drop_pieces, fill_holes
from pathotune_pipeline.tissue.segment import thumbnail_of
from pathotune_pipeline.tissue.segmenter import Segmenter, create_segmenter

_resident: dict[str, Segmenter] = {}
_resident_lock = threading.Lock()


def find_plugged(slide: Slide, spec: TissueSpec) -> TissueMask:
    """Find a slide's tissue with the segmenter that a Spec names; small pieces go and small holes are filled as ever.

    Raises:
        UnknownNameError: none has that name.
        WeightsError: its files are absent or wrong.
        ScaleError: the slide has no mpp.
        TileReadError: a part of the slide cannot be decoded.
        UnreadableSlideError: the segmenter gave no mask of the overview's shape.
    """
    segmenter = _kept(spec)
    overview, mpp_x, mpp_y = read_overview(slide, segmenter.mpp or spec.mpp)
    if slide.info.mpp is None:  # read_overview has refused it; said again for the type checker
        raise ScaleError("no mpp in its metadata.")
    mpp = (mpp_x * mpp_y) ** 0.5
    found = np.asarray(segmenter(overview, mpp))
    if found.shape != overview.shape[:2]:
        raise UnreadableSlideError(
            f"--segmenter {spec.segmenter.partition(':')[0]} gave an array of {found.shape} for an overview of "
            f"{overview.shape[:2]}. It must give a mask of the same rows and columns."
        )
    mask = (found if found.dtype == bool else found >= 0.5).astype(np.uint8)
    mask = drop_pieces(mask, under_px=spec.min_area_um2 / mpp**2)
    mask = fill_holes(mask, under_px=spec.max_hole_um2 / mpp**2)
    return TissueMask(mask, mpp_x, mpp_y, slide.info.mpp, slide.info.size, thumbnail_of(overview))


def _kept(spec: TissueSpec) -> Segmenter:
    """This process's copy of the segmenter; another one where the file has changed."""
    made = create_segmenter(spec)
    key = f"{spec.segmenter}|{spec.segmenter_device}|{made.recipe()}"
    with _resident_lock:
        return _resident.setdefault(key, made)
