"""Where the blocks of a tiled TIFF lie: the few tags that matter, read with strict limits.

A damaged or hostile file costs a reason, never memory or time: the number of directories, of tags and of values is
bounded, a directory met twice ends the reading, and nothing is believed that reaches beyond the file's end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pathotune_pipeline.errors import UnreadableSlideError

MAX_PAGES = 512
MAX_TAGS = 1024
MAX_BLOCKS = 1 << 24
MAX_TABLES_BYTES = 1 << 16
MAX_SIDE_PX = 1 << 24
MAX_BLOCK_PIXELS = 1 << 26
"""Of one tile. True ones have a thousandth of it; libraries take the memory that a tile claims, or end the process."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _ORIENTATION, _SAMPLES, _PLANAR = 266, 274, 277, 284
_STRIP_OFFSETS, _STRIP_ROWS, _STRIP_COUNTS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _COUNTS, _SUB_IFDS = 322, 323, 324, 325, 330
_EXTRA, _FORMAT, _TABLES = 338, 339, 347
# Bytes and NumPy type of the TIFF types that hold whole numbers; 7 (undefined) carries the JPEG tables.
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TYPES = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}


_Tags: TypeAlias = dict[int, tuple[int, int, bytes]]


class FileBytes:
    """A file's bytes by position, from any number of threads. Closes when the last reference to it is gone."""

    def __init__(self, path: Path) -> None:
        self._handle = -1
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        self.size = os.fstat(self._handle).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            EOFError: the file ends before them.
            OSError: the file system failed.
        """
        if offset + count > self.size:
            raise EOFError(f"bytes {offset} to {offset + count} were asked for, and the file has {self.size}")
        data = os.pread(self._handle, count, offset)
        while len(data) < count:  # a network file system may give less at once
            more = os.pread(self._handle, count - len(data), offset + len(data))
            if not more:
                raise EOFError(f"the file ended at byte {offset + len(data)} while it was read")
            data += more
        return data

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@dataclass(frozen=True, slots=True)
class PageLayout:
    """A tiled page: sizes in px, how its blocks are stored and where.

    Attributes:
        width, height: of the page.
        tile_width, tile_height: of one block.
        compression, photometric, samples: as the tags say.
        bits: bits of each sample.
        odd: what else the page asks for that plain 8-bit interleaved blocks do not, or "".
        offsets, counts: int64 [blocks], row by row; a block with neither was never scanned.
        tables: JPEGTables, or None.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    compression: int
    photometric: int
    samples: int
    bits: tuple[int, ...]
    odd: str
    offsets: np.ndarray
    counts: np.ndarray
    tables: bytes | None

    @property
    def across(self) -> int:
        """Blocks in a row."""
        return -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        """Rows of blocks."""
        return -(-self.height // self.tile_height)


def read_tiled_pages(file: FileBytes) -> list[PageLayout]:
    """The tiled pages of a TIFF or BigTIFF, in the file's order. Sub-directories are not followed.

    Raises:
        UnreadableSlideError: no TIFF, or its directories make no sense.
    """
    try:
        return _Parser(file).pages()
    except (EOFError, struct.error) as error:
        raise UnreadableSlideError(f"its directories cannot be read: {error}. Copy it again.") from None


def refuse_damaged(path: Path) -> None:
    """Refuse a TIFF whose directories make no sense, before any library that would loop, divide by 0 or crash on it.

    Files of other kinds pass, and so does NDPI, whose offsets are not TIFF's.

    Raises:
        UnreadableSlideError: directories in a circle, sizes of 0 or beyond reason, blocks that are not all placed.
    """
    file = FileBytes(path)
    if path.suffix.lower() == ".ndpi" or file.size < 8 or file.read(0, 4) not in _MAGIC:
        return
    try:
        _Parser(file).check()
    except (EOFError, struct.error) as error:
        raise UnreadableSlideError(f"its directories cannot be read: {error}. Copy it again.") from None


class _Parser:
    def __init__(self, file: FileBytes) -> None:
        self._file = file
        begin = file.read(0, min(16, file.size))
        self._order = {b"II": "<", b"MM": ">"}.get(begin[:2], "")
        if not self._order or len(begin) < 8:
            raise UnreadableSlideError("not a TIFF file.")
        version = struct.unpack(self._order + "H", begin[2:4])[0]
        if version not in (42, 43):
            raise UnreadableSlideError("not a TIFF file.")
        self._big = version == 43
        if self._big:
            width, zero, self._first = struct.unpack(self._order + "HHQ", begin[4:16])
            if (width, zero) != (8, 0):
                raise UnreadableSlideError("its BigTIFF header makes no sense.")
        else:
            self._first = struct.unpack(self._order + "I", begin[4:8])[0]

    def pages(self) -> list[PageLayout]:
        return [self._page(tags) for tags in self._directories() if _TILE_WIDTH in tags and _OFFSETS in tags]

    def check(self) -> None:
        for tags in self._directories():
            if _TILE_WIDTH in tags and _OFFSETS in tags:
                self._page(tags)
            elif _STRIP_OFFSETS in tags:
                self._check_strips(tags)

    def _directories(self) -> Iterator[_Tags]:
        seen: set[int] = set()
        offset = self._first
        while offset:
            if offset in seen:
                raise UnreadableSlideError("its directories form a circle. Copy it again.")
            if len(seen) >= MAX_PAGES:
                raise UnreadableSlideError(f"it has more than {MAX_PAGES} directories.")
            seen.add(offset)
            tags, offset = self._directory(offset)
            yield tags

    def _check_strips(self, tags: _Tags) -> None:
        width, height = self._one(tags, _WIDTH), self._one(tags, _HEIGHT)
        rows = min(self._one(tags, _STRIP_ROWS, height), height)
        _refuse_sides(width, height, rows)
        planes = self._one(tags, _SAMPLES, 1) if self._one(tags, _PLANAR, 1) == 2 else 1
        wanted = -(-height // rows) * planes
        for tag in (_STRIP_OFFSETS, _STRIP_COUNTS):
            placed = self._values(tags, tag, MAX_BLOCKS)
            if placed is not None and len(placed) < wanted:
                raise UnreadableSlideError(f"a page of {wanted} strips places {len(placed)} of them. Copy it again.")

    def _directory(self, offset: int) -> tuple[_Tags, int]:
        count_format, entry_bytes, next_format = ("Q", 20, "Q") if self._big else ("H", 12, "I")
        head = struct.calcsize(self._order + count_format)
        count = struct.unpack(self._order + count_format, self._file.read(offset, head))[0]
        if not 0 < count <= MAX_TAGS:
            raise UnreadableSlideError(f"a directory claims {count} tags; at most {MAX_TAGS} are read.")
        data = self._file.read(offset + head, count * entry_bytes + (8 if self._big else 4))
        tags: _Tags = {}
        for start in range(0, count * entry_bytes, entry_bytes):
            tag, kind, number = struct.unpack_from(self._order + ("HHQ" if self._big else "HHI"), data, start)
            tags[tag] = (kind, number, data[start + (12 if self._big else 8) : start + entry_bytes])
        return tags, struct.unpack_from(self._order + next_format, data, count * entry_bytes)[0]

    def _values(self, tags: _Tags, tag: int, most: int) -> np.ndarray | None:
        if tag not in tags:
            return None
        kind, number, inline = tags[tag]
        if kind not in _TYPES or number > most:
            raise UnreadableSlideError(f"tag {tag} claims {number} values of type {kind}; at most {most} are read.")
        dtype = np.dtype(self._order + _TYPES[kind])
        size = number * dtype.itemsize
        if size > len(inline):
            offset = struct.unpack(self._order + ("Q" if self._big else "I"), inline)[0]
            inline = self._file.read(offset, size)
        return np.frombuffer(inline, dtype, number)

    def _one(self, tags: _Tags, tag: int, default: int | None = None) -> int:
        values = self._values(tags, tag, 64)
        if values is None or not len(values):
            if default is None:
                raise UnreadableSlideError(f"a tiled page lacks tag {tag}.")
            return default
        return int(values[0])

    def _page(self, tags: _Tags) -> PageLayout:
        width, height = self._one(tags, _WIDTH), self._one(tags, _HEIGHT)
        tile_width, tile_height = self._one(tags, _TILE_WIDTH), self._one(tags, _TILE_HEIGHT)
        _refuse_sides(width, height, tile_width, tile_height)
        if tile_width * tile_height > MAX_BLOCK_PIXELS:
            raise UnreadableSlideError(
                f"a page claims tiles of {tile_width} x {tile_height} px; at most {MAX_BLOCK_PIXELS >> 20} million px are read."
            )
        blocks = -(-width // tile_width) * -(-height // tile_height)
        samples, planar = self._one(tags, _SAMPLES, 1), self._one(tags, _PLANAR, 1)
        stored = blocks * (samples if planar == 2 else 1)
        if stored > MAX_BLOCKS:
            raise UnreadableSlideError(f"a page claims {stored} blocks; at most {MAX_BLOCKS} are read.")
        offsets, counts = self._values(tags, _OFFSETS, stored), self._values(tags, _COUNTS, stored)
        if offsets is None or counts is None or len(offsets) != stored or len(counts) != stored:
            raise UnreadableSlideError(f"a page of {stored} blocks does not say where each of them lies.")
        if max(int(offsets.max()), int(counts.max())) >= 1 << 62:
            raise UnreadableSlideError("a page says its blocks lie beyond the end of any file.")
        bits, tables = self._values(tags, _BITS, 64), self._values(tags, _TABLES, MAX_TABLES_BYTES)
        return PageLayout(
            width=width, height=height, tile_width=tile_width, tile_height=tile_height,
            compression=self._one(tags, _COMPRESSION, 1), photometric=self._one(tags, _PHOTOMETRIC, -1),
            samples=samples, bits=(1,) if bits is None else tuple(int(value) for value in bits),
            odd=self._odd(tags, planar), offsets=offsets.astype(np.int64), counts=counts.astype(np.int64),
            tables=None if tables is None else tables.tobytes(),
        )  # fmt: skip

    def _odd(self, tags: _Tags, planar: int) -> str:
        if planar != 1:
            return f"planar configuration {planar}"
        if _SUB_IFDS in tags:
            return "levels in sub-directories"
        if _EXTRA in tags:
            return "extra samples"
        for tag, name in ((_ORIENTATION, "orientation"), (_FORMAT, "sample format"), (_FILL_ORDER, "fill order")):
            value = self._one(tags, tag, 1)
            if value != 1:
                return f"{name} {value}"
        return ""


def _refuse_sides(*sides: int) -> None:
    for side in sides:
        if not 0 < side <= MAX_SIDE_PX:
            raise UnreadableSlideError(f"a page or a block of it claims a side of {side} px. Copy it again.")
