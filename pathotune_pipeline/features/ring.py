"""The engine's batches: who put which tiles into which rows, and where they go. No threads; the engine's lock guards all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.features.stream import Part
from pathotune_pipeline.slides.slide import Slide


@dataclass(eq=False, slots=True)
class Span:
    """Tiles of one part in one batch."""

    part: Part
    first_tile: int
    first_row: int
    count: int


@dataclass(eq=False, slots=True)
class Batch:
    """Tiles on their way to the device, of any number of slides."""

    pixels: torch.Tensor  # uint8 [B, P, P, 3]
    claimed: int = 0
    filled: int = 0
    touched_s: float = 0.0  # when a reader last put tiles into it
    spans: list[Span] = field(default_factory=list)

    @property
    def room(self) -> int:
        return len(self.pixels) - self.claimed


class Ring:
    """Batches of one shape. They are used again: fresh memory is dear, and pinned memory dearer.

    Args:
        shape: of their pixels, [B, P, P, 3].
        most: there are never more.
        pinned: whether their memory is page-locked, so that a GPU fetches it by itself.
    """

    def __init__(self, shape: tuple[int, ...], most: int, *, pinned: bool) -> None:
        self.most = most
        self._shape, self._pinned = shape, pinned
        self._free: list[Batch] = []
        self._made = 0

    def take(self) -> Batch | None:
        if self._free:
            return self._free.pop()
        if self._made >= self.most:
            return None
        self._made += 1
        return Batch(torch.zeros(self._shape, dtype=torch.uint8, pin_memory=self._pinned))

    def give(self, batch: Batch) -> None:
        batch.claimed = batch.filled = 0
        batch.spans.clear()
        self._free.append(batch)


class Lane:
    """The way of tiles of one size to one group of encoders."""

    def __init__(self, ring: Ring, residents: tuple[Resident, ...]) -> None:
        self.ring, self.residents = ring, residents
        self.open: Batch | None = None
        self.patience_s = 0.0  # mean time that a batch takes


@dataclass(eq=False, slots=True)
class Work:
    """One slide in the engine."""

    slide: Slide
    parts: Sequence[Part]
    lanes: dict[Part, Lane]

    @property
    def done(self) -> bool:
        return all(part.done for part in self.parts)
