"""The first reader: SVS and generic TIFF slides of JPEG (or JPEG 2000) blocks, each block decoded once.

OpenSlide says what the slide is (its vendor, levels and scale), so both readers tell the same. The pixels come from the
file's blocks directly: OpenSlide composites every block into every region, which takes five times as long as libjpeg
takes to decode it. What is not covered exactly is refused and left to OpenSlide.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pathotune_pipeline.errors import TileReadError, UnreadableSlideError
from pathotune_pipeline.slides.block_cache import BlockCache
from pathotune_pipeline.slides.jpeg_blocks import (
    JPEG,
    BlockDecoder,
    refuse_unless_covered,
    refuse_unless_plain_jpeg2000,
)
from pathotune_pipeline.slides.openslide import describe_with_openslide
from pathotune_pipeline.slides.pixels import WHITE
from pathotune_pipeline.slides.reason import reason_of
from pathotune_pipeline.slides.slide import SlideInfo
from pathotune_pipeline.slides.tiff_pages import FileBytes, PageLayout, read_tiled_pages

LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 32 << 20, 128 << 20
"""Bounds of the cache: between them it holds three rows of the slide's blocks."""
MOST_BYTES_PER_PIXEL = 8
"""A block that claims more compressed bytes than this for each of its pixels is damaged (plus 64 KB for tables)."""
_VENDORS = ("aperio", "generic-tiff")


def open_with_jpeg(path: Path) -> JpegTiffSlide:
    """Open an SVS or a generic tiled TIFF whose blocks are JPEG or JPEG 2000.

    Args:
        path: the slide's file.

    Raises:
        UnreadableSlideError: another format, or a layout that this reader does not cover exactly.
    """
    return JpegTiffSlide(path)


@dataclass(frozen=True, slots=True)
class _LevelBlocks:
    """A level: where its blocks lie and what decodes them."""

    page: PageLayout
    decoder: BlockDecoder
    shape: tuple[int, int, int]
    most_bytes: int


