"""The second reader, for tiled TIFF files that OpenSlide refuses: tiffslide finds the levels and the scale.

Pixels are decoded block by block with tifffile's codecs rather than through tiffslide's zarr store, which holds
Python's lock, fills what it cannot read with black, and truncates locations.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.reason import reason_of
from pathotune_pipeline.slides.slide import Level, SlideInfo
from pathotune_pipeline.slides.tiff import TiffPage, decode_errors, is_tiff, page_mpp


def open_with_tiffslide(path: Path) -> TiffSlideSlide:
    """Open a tiled TIFF through tiffslide.

    Args:
        path: the slide's file.

    Raises:
        UnreadableSlideError: it is no TIFF, not tiled, or uses a layout or compression that cannot be read.
    """
    if not is_tiff(path):
        raise UnreadableSlideError("not a TIFF file.")
    return TiffSlideSlide(path)


class TiffSlideSlide:
    """A tiled TIFF whose levels tiffslide names."""

    def __init__(self, path: Path) -> None:
        from tiffslide import TiffSlide

        try:
            self._slide: Any = TiffSlide(path)
        except decode_errors() as error:
            raise UnreadableSlideError(reason_of(error, path)) from None
        try:
            properties = self._slide.properties
            self._pages = [TiffPage(page, path) for page in _level_pages(self._slide, properties)]
            self._info = _describe(properties, self._pages, self._slide)
        except UnreadableSlideError:
            self._slide.close()
            raise
        except decode_errors() as error:
            self._slide.close()
            raise UnreadableSlideError(reason_of(error, path)) from None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Pixels of one level. See `Slide.read_region`; locations are rounded to pixels of the level."""
        if self._closed:
            raise TileReadError("the slide was closed before this region was read. Open it again.")
        downsample = self._info.levels[level].downsample
        x, y = round(location[0] / downsample), round(location[1] / downsample)
        return self._pages[level].region(x, y, int(size[0]), int(size[1]))

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._slide.close()


def _level_pages(slide: Any, properties: dict[str, Any]) -> list[Any]:
    if properties.get("tiffslide.series-composition") is not None:
        raise UnreadableSlideError("its regions lie in several series, which this reader does not join.")
    series = slide.ts_tifffile.series[int(properties.get("tiffslide.series-index") or 0)]
    pages = []
    for level in series.levels[: slide.level_count]:
        if len(level.pages) != 1 or level.pages[0] is None:
            raise UnreadableSlideError("a level of its pyramid is spread over several pages.")
        page = level.pages[0].aspage()
        if not page.is_tiled:
            raise UnreadableSlideError("it is not tiled; the image reader takes such files.")
        pages.append(page)
    return pages


def _describe(properties: dict[str, Any], pages: list[TiffPage], slide: Any) -> SlideInfo:
    x, y = properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")
    mpp: Mpp | None = Mpp(float(x), float(y)) if x and y else None
    source = "tiff-resolution" if mpp else None
    if mpp and properties.get("tiffslide.vendor"):
        source = "tiffslide"
    if mpp is None:
        mpp = page_mpp(slide.ts_tifffile.pages[0])
        source = "tiff-resolution" if mpp else None
    power = properties.get("tiffslide.objective-power")
    return SlideInfo(
        vendor=str(properties.get("tiffslide.vendor") or "generic-tiff"),
        reader="tiffslide",
        levels=tuple(
            Level(Size(page.width, page.height), float(downsample))
            for page, downsample in zip(pages, slide.level_downsamples, strict=True)
        ),
        mpp=mpp,
        mpp_source=source,
        objective_power=float(power) if power else None,
    )
