"""The scale rule put to work: regions at an exact um/px, and whole slides at a coarse one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pathotune_pipeline.errors import ScaleError, TileReadError
from pathotune_pipeline.slides.slide import Level, Slide, SlideInfo, read_into

MAX_OVERVIEW_PIXELS = 64_000_000
"""An overview larger than this (192 MB) is made coarser."""
_READ_COLUMNS = 4096
_SLAB_ROWS = 64
_STRIP_BYTES = 96 << 20
_thread = threading.local()  # .scratch: where this thread reads regions that are scaled next
_SCRATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """How regions of one size and scale are read from one slide.

    Attributes:
        level: pyramid level that is read.
        mpp: um/px of the result, exact up to the rounding of `read_size_px`.
        size_px: (width, height) of the result.
        read_size_px: (width, height) in pixels of the level.
        extent_level0: (width, height) in level-0 pixels; not rounded.
        shrink: target mpp / level mpp; under 1 the level is enlarged.
        enlargement: share by which pixels are enlarged, 0 where the level is finer than the target.
    """

    level: int
    mpp: float
    size_px: tuple[int, int]
    read_size_px: tuple[int, int]
    extent_level0: tuple[float, float]
    shrink: float
    enlargement: float


def plan_region(info: SlideInfo, target_mpp: float, size_px: tuple[int, int]) -> RegionPlan:
    """Choose the level and the number of its pixels for regions at an exact scale.

    The extent is computed for each axis from that axis' own mpp, so pixels of the result are square even where
    those of the slide are not quite.

    Args:
        info: facts of the slide.
        target_mpp: um/px of the result.
        size_px: (width, height) of the result.

    Raises:
        ScaleError: no mpp, or the slide is too coarse for the target.
    """
    choice = info.choose_level(target_mpp)
    if info.mpp is None:  # choose_level has refused this; said again for the type checker
        raise ScaleError("no mpp in its metadata.")
    downsample = info.levels[choice.level].downsample
    extent = (size_px[0] * target_mpp / info.mpp.x, size_px[1] * target_mpp / info.mpp.y)
    return RegionPlan(
        level=choice.level,
        mpp=target_mpp,
        size_px=size_px,
        read_size_px=(max(1, round(extent[0] / downsample)), max(1, round(extent[1] / downsample))),
        extent_level0=extent,
        shrink=choice.shrink,
        enlargement=choice.enlargement,
    )


def read_planned(
    slide: Slide, plan: RegionPlan, *, location: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """Read one region by a plan made for this slide.

    Args:
        slide: an open slide.
        plan: from `plan_region`.
        location: top-left corner (x, y) in level-0 pixels.
        out: uint8 [height, width, 3] at the plan's scale to fill, or None for a new array.

    Returns:
        uint8 [height, width, 3] at the plan's scale; `out` where it was given.

    Raises:
        TileReadError: the file's data cannot be decoded there.
    """
    if out is None:
        return resample(slide.read_region(location, plan.level, plan.read_size_px), plan.size_px)
    if plan.read_size_px == tuple(plan.size_px):
        read_into(slide, location, plan.level, out=out)
        return out
    width, height = plan.read_size_px
    scratch = _scratch((height, width, 3))
    read_into(slide, location, plan.level, out=scratch)
    if width >= plan.size_px[0] and height >= plan.size_px[1] and out.flags.c_contiguous:
        cv2.resize(scratch, plan.size_px, dst=out, interpolation=cv2.INTER_AREA)
    else:
        out[...] = resample(scratch, plan.size_px)
    return out


def _scratch(shape: tuple[int, int, int]) -> np.ndarray:
    kept: np.ndarray | None = getattr(_thread, "scratch", None)
    if kept is not None and kept.shape == shape:
        return kept
    fresh = np.empty(shape, np.uint8)
    if fresh.nbytes <= _SCRATCH_BYTES:
        _thread.scratch = fresh
    return fresh


def read_at_mpp(slide: Slide, target_mpp: float, *, location: tuple[int, int], size_px: tuple[int, int]) -> np.ndarray:
    """Read a region at an exact physical scale.

    Args:
        slide: an open slide with a known mpp.
        target_mpp: um/px of the result.
        location: top-left corner (x, y) in level-0 pixels.
        size_px: (width, height) of the result.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ScaleError: no mpp, or the slide is more than 5 % too coarse for the target.
        TileReadError: the file's data cannot be decoded there.
    """
    return read_planned(slide, plan_region(slide.info, target_mpp, size_px), location=location)


def resample(pixels: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """Bring pixels to a size: area means where an axis shrinks, linear interpolation where it grows.

    Args:
        pixels: uint8 [h, w, 3].
        size_px: (width, height) of the result.

    Returns:
        uint8 [height, width, 3]; `pixels` itself where nothing changes.
    """
    height, width = pixels.shape[:2]
    # OpenCV averages areas only where neither axis grows, so the shrinking axes go first.
    smaller = (min(width, size_px[0]), min(height, size_px[1]))
    if smaller != (width, height):
        pixels = np.asarray(cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA))
    if smaller != tuple(size_px):
        pixels = np.asarray(cv2.resize(pixels, size_px, interpolation=cv2.INTER_LINEAR))
    return pixels


def read_overview(
    slide: Slide, target_mpp: float, *, max_pixels: int = MAX_OVERVIEW_PIXELS
) -> tuple[np.ndarray, float, float]:
    """The whole slide at a coarse scale, in bounded memory whatever the pyramid.

    The result is the area mean over the level that the scale rule chooses. A flat slide is read in strips whose
    shares are summed, so it equals shrinking the whole slide at once, and a few hundred megabytes suffice.

    Args:
        slide: an open slide with a known mpp.
        target_mpp: um/px asked for. A slide that is coarser is given at its own scale.
        max_pixels: an overview that would have more is made coarser.

    Returns:
        uint8 [h, w, 3], and its exact um/px along x and along y.

    Raises:
        ScaleError: the slide has no mpp.
        TileReadError: a part of it cannot be decoded.
    """
    info = slide.info
    finest = info.level_mpps()[0]
    if info.mpp is None:
        raise ScaleError("no mpp in its metadata.")
    wanted = max(target_mpp, finest)
    across, down = info.size.width * info.mpp.x / wanted, info.size.height * info.mpp.y / wanted
    coarser = max(1.0, (across * down / max_pixels) ** 0.5)
    index = info.choose_level(wanted * coarser).level
    level = info.levels[index]
    width = min(max(1, round(across / coarser)), level.size.width)
    height = min(max(1, round(down / coarser)), level.size.height)
    try:
        overview = _shrink_level(slide, index, level, (width, height))
    except MemoryError:
        raise TileReadError(
            f"its overview from level {index} ({level.size.width} x {level.size.height} px) needs more memory than "
            "there is. Check that the slide's size is true."
        ) from None
    return overview, info.size.width * info.mpp.x / width, info.size.height * info.mpp.y / height


def _shrink_level(slide: Slide, index: int, level: Level, size_px: tuple[int, int]) -> np.ndarray:
    width, height = size_px
    strip_rows = 256 if level.size.width > 1 << 16 else 512
    strip_rows = max(1, min(strip_rows, _STRIP_BYTES // (3 * level.size.width)))
    slab_rows = max(1, min(_SLAB_ROWS, _STRIP_BYTES // (12 * level.size.width)))
    slabs = _slabs(slide, index, level, strip_rows=strip_rows, slab_rows=slab_rows)
    across, down = _whole_factor(level.size.width, width), _whole_factor(level.size.height, height)
    if across == down == 1:
        return np.concatenate([slab for _, slab in slabs])
    sums = np.zeros((height, width * 3), np.float32)
    by_halves = across.bit_count() == down.bit_count() == 1 and max(across, down) <= _SLAB_ROWS
    if by_halves and strip_rows % down == slab_rows % down == 0:
        # Means of 2^n pixels are exact in float32 in whatever order they are summed.
        for first, slab in slabs:
            rows = slab.shape[0] // down
            means = cv2.resize(slab.astype(np.float32), (width, rows), interpolation=cv2.INTER_AREA)
            sums[first // down : first // down + rows] = means.reshape(rows, width * 3)
    else:
        for first, slab in slabs:
            _add_shares(sums, first, level.size.height / height, slab)
    return np.asarray(cv2.convertScaleAbs(sums)).reshape(height, width, 3)  # rounds, half to even


def _whole_factor(larger: int, smaller: int) -> int:
    """How many times one goes into the other; 0 where a rest is left."""
    return 0 if larger % smaller else larger // smaller


def _add_shares(sums: np.ndarray, first: int, per_row: float, slab: np.ndarray) -> None:
    """Add a slab's part to area means: float32 [rows, columns * 3], a row of them `per_row` rows of the level high.

    Args:
        sums: what is added to.
        first: row of the level at which the slab begins.
        per_row: 1 or more.
        slab: uint8 [n, w, 3].
    """
    width, last = sums.shape[1] // 3, first + slab.shape[0]
    narrow = slab.astype(np.float32)
    if slab.shape[1] != width:
        narrow = np.asarray(cv2.resize(narrow, (width, slab.shape[0]), interpolation=cv2.INTER_AREA))
    from_row, to_row = int(first / per_row), min(len(sums), int(np.ceil(last / per_row)))
    edges = np.arange(from_row, to_row, dtype=np.float64)[:, None] * per_row
    rows = np.arange(first, last, dtype=np.float64)[None, :]
    shares = np.minimum(edges + per_row, rows + 1) - np.maximum(edges, rows)  # [rows out, rows in]
    weights = (np.clip(shares, 0, None) / per_row).astype(np.float32)
    sums[from_row:to_row] += weights @ narrow.reshape(slab.shape[0], width * 3)


def _slabs(
    slide: Slide, index: int, level: Level, *, strip_rows: int, slab_rows: int
) -> Iterator[tuple[int, np.ndarray]]:
    """A level from top to bottom, read in strips: first row and pixels of each slab."""
    for top in range(0, level.size.height, strip_rows):
        strip = _read_strip(slide, index, level, (top, min(top + strip_rows, level.size.height)))
        for begin in range(0, len(strip), slab_rows):
            yield top + begin, strip[begin : begin + slab_rows]


def _read_strip(slide: Slide, index: int, level: Level, rows: tuple[int, int]) -> np.ndarray:
    top, bottom = rows
    strip = np.empty((bottom - top, level.size.width, 3), np.uint8)
    y = round(top * level.downsample)
    for left in range(0, level.size.width, _READ_COLUMNS):
        right = min(left + _READ_COLUMNS, level.size.width)
        x = round(left * level.downsample)
        read_into(slide, (x, y), index, out=strip[:, left:right])
    return strip
