"""The third reader: PNG, JPEG and flat TIFF as slides of one level."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.pixels import over_white, white
from pathotune_pipeline.slides.reason import reason_of
from pathotune_pipeline.slides.slide import Level, Slide, SlideInfo
from pathotune_pipeline.slides.tiff import TiffPage, decode_errors, is_tiff, page_mpp

LARGEST_PIXELS = 1 << 29
"""A PNG or JPEG must be decoded whole; beyond this (1.6 GB) it is refused."""


def open_image(path: Path) -> Slide:
    """Open a PNG, JPEG or TIFF as a slide of one level.

    Args:
        path: the image's file.

    Raises:
        UnreadableSlideError: another format, or too large to decode whole.
    """
    if is_tiff(path):
        return FlatTiffSlide(path)
    return ImageSlide(path)


def _one_level(vendor: str, size: Size, mpp: Mpp | None) -> SlideInfo:
    return SlideInfo(
        vendor=vendor,
        reader="image",
        levels=(Level(size, 1.0),),
        mpp=mpp,
        mpp_source="tiff-resolution" if mpp else None,
        objective_power=None,
    )


class FlatTiffSlide:
    """The first page of a TIFF. An uncompressed one is mapped, others are decoded strip by strip."""

    def __init__(self, path: Path) -> None:
        import tifffile

        try:
            self._file = tifffile.TiffFile(path)
        except decode_errors() as error:
            raise UnreadableSlideError(reason_of(error, path)) from None
        try:
            page = self._file.pages[0].aspage()
            self._page = TiffPage(page, path)
            self._info = _one_level("tiff", Size(self._page.width, self._page.height), page_mpp(page))
        except UnreadableSlideError:
            self._file.close()
            raise
        except decode_errors() as error:
            self._file.close()
            raise UnreadableSlideError(reason_of(error, path)) from None
        self._closed = False

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Pixels of the image; white outside it. See `Slide.read_region`."""
        _refuse_level(level)
        if self._closed:
            raise TileReadError("the slide was closed before this region was read. Open it again.")
        return self._page.region(int(location[0]), int(location[1]), int(size[0]), int(size[1]))

    def close(self) -> None:
        self._closed = True
        self._file.close()


class ImageSlide:
    """A PNG or JPEG, decoded whole at the first read. Its resolution (72 dpi, mostly) says nothing of tissue."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pixels: np.ndarray | None = None
        image = self._open()
        kind, (width, height) = str(image.format).lower(), image.size
        image.close()
        if width * height > LARGEST_PIXELS:
            raise UnreadableSlideError(
                f"{width} x {height} px in one {kind.upper()} must be decoded whole. Convert it to a pyramidal TIFF."
            )
        self._info = _one_level(kind, Size(width, height), None)

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Pixels of the image; white outside it and where it is transparent. See `Slide.read_region`."""
        _refuse_level(level)
        pixels = self._decoded()
        (x, y), (width, height) = location, size
        out = white(width, height)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, pixels.shape[1]), min(y + height, pixels.shape[0])
        if right > left and bottom > top:
            out[top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
        return out

    def close(self) -> None:
        with self._lock:
            self._pixels = None

    def _open(self) -> Any:
        # The plug-ins are called by themselves: Image.open would warn of a "decompression bomb" for any real slide.
        from PIL.JpegImagePlugin import JpegImageFile
        from PIL.PngImagePlugin import PngImageFile

        with self._path.open("rb") as file:
            begin = file.read(8)
        if begin.startswith(b"\x89PNG\r\n\x1a\n"):
            plugin: Any = PngImageFile
        elif begin.startswith(b"\xff\xd8\xff"):
            plugin = JpegImageFile
        else:
            raise UnreadableSlideError("neither PNG, JPEG nor TIFF.")
        try:
            return plugin(str(self._path))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise UnreadableSlideError(reason_of(error, self._path)) from None

    def _decoded(self) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                try:
                    with self._open() as image:
                        has_alpha = "A" in image.getbands() or "transparency" in image.info
                        array = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
                except (OSError, SyntaxError, ValueError, EOFError, UnreadableSlideError) as error:
                    raise TileReadError(f"the image cannot be decoded: {reason_of(error, self._path)}") from None
                self._pixels = over_white(array) if has_alpha else array
            return self._pixels


def _refuse_level(level: int) -> None:
    if level != 0:
        raise TileReadError(f"level {level} was asked for, and this image has level 0 only.")
