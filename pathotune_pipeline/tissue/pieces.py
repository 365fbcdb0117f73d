"""The connected pieces of a mask: how large they are, which are kept, and which of them a box belongs to."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from pathotune_pipeline.geometry import Size


@dataclass(frozen=True)
class Pieces:
    """The connected pieces of a mask, as runs of pixels along its rows.

    A mask has far fewer runs than pixels: to count, measure and drop pieces by their runs costs next to nothing.

    Attributes:
        mask: bool or uint8 of 0 and 1 [h, w].
        start: int64 [R], where each run begins, pixels counted row by row.
        length: int64 [R], pixels.
        piece: int32 [R], the number of each run's piece, from 0.
        count: of the pieces.
    """

    mask: np.ndarray
    start: np.ndarray
    length: np.ndarray
    piece: np.ndarray
    count: int

    @classmethod
    def of(cls, mask: np.ndarray, *, connectivity: int) -> Pieces:
        """The pieces of a mask.

        Args:
            mask: bool or uint8 of 0 and 1 [h, w].
            connectivity: 8 where pixels that touch by a corner hang together, 4 where they do not.
        """
        image = mask.view(np.uint8)
        count, labels = cv2.connectedComponents(image, labels=_labels_for(image), connectivity=connectivity)
        wide = cv2.copyMakeBorder(image, 0, 0, 1, 1, cv2.BORDER_CONSTANT, value=0).ravel()  # so that runs end with rows
        begin, end = np.flatnonzero(wide[1:] != wide[:-1]).reshape(-1, 2).T
        start = begin - 2 * (begin // (image.shape[1] + 2))
        return cls(mask, start, end - begin, labels.ravel()[start] - 1, count - 1)

    @cached_property
    def areas(self) -> np.ndarray:
        """Pixels of each piece: int64 [count]."""
        return np.bincount(self.piece, self.length, minlength=self.count).astype(np.int64)

    @cached_property
    def boxes(self) -> np.ndarray:
        """The box around each piece: int64 [count, 4], (left, top, width, height)."""
        rows, columns = np.divmod(self.start, self.mask.shape[1])
        low, high = np.full((2, self.count), self.mask.size), np.zeros((2, self.count), np.int64)
        for axis, (first, last) in enumerate(((columns, columns + self.length), (rows, rows + 1))):
            np.minimum.at(low[axis], self.piece, first)
            np.maximum.at(high[axis], self.piece, last)
        return np.concatenate([low, high - low]).T

    @cached_property
    def at_rim(self) -> np.ndarray:
        """Which pieces reach the mask's rim: bool [count]."""
        height, width = self.mask.shape
        rows, columns = np.divmod(self.start, width)
        rim = (rows == 0) | (rows == height - 1) | (columns == 0) | (columns + self.length == width)
        return np.bincount(self.piece[rim], minlength=self.count) > 0

    def count_of(self, part: np.ndarray) -> np.ndarray:
        """How many pixels of a part of the mask lie in each piece: int64 [count].

        Args:
            part: bool [h, w], True only where the mask is.
        """
        runs = np.searchsorted(self.start, np.flatnonzero(part), side="right") - 1
        return np.bincount(self.piece[runs], minlength=self.count)

    def pixels(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of some pieces, row by row: int64 [P] where they are, int32 [P] whose they are.

        Args:
            wanted: bool [count].
        """
        chosen = wanted[self.piece]
        start, length, piece = self.start[chosen], self.length[chosen], self.piece[chosen]
        begin = np.cumsum(length) - length
        return np.arange(length.sum()) + np.repeat(start - begin, length), np.repeat(piece, length)

    def only(self, wanted: np.ndarray) -> np.ndarray:
        """The mask with some of its pieces alone; the very mask where they are all of them.

        Args:
            wanted: bool [count].
        """
        if wanted.all():
            return self.mask
        if 2 * self.areas[wanted].sum() < self.areas.sum():
            found = np.zeros(self.mask.shape, self.mask.dtype)
            found.ravel()[self.pixels(wanted)[0]] = 1
        else:
            found = self.mask.copy()
            found.ravel()[self.pixels(~wanted)[0]] = 0
        return found


class _Scratch(threading.local):
    """Where this thread has labels written: four bytes a pixel, which would be had from the system anew each time."""

    labels = np.zeros((0, 0), np.int32)


_scratch = _Scratch()


def _labels_for(image: np.ndarray) -> np.ndarray:
    if _scratch.labels.shape != image.shape:
        _scratch.labels = np.empty(image.shape, np.int32)
    return _scratch.labels


def drop_pieces(mask: np.ndarray, *, under_px: float) -> np.ndarray:
    """A mask without its pieces of fewer pixels; `mask` itself where it has none.

    Args:
        mask: bool or uint8 of 0 and 1 [h, w].
        under_px: how many.
    """
    pieces = Pieces.of(mask, connectivity=8)
    return pieces.only(pieces.areas >= under_px)


def fill_holes(mask: np.ndarray, *, under_px: float) -> np.ndarray:
    """A mask with its holes of fewer pixels filled. What reaches the rim is no hole: the slide ends there.

    Args:
        mask: uint8 of 0 and 1 [h, w].
        under_px: how many.

    Returns:
        bool [h, w].
    """
    glass = Pieces.of(1 - mask, connectivity=4)
    return np.asarray(glass.only(glass.at_rim | (glass.areas >= under_px)) == 0)


def piece_of_boxes(mask: np.ndarray, boxes: np.ndarray, level0_size: Size) -> np.ndarray:
    """The piece of tissue that covers most of each box.

    Args:
        mask: bool [h, w] over the whole slide.
        boxes: float64 [N, 4], (x, y, width, height) in level-0 pixels.
        level0_size: of the slide in pixels.

    Returns:
        int64 [N]: number of the piece in the order of `outline.trace`, which is that of the outlines in a GeoJSON; -1
        where a box holds no tissue.
    """
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    across, down = mask.shape[1] / level0_size.width, mask.shape[0] / level0_size.height
    found = np.full(len(boxes), -1, np.int64)
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * (across, down, across, down)
    for row, (x, y, width, height) in enumerate(scaled):
        inside = labels[_span(y, height, mask.shape[0]), _span(x, width, mask.shape[1])]
        counts = np.bincount(inside.ravel())
        if len(counts) > 1:
            found[row] = int(counts[1:].argmax())  # label 1 is piece 0
    return found


def _span(start: float, length: float, limit: int) -> slice:
    first = min(max(0, int(start)), limit - 1)
    return slice(first, min(limit, max(first + 1, int(np.ceil(start + length)))))
