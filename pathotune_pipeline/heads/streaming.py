"""One bag in chunks: every tile counts, and no array of all of them is wider than a few columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pathotune_pipeline.bags.bag import BagBatch

CHUNK_ROWS = 8192
"""Tiles that are worked on at a time."""


class TileChunks:
    """The tiles of one bag, handed out in chunks that are on the device.

    Attributes:
        device: where chunks come to lie.
        dtype: of the head's weights.
    """

    def __init__(self, bag: BagBatch, device: torch.device, dtype: torch.dtype, *, rows: int = CHUNK_ROWS) -> None:
        """Prepare; nothing is read yet.

        Args:
            bag: a batch of one bag, anywhere; its scale, if any, on the device.
            device: where chunks shall lie.
            dtype: of the head's weights.
            rows: tiles in a chunk.
        """
        self.device, self.dtype = device, dtype
        self._bag, self._rows = bag, rows

    def __len__(self) -> int:
        """Tiles of the bag."""
        return len(self._bag.features)

    def __iter__(self) -> Iterator[BagBatch]:
        """Chunks in their order, each as a bag of its own."""
        for start in range(0, len(self), self._rows):
            yield self.whole(slice(start, start + self._rows))

    def take(self, places: Tensor) -> BagBatch:
        """A few tiles as a bag of their own."""
        return self._bag_of(self._bag.features[places.to(self._bag.features.device)])

    def whole(self, part: slice = slice(None)) -> BagBatch:
        """All tiles, or a run of them, as one bag."""
        made = self._bag_of(self._bag.features[part])
        coords = None if self._bag.coords is None else self._bag.coords[part].to(self.device)
        return replace(made, coords=coords, bag_ids=self._bag.bag_ids)

    def _bag_of(self, features: Tensor) -> BagBatch:
        moved = features.to(self.device, non_blocking=True)
        offsets = torch.tensor([0, len(features)], dtype=torch.int64)
        if self._bag.scale is None:
            moved = moved.to(self.dtype)
        return BagBatch(moved, offsets, scale=self._bag.scale)


class OnlinePool:
    """Sums of values weighted by a softmax over all rows, row by row.

    Sums are kept under the highest score so far and brought down when a higher one comes (Milakov and Gimelshein 2018,
    "Online normalizer calculation for softmax"). Scores stay, so that every tile's weight can be told.
    """

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._highest = self._total = self._sums = torch.empty(0)

    def add(self, scores: Tensor, values: Tensor) -> None:
        """Rows' scores [n, K], at least float32, and values [n, M]."""
        if not len(scores):
            return
        first = not self._scores
        self._scores.append(scores)
        highest = scores.amax(dim=0) if first else torch.maximum(self._highest, scores.amax(dim=0))  # [K]
        weights = (scores - highest).exp()  # [n, K]
        total, sums = weights.sum(dim=0), weights.mT @ values.to(weights.dtype)  # [K], [K, M]
        if not first:
            fade = (self._highest - highest).exp()
            total, sums = total + fade * self._total, sums + fade[:, None] * self._sums
        self._highest, self._total, self._sums = highest, total, sums

    def pooled(self) -> Tensor:
        """[K, M]."""
        return self._sums / self._total[:, None]

    def weights(self) -> Tensor:
        """Of every row, [N, K]; they sum to 1."""
        return (torch.cat(self._scores) - self._highest).exp() / self._total
