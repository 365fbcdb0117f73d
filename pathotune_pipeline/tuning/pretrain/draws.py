"""Randomness as a function of the seed and the step, so that a run goes on after a kill as if nothing had been."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WATCHED_AT_ONCE = 64
"""Images that are watched, and not learnt from, are looked at so many at a time, as batches -1, -2, ..."""


class Draws:
    """Random numbers for one batch, for the rows that this process holds.

    Numbers are drawn for the whole batch on the CPU, and each process keeps those of its rows: a batch is masked and
    cropped alike, however many processes share it.
    """

    def __init__(self, seed: int, number: int, *, rows: int, rank: int = 0, world: int = 1) -> None:
        """Begin.

        Args:
            seed: of the run.
            number: of the batch; may be negative for batches that are not trained on.
            rows: images of the batch, over all processes.
            rank: this process holds rows rank, rank + world, ...
            world: the number of processes.
        """
        mixed = (seed * 0x9E3779B97F4A7C15 + (number + (1 << 40)) * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % (1 << 63)
        self._generator = torch.Generator().manual_seed(mixed)
        self._rows, self._rank, self._world = rows, rank, world
        self._number = number

    def image_numbers(self) -> tuple[np.ndarray, bool]:
        """Numbers of this process's images, int64 [b], and whether they are among the watched ones, counted from 0.

        Image j of batch k has the number k * rows + j, as sources count.
        """
        own = np.arange(self._rank, self._rows, self._world, dtype=np.int64)
        if self._number < 0:
            return own + (-1 - self._number) * WATCHED_AT_ONCE, True
        return own + self._number * self._rows, False

    def uniform(self, *shape: int) -> Tensor:
        """float32 [b, *shape] in [0, 1) for the b rows of this process."""
        return torch.rand(self._rows, *shape, generator=self._generator)[self._rank :: self._world]

    def uniform_for(self, views: int, *shape: int) -> Tensor:
        """float32 [views, *shape] for as many views of each row as there are: every row's first view, then the second."""
        own = len(range(self._rank, self._rows, self._world))
        return torch.cat([self.uniform(*shape) for _ in range(views // own)])

    def seed(self) -> int:
        """A number to seed another random state with."""
        return int(torch.randint(1 << 31, (1,), generator=self._generator)) + self._rank
