"""Opening slides: which reader, and whose word about the scale counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pathotune_pipeline.errors import ScaleError, SlideNotFoundError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.registry import Registry
from pathotune_pipeline.slides.color import to_srgb
from pathotune_pipeline.slides.reason import reason_of
from pathotune_pipeline.slides.slide import MAX_ANISOTROPY, PLAUSIBLE_MPP, Slide, SlideInfo, SlideSpec, read_into
from pathotune_pipeline.slides.tiff_pages import refuse_damaged

READERS: Registry[Callable[[Path], Slide]] = Registry(
    "slide reader",
    "pathotune_pipeline.readers",
    {
        "jpeg": "pathotune_pipeline.slides.jpeg_tiff:open_with_jpeg",
        "openslide": "pathotune_pipeline.slides.openslide:open_with_openslide",
        "tiffslide": "pathotune_pipeline.slides.tiffslide:open_with_tiffslide",
        "image": "pathotune_pipeline.slides.image:open_image",
    },
)
"""Readers in the order they are tried; those of installed plug-ins come last."""

USER_SOURCES = ("manifest", "override")
"""Values of `SlideInfo.mpp_source` that a user gave: they are believed."""


def open_slide(path: str | os.PathLike[str], spec: SlideSpec | None = None, *, mpp: float | None = None) -> Slide:
    """Open a slide. One without a known scale opens too; see `open_checked`.

    Args:
        path: the slide's file.
        spec: reader and scale settings; the defaults where None.
        mpp: um/px from the manifest. It goes before `spec.mpp_override`, which goes before the file's own claim.

    Raises:
        SlideNotFoundError: there is no such file.
        UnreadableSlideError: no reader can open it; the message gives each one's reason.
        UnknownNameError: `spec.reader` names no reader.
    """
    spec = spec or SlideSpec()
    file = Path(path)
    if not file.exists():
        raise SlideNotFoundError("no such file. Check the manifest's path, and that the archive is mounted.")
    if not file.is_file():
        raise UnreadableSlideError("this is a folder. Name the slide's file (of a DICOM series: a VOLUME file).")
    if spec.reader:
        READERS.get(spec.reader)  # an unknown name is told before the file is looked at
    refuse_damaged(file)
    slide = _open_with(file, [spec.reader] if spec.reader else None)
    if spec.color == "srgb":
        slide = to_srgb(slide)
    if mpp is not None:
        return _rescaled(slide, mpp, "manifest")
    if spec.mpp_override is not None:
        return _rescaled(slide, spec.mpp_override, "override")
    return slide


def open_checked(path: str | os.PathLike[str], spec: SlideSpec | None = None, *, mpp: float | None = None) -> Slide:
    """Open a slide whose scale can be relied on. Arguments as of `open_slide`.

    Raises:
        ScaleError: see `check_scale`.
        SlideError: see `open_slide`.
    """
    spec = spec or SlideSpec()
    slide = open_slide(path, spec, mpp=mpp)
    try:
        check_scale(slide.info, spec, overridden=slide.info.mpp_source in USER_SOURCES)
    except ScaleError:
        slide.close()
        raise
    return slide


def check_scale(info: SlideInfo, spec: SlideSpec, *, overridden: bool = False) -> None:
    """Refuse a slide whose scale is missing or not to be believed.

    Args:
        info: facts of the slide.
        spec: `allow_odd_mpp` lets odd scales pass, but not missing ones.
        overridden: the scale was given by the user and is believed.

    Raises:
        ScaleError: no mpp; outside 0.1-10 um/px; or more than 5 % apart between x and y.
    """
    if info.mpp is None:
        raise ScaleError(
            f"no mpp in its metadata ({info.reader}, tiff resolution tried). Give one in the manifest's mpp column, "
            "or --mpp-override 0.25."
        )
    if overridden or spec.allow_odd_mpp:
        return
    low, high = PLAUSIBLE_MPP
    if not (low <= info.mpp.x <= high and low <= info.mpp.y <= high):
        raise ScaleError(
            f"its metadata claim {info.mpp.mean:.4g} um/px ({info.mpp_source}), outside {low:g}-{high:g}. Give the "
            "true one in the manifest's mpp column or by --mpp-override, or accept it with --allow-odd-mpp."
        )
    if info.mpp.anisotropy > MAX_ANISOTROPY:
        raise ScaleError(
            f"its pixels are not square: {info.mpp.x:.4g} x {info.mpp.y:.4g} um ({info.mpp_source}). Give the true mpp "
            "in the manifest's mpp column or by --mpp-override, or accept it with --allow-odd-mpp."
        )


def _open_with(path: Path, names: list[str] | None) -> Slide:
    refusals = []
    starved: MemoryError | None = None
    for name in names or READERS.names():
        reader = READERS.get(name)
        try:
            return reader(path)
        except UnreadableSlideError as error:
            refusals.append(f"{name}: {str(error).rstrip('.')}")
        except OSError as error:
            refusals.append(f"{name}: {reason_of(error, path)}")
        except MemoryError as error:
            starved = error
            refusals.append(f"{name}: {reason_of(error, path)}")
    raise UnreadableSlideError(
        f"no reader can open it ({'; '.join(refusals)}). Check that the file is complete, or convert it to a "
        "pyramidal TIFF."
    ) from starved


class _Rescaled:
    """A slide whose scale the user gave."""

    def __init__(self, slide: Slide, info: SlideInfo) -> None:
        self._slide = slide
        self._info = info

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        return self._slide.read_region(location, level, size)

    def read_into(self, location: tuple[int, int], level: int, out: np.ndarray) -> None:
        read_into(self._slide, location, level, out=out)

    def close(self) -> None:
        self._slide.close()


def _rescaled(slide: Slide, mpp: float, source: str) -> Slide:
    if not 0 < mpp < float("inf"):
        slide.close()
        raise ScaleError(f"an mpp of {mpp!r} was given ({source}). Give a positive number of um/px, e.g. 0.25.")
    return _Rescaled(slide, replace(slide.info, mpp=Mpp.square(mpp), mpp_source=source))
