"""TIFF without OpenSlide: the scale its tags claim, and regions of a page decoded block by block."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.slides.pixels import to_rgb, white
from pathotune_pipeline.slides.reason import reason_of

CACHE_BYTES = 128 * 1024 * 1024
"""Decoded blocks kept: more than one strip of `read_overview` (256 rows) of a flat slide 100,000 px wide."""
LARGEST_BLOCK_BYTES = 1 << 31
"""A strip or tile that decodes to more is refused: one read would take all the memory."""
_UM_PER_UNIT = {"inch": 25_400.0, "2": 25_400.0, "centimeter": 10_000.0, "3": 10_000.0}
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RGB, _YCBCR, _BLACK_IS_ZERO = 2, 6, 1
_JPEG = (6, 7)


def is_tiff(path: Path) -> bool:
    """Whether the file begins as TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def mpp_of_resolution(x: float | None, y: float | None, unit: str) -> Mpp | None:
    """um/px that TIFF resolution tags claim, plausible or not.

    Args:
        x: pixels per unit along x, None or 0 where not given.
        y: the same along y.
        unit: "centimeter" or "3", "inch" or "2"; anything else is no unit, and the claim is worth nothing.
    """
    um = _UM_PER_UNIT.get(unit.strip().lower())
    if um is None or not (x or y):
        return None
    across, down = x or y, y or x
    return Mpp(um / across, um / down) if across and down else None


def page_mpp(page: Any) -> Mpp | None:
    """um/px that the resolution tags of a tifffile page claim, or None."""
    values = []
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        top, bottom = tag.value if tag is not None else (0, 1)
        values.append(top / bottom if bottom else 0.0)
    unit = page.tags.get("ResolutionUnit")
    # TIFF 6.0: the unit is inch where the tag is absent.
    return mpp_of_resolution(values[0], values[1], "2" if unit is None else str(int(unit.value)))


def decode_errors() -> tuple[type[Exception], ...]:
    """What tifffile and its codecs raise on files they cannot read."""
    import struct
    import zlib

    from tifffile import TiffFileError

    return (
        TiffFileError, OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError,
        RuntimeError, NotImplementedError, MemoryError, struct.error, zlib.error,
    )  # fmt: skip


class TiffPage:
    """One page of a TIFF, read by region. Each block is decoded once while it stays in the cache.

    Several threads may read at once; only fetching the compressed bytes is locked.
    """

    def __init__(self, page: Any, path: Path) -> None:
        _refuse_odd(page)
        _refuse_truncated(page)
        self._page = page
        self._path = path
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self._block_width = int(page.tilewidth) if page.is_tiled else self.width
        self._block_height = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), self.height)
        self._across = -(-self.width // self._block_width)
        self._mapped = page.asarray(out="memmap").reshape(self.height, self.width, -1) if page.is_memmappable else None
        decoded_bytes = self._block_width * self._block_height * int(page.samplesperpixel)
        if self._mapped is None and decoded_bytes > LARGEST_BLOCK_BYTES:
            raise UnreadableSlideError(
                f"its pixels lie in one block of {decoded_bytes / 1e9:.1f} GB. Convert it to a tiled pyramidal TIFF."
            )

    def region(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of the page; white outside it.

        Args:
            x: left edge in pixels of this page, may be negative.
            y: top edge.
            width: in pixels of this page.
            height: in pixels of this page.

        Returns:
            uint8 [height, width, 3].

        Raises:
            TileReadError: a block cannot be decoded.
        """
        out = white(width, height)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        if right <= left or bottom <= top:
            return out
        if self._mapped is not None:
            out[top - y : bottom - y, left - x : right - x] = to_rgb(self._mapped[top:bottom, left:right])
            return out
        for row in range(top // self._block_height, -(-bottom // self._block_height)):
            for column in range(left // self._block_width, -(-right // self._block_width)):
                block = self._block(row * self._across + column)
                x0, y0 = column * self._block_width, row * self._block_height
                x1, y1 = min(right, x0 + block.shape[1]), min(bottom, y0 + block.shape[0])
                from_x, from_y = max(left, x0), max(top, y0)
                if x1 > from_x and y1 > from_y:
                    out[from_y - y : y1 - y, from_x - x : x1 - x] = block[from_y - y0 : y1 - y0, from_x - x0 : x1 - x0]
        return out

    def _block(self, index: int) -> np.ndarray:
        with self._lock:
            kept = self._blocks.get(index)
            if kept is not None:
                self._blocks.move_to_end(index)
                return kept
        block = self._decode(index)
        with self._lock:
            if index not in self._blocks:
                self._blocks[index] = block
                self._cached_bytes += block.nbytes
            while self._cached_bytes > CACHE_BYTES and len(self._blocks) > 1:
                self._cached_bytes -= self._blocks.popitem(last=False)[1].nbytes
        return block

    def _decode(self, index: int) -> np.ndarray:
        page = self._page
        try:
            with self._lock:
                count = page.databytecounts[index]
                if not count and page.dataoffsets[index]:
                    raise ValueError("it has a place in the file, and no bytes")
                handle = page.parent.filehandle
                handle.seek(page.dataoffsets[index])
                data = handle.read(count) if count else None
            shared = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            tables = {name: value for name, value in shared.items() if value is not None}
            samples, _, shape = page.decode(data, index, **tables)
            if samples is None:  # a sparse file: nothing was scanned here
                return white(int(shape[2]), int(shape[1]))
            return np.ascontiguousarray(to_rgb(samples[0, : shape[1], : shape[2]]))
        except decode_errors() as error:
            raise TileReadError(f"block {index} cannot be decoded: {reason_of(error, self._path)}") from None


def _refuse_odd(page: Any) -> None:
    import tifffile

    compression, photometric = int(page.compression), int(page.photometric)
    samples = int(page.samplesperpixel)
    if compression != 1 and compression not in tifffile.TIFF.DECOMPRESSORS:
        raise UnreadableSlideError(f"TIFF compression {compression} is not supported.")
    if page.dtype is None or page.dtype != np.uint8 or int(page.bitspersample) != 8:
        raise UnreadableSlideError(f"its pixels are {page.dtype}; 8-bit pixels can be read. Convert it to 8 bits.")
    known = photometric in (_RGB, _BLACK_IS_ZERO) or (photometric == _YCBCR and compression in _JPEG)
    contiguous = samples == 1 or int(page.planarconfig) == 1
    if not known or not contiguous or samples not in (1, 3, 4) or int(page.imagedepth) != 1:
        raise UnreadableSlideError(
            f"its pixels are laid out as {samples} samples, photometric {photometric}, planar configuration "
            f"{int(page.planarconfig)}; interleaved grey, RGB or RGBA can be read. Convert it to RGB."
        )


def _refuse_truncated(page: Any) -> None:
    needed = max(
        (offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0
    )
    present = int(page.parent.filehandle.size)
    if needed > present:
        raise UnreadableSlideError(
            f"it is cut short: its pixels reach to byte {needed}, and it has {present}. Copy it again."
        )
