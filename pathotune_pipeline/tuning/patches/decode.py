"""Reading the pixels of patches: whole images, and squares around points of slides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from pathotune_pipeline.archive.identity import redact
from pathotune_pipeline.errors import ScaleError, SlideError, TileReadError
from pathotune_pipeline.geometry import Mpp, choose_level
from pathotune_pipeline.slides.open import open_checked, open_slide
from pathotune_pipeline.slides.pyramid import RegionPlan, plan_region, read_planned
from pathotune_pipeline.slides.slide import Slide, SlideInfo, SlideSpec
from pathotune_pipeline.tuning.patches.patch_set import fit_square
from pathotune_pipeline.tuning.patches.ref import PatchRef

_JOB_PATCHES = 256
"""Patches of one slide that one thread reads: many threads share a slide, each with a reader of its own."""


@dataclass(frozen=True, slots=True)
class CropSpec:
    """How patches are read.

    Attributes:
        side_px: of each patch.
        mpp: um/px of patches of slides; None reads level 0 as it is.
        refuse_edge: whether a patch that reaches over a slide's edge counts as unreadable; else it is white there.
        slide: how slides are opened.
    """

    side_px: int
    mpp: float | None
    refuse_edge: bool
    slide: SlideSpec


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of reading patches.

    Attributes:
        unreadable: place of each patch that could not be read, and why.
        padded: patches that reach over a slide's edge and are white there.
    """

    unreadable: dict[int, str]
    padded: int


def decode_patches(refs: Sequence[PatchRef], crop: CropSpec, out: np.ndarray, *, threads: int | None = None) -> Decoded:
    """Read patches, those of one slide in the order in which they lie there.

    Args:
        refs: the patches.
        crop: size and scale.
        out: uint8 [N, side_px, side_px, 3] to fill; rows of patches that cannot be read mean nothing.
        threads: that read at once; None: one for each core.
    """
    order = sorted(range(len(refs)), key=lambda place: (str(refs[place].path), _row(refs[place], crop), place))
    jobs: list[list[int]] = []
    for _, group in groupby(order, key=lambda place: refs[place].path):
        places = list(group)
        jobs += [places[start : start + _JOB_PATCHES] for start in range(0, len(places), _JOB_PATCHES)]
    unreadable: dict[int, str] = {}
    padded = 0
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="patches") as pool:
        for done in pool.map(lambda places: _read_job(places, refs, crop, out), jobs):
            unreadable.update(done.unreadable)
            padded += done.padded
    return Decoded(dict(sorted(unreadable.items())), padded)


def image_sides(refs: Sequence[PatchRef]) -> dict[int, int]:
    """How many whole images have which shorter side, of those that can be opened."""
    sides: dict[int, int] = {}
    for ref in refs:
        try:
            slide = open_slide(ref.path, SlideSpec(reader="image"))
        except (SlideError, OSError):
            continue  # told when it is read
        size = slide.info.size
        slide.close()
        side = min(size.width, size.height)
        sides[side] = sides.get(side, 0) + 1
    return sides


def open_for_crops(path: Path, crop: CropSpec) -> Slide:
    """A slide for crops: its scale is checked where one is asked for.

    Raises:
        SlideError: it cannot be opened, or its scale is missing or not to be believed.
    """
    return open_slide(path, crop.slide) if crop.mpp is None else open_checked(path, crop.slide)


def crop_plan(info: SlideInfo, crop: CropSpec) -> RegionPlan:
    """How patches of a slide are read: at the crop's um/px, or level 0 as it is.

    Raises:
        ScaleError: the slide has no mpp, or is too coarse.
    """
    side = (crop.side_px, crop.side_px)
    if crop.mpp is not None:
        finest = info.level_mpps()
        if choose_level(finest, crop.mpp) is None:
            raise ScaleError(
                f"patches of {crop.mpp:g} um/px were asked for, but its finest level has {finest[0]:.4g}: reading it would "
                f"invent detail. Ask for --patch-mpp {finest[0]:.3g} or coarser."
            )
        return plan_region(info, crop.mpp, side)
    mpp = info.mpp or Mpp.square(1.0)
    return RegionPlan(0, mpp.mean, side, side, (float(crop.side_px), float(crop.side_px)), 1.0, 0.0)


def _row(ref: PatchRef, crop: CropSpec) -> tuple[float, float]:
    """Patches row by row, a patch high, from left to right: neighbours share the blocks that a reader keeps."""
    return (ref.centre[1] // crop.side_px, ref.centre[0]) if ref.centre else (0.0, 0.0)


def _read_job(places: Sequence[int], refs: Sequence[PatchRef], crop: CropSpec, out: np.ndarray) -> Decoded:
    first = refs[places[0]]
    unreadable: dict[int, str] = {}
    padded = 0
    try:
        slide = _open(first, crop)
    except (SlideError, OSError, MemoryError) as error:
        return Decoded(dict.fromkeys(places, redact(str(error), first.path, first.path.name)), 0)
    try:
        for place in places:
            try:
                padded += _read(slide, refs[place], crop, out[place])
            except (SlideError, OSError, MemoryError) as error:
                unreadable[place] = redact(str(error), first.path, first.path.name)
    finally:
        slide.close()
    return Decoded(unreadable, padded)


def _open(ref: PatchRef, crop: CropSpec) -> Slide:
    if ref.centre is None:
        return open_slide(ref.path, crop.slide.with_values(reader="image"))
    return open_for_crops(ref.path, crop)


def _read(slide: Slide, ref: PatchRef, crop: CropSpec, out: np.ndarray) -> bool:
    """Read one patch into `out`; whether it reaches over the slide's edge."""
    size = slide.info.size
    if ref.centre is None:
        out[...] = fit_square(slide.read_region((0, 0), 0, (size.width, size.height)), crop.side_px)
        return False
    plan = crop_plan(slide.info, crop)
    x, y = ref.centre
    if not (0 <= x <= size.width and 0 <= y <= size.height):
        raise TileReadError(
            f"the point ({x:g}, {y:g}) lies outside the slide of {size.width} x {size.height} px. Are the points another "
            "slide's, or not in level-0 pixels?"
        )
    left, top = round(x - plan.extent_level0[0] / 2), round(y - plan.extent_level0[1] / 2)
    beyond = (
        min(left, top) < 0
        or left + plan.extent_level0[0] > size.width + 0.5
        or top + plan.extent_level0[1] > size.height + 0.5
    )
    if beyond and crop.refuse_edge:
        raise TileReadError(
            f"the patch around ({x:g}, {y:g}) reaches over the slide's edge, which patches.edge refuses."
        )
    read_planned(slide, plan, location=(left, top), out=out)
    return beyond
