"""The reader for everything OpenSlide knows: SVS, NDPI, MRXS, SCN, DICOM, generic tiled TIFF and more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.color import icc_name
from pathotune_pipeline.slides.dicom import refuse_unless_volume
from pathotune_pipeline.slides.pixels import over_white
from pathotune_pipeline.slides.reason import reason_of
from pathotune_pipeline.slides.slide import Level, SlideInfo
from pathotune_pipeline.slides.tiff import mpp_of_resolution
from pathotune_pipeline.slides.tiff_pages import FileBytes, read_tiled_pages

CACHE_BYTES = 64 * 1024 * 1024
"""Decoded blocks that one handle keeps: a row of 256 px blocks of a slide 60,000 px wide."""


def open_with_openslide(path: Path) -> OpenSlideSlide:
    """Open a slide with OpenSlide.

    Args:
        path: the slide's file.

    Raises:
        UnreadableSlideError: OpenSlide cannot open it, or it is the label, overview or thumbnail of a DICOM series.
    """
    refuse_unless_volume(path)
    return OpenSlideSlide(path)


def describe_with_openslide(path: Path) -> tuple[SlideInfo, bytes | None]:
    """What OpenSlide says a file is, and its ICC profile, without keeping it open.

    Raises:
        UnreadableSlideError: OpenSlide cannot open it.
    """
    with _open(path) as handle:
        return _describe(handle), _profile(handle)


class OpenSlideSlide:
    """A slide read by OpenSlide. Label, macro and thumbnail are never read.

    Once a read on an OpenSlide handle fails, every read on it fails, those of other threads under way included. So
    a dead handle is replaced, and a region that failed is asked for once more on a handle of its own: only what
    fails alone is unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._swap_lock = threading.Lock()
        self._alone_lock = threading.Lock()
        handle = self._open()
        self._handle: Any = handle
        self._closed = False
        self._info = _describe(handle)
        if self._info.vendor == "generic-tiff":
            _refuse_emptied(path)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Pixels of one level, composited over white. See `Slide.read_region`."""
        from openslide import OpenSlideError

        handle = self._handle
        if self._closed or handle is None:
            raise TileReadError("the slide was closed before this region was read. Open it again.")
        try:
            return _pixels(handle, location, level, size)
        except OpenSlideError:
            self._replace(handle)
        except MemoryError:
            raise TileReadError(f"{size[0]} x {size[1]} px need more memory than there is.") from None
        with self._alone_lock:
            return self._read_alone(location, level, size)

    def icc_profile(self) -> bytes | None:
        """The slide's ICC profile, or None."""
        with _open(self._path) as handle:
            return _profile(handle)

    def close(self) -> None:
        """Let go of the handle; it closes when the last read under way has ended."""
        with self._swap_lock:
            self._closed = True
            self._handle = None

    def _open(self) -> Any:
        return _open(self._path)

    def _replace(self, dead: Any) -> None:
        with self._swap_lock:
            if self._handle is dead and not self._closed:
                try:
                    self._handle = self._open()
                except UnreadableSlideError as error:
                    raise TileReadError(f"OpenSlide could not open the slide again after an error: {error}") from None

    def _read_alone(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        from openslide import OpenSlideError

        try:
            with self._open() as handle:
                return _pixels(handle, location, level, size)
        except (OpenSlideError, UnreadableSlideError) as error:
            raise TileReadError(
                f"{size[0]} x {size[1]} px at {tuple(location)} of level {level} cannot be decoded: "
                f"{reason_of(error, self._path)}"
            ) from None


def _open(path: Path) -> Any:
    from openslide import OpenSlide, OpenSlideCache, OpenSlideError

    try:
        handle = OpenSlide(str(path))
        handle.set_cache(OpenSlideCache(CACHE_BYTES))
    except (OpenSlideError, OSError, ValueError) as error:
        raise UnreadableSlideError(reason_of(error, path)) from None
    return handle


def _refuse_emptied(path: Path) -> None:
    # OpenSlide takes a block without bytes for one never scanned, which is white; TIFF's sparse blocks have no offset.
    for page in read_tiled_pages(FileBytes(path)):
        lost = int(((page.counts == 0) & (page.offsets != 0)).sum())
        if lost:
            raise UnreadableSlideError(f"{lost} of its blocks have a place in the file, and no bytes.")


def _profile(handle: Any) -> bytes | None:
    from openslide import OpenSlideError

    if not handle.properties.get("openslide.icc-size"):
        return None
    try:
        return bytes(handle.color_profile.tobytes())
    except (OpenSlideError, OSError, ValueError):
        return None  # not a profile that any colour engine takes


def _pixels(handle: Any, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    # openslide-python has already undone the premultiplication; where alpha is 0 it leaves black.
    x, y = location
    return over_white(np.asarray(handle.read_region((int(x), int(y)), level, (int(size[0]), int(size[1])))))


def _describe(handle: Any) -> SlideInfo:
    properties: Mapping[str, str] = handle.properties
    vendor = properties.get("openslide.vendor", "unknown")
    mpp, source = _scale(properties, vendor)
    levels = tuple(
        Level(Size(width, height), float(downsample))
        for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    )
    return SlideInfo(
        vendor=vendor,
        reader="openslide",
        levels=levels,
        mpp=mpp,
        mpp_source=source,
        objective_power=_positive(properties.get("openslide.objective-power")),
        icc=icc_name(_profile(handle)),
    )


def _scale(properties: Mapping[str, str], vendor: str) -> tuple[Mpp | None, str | None]:
    x, y = _positive(properties.get("openslide.mpp-x")), _positive(properties.get("openslide.mpp-y"))
    if x or y:
        # For a generic TIFF OpenSlide's figure is nothing but the resolution tag, so it is called by that name.
        return Mpp(x or y or 0.0, y or x or 0.0), "tiff-resolution" if vendor == "generic-tiff" else "openslide"
    tagged = mpp_of_resolution(
        _positive(properties.get("tiff.XResolution")),
        _positive(properties.get("tiff.YResolution")),
        properties.get("tiff.ResolutionUnit", ""),
    )
    return tagged, "tiff-resolution" if tagged else None


def _positive(text: str | None) -> float | None:
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if 0.0 < value < float("inf") else None