class JpegTiffSlide:
    """A slide read from its JPEG blocks. Several threads may read at once; they share the decoded blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            file = FileBytes(path)
            pages = read_tiled_pages(file)
        except OSError as error:
            raise UnreadableSlideError(reason_of(error, path)) from None
        if not pages:
            raise UnreadableSlideError("no tiled page is in it.")
        refuse_unless_covered(pages[0])  # before OpenSlide is asked: most files of other kinds end here
        info, self._icc = describe_with_openslide(path)
        if info.vendor not in _VENDORS:
            raise UnreadableSlideError(f"format {info.vendor} is not read directly.")
        self._levels = [_level(_page_of(pages, info, index)) for index in range(len(info.levels))]
        for index, level in enumerate(self._levels):
            _refuse_holes(level.page, info.vendor, index)
        _refuse_odd_jpeg2000(file, self._levels)
        self._info = replace(info, reader="jpeg")
        self._file: FileBytes | None = file
        row_bytes = max(level.page.across * int(np.prod(level.shape)) for level in self._levels)
        self._cache = BlockCache(min(MOST_CACHE_BYTES, max(LEAST_CACHE_BYTES, 3 * row_bytes)))
        self._shared = [False] * len(self._levels)  # whether a read of the level ever took part of a block
        self._lock = threading.Lock()

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        """Pixels of one level. See `Slide.read_region`; locations are rounded to pixels of the level."""
        out = np.empty((int(size[1]), int(size[0]), 3), np.uint8)
        self.read_into(location, level, out)
        return out

    def read_into(self, location: tuple[int, int], level: int, out: np.ndarray) -> None:
        """Pixels of one level, into memory that is already there. See `slide.read_into`."""
        file = self._file
        if file is None:
            raise TileReadError("the slide was closed before this region was read. Open it again.")
        downsample = self._info.levels[level].downsample
        x, y = round(location[0] / downsample), round(location[1] / downsample)
        height, width = out.shape[:2]
        blocks = self._levels[level]
        page = blocks.page
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, page.width), min(y + height, page.height)
        if right - left < width or bottom - top < height:
            out[...] = WHITE
        if right <= left or bottom <= top:
            return
        across, down = page.tile_width, page.tile_height
        if self._is_one_block(blocks, (x, y), out) and not self._shared[level]:
            index = y // down * page.across + x // across
            if (level, index) not in self._cache:
                self._decode(file, level, index, out)
                return
        if (
            left % across
            or top % down
            or right % across * (right < page.width)
            or bottom % down * (bottom < page.height)
        ):
            self._shared[level] = True
        for row in range(top // down, -(-bottom // down)):
            y0 = row * down
            from_y, to_y = max(top, y0), min(bottom, y0 + down)
            for column in range(left // across, -(-right // across)):
                x0 = column * across
                from_x, to_x = max(left, x0), min(right, x0 + across)
                pixels = out[from_y - y : to_y - y, from_x - x : to_x - x]
                self._copy(file, (level, row * page.across + column), (from_x - x0, from_y - y0), pixels)

    def icc_profile(self) -> bytes | None:
        """The slide's ICC profile, or None."""
        return self._icc

    def close(self) -> None:
        """Let go of the file; it closes when the last read under way has ended."""
        with self._lock:
            self._file = None
            self._cache.clear()

    @staticmethod
    def _is_one_block(blocks: _LevelBlocks, at: tuple[int, int], out: np.ndarray) -> bool:
        page, (x, y) = blocks.page, at
        return (
            out.shape == blocks.shape
            and x % page.tile_width == 0
            and y % page.tile_height == 0
            and 0 <= x <= page.width - page.tile_width
            and 0 <= y <= page.height - page.tile_height
            and out.flags.c_contiguous
        )

    def _copy(self, file: FileBytes, key: tuple[int, int], at: tuple[int, int], out: np.ndarray) -> None:
        shape = self._levels[key[0]].shape
        block = self._cache.acquire(key, shape, lambda pixels: self._decode(file, *key, pixels))
        try:
            x, y = at
            out[...] = block.pixels[y : y + out.shape[0], x : x + out.shape[1]]
        finally:
            self._cache.release(block)

    def _decode(self, file: FileBytes, level: int, index: int, out: np.ndarray) -> None:
        blocks = self._levels[level]
        offset, count = int(blocks.page.offsets[index]), int(blocks.page.counts[index])
        if not count and not offset:
            out[...] = WHITE  # a sparse file: nothing was scanned here
            return
        try:
            if not 0 < count <= blocks.most_bytes:
                raise ValueError(f"it claims {count} bytes")
            blocks.decoder.decode(file.read(offset, count), out)
        except (ValueError, EOFError, OSError, MemoryError) as error:
            raise TileReadError(
                f"block {index} of level {level} cannot be decoded: {reason_of(error, self._path)}"
            ) from None


def _page_of(pages: list[PageLayout], info: SlideInfo, index: int) -> PageLayout:
    size = info.levels[index].size
    fitting = [page for page in pages if (page.width, page.height) == (size.width, size.height)]
    if len(fitting) != 1:
        raise UnreadableSlideError(f"{len(fitting)} of its pages have the size of level {index}; one is expected.")
    return fitting[0]


def _level(page: PageLayout) -> _LevelBlocks:
    pixels = page.tile_width * page.tile_height
    return _LevelBlocks(
        page, BlockDecoder(page), (page.tile_height, page.tile_width, 3), MOST_BYTES_PER_PIXEL * pixels + (1 << 16)
    )


def _refuse_holes(page: PageLayout, vendor: str, index: int) -> None:
    # Where a lower level of an SVS has a hole, OpenSlide shrinks the finer level into it.
    if index and vendor == "aperio" and not page.counts.all():
        raise UnreadableSlideError(f"blocks of level {index} are missing, which OpenSlide fills from the finer level.")


def _refuse_odd_jpeg2000(file: FileBytes, levels: list[_LevelBlocks]) -> None:
    for level in levels:
        page = level.page
        present = np.flatnonzero(page.counts)
        if page.compression == JPEG or not len(present):
            continue
        try:
            head = file.read(int(page.offsets[present[0]]), min(int(page.counts[present[0]]), 64))
        except EOFError:
            continue  # it fails when the block is read
        refuse_unless_plain_jpeg2000(head)
