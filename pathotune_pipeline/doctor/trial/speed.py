"""How fast slides become features, against the encoder alone on tiles that lie in memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pathotune_pipeline.engine.device import one_cpu_thread_here
from pathotune_pipeline.features.resident import Resident

_GAUGED_BATCHES = 2
"""Batches for each thread that are timed to learn how fast the encoder is."""
ENCODINGS = 5.5
"""How often all tiles go through the encoder besides the pairs: first run, bare warm-up, second run, kill and resumption."""
_READING = 2.0
"""Whatever else is done takes as long again: a guess, which only decides how many tiles are tried."""


@dataclass(frozen=True, slots=True)
class Speed:
    """The extraction and the bare encoder, taken in turns.

    Attributes:
        tiles: that each turn encodes.
        threads: that read, and on a CPU as many that encode.
        extraction_s: seconds of each extraction, from slide files to committed features; tissue and weights were there.
        bare_s: seconds of the bare encoder on as many tiles in memory, turn by turn.
    """

    tiles: int
    threads: int
    extraction_s: tuple[float, ...]
    bare_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Speed of the extraction as a share of the bare encoder's: the median over pairs."""
        return statistics.median(bare / ours for bare, ours in zip(self.bare_s, self.extraction_s, strict=True))

    @property
    def extraction_rate(self) -> float:
        """Tiles a second."""
        return self.tiles / statistics.median(self.extraction_s)

    @property
    def bare_rate(self) -> float:
        """Tiles a second."""
        return self.tiles / statistics.median(self.bare_s)


class BareEncoder:
    """An encoder on tiles in memory: no slide, no store. On a CPU one batch a thread, as the extraction has them.

    Args:
        resident: the encoder on its device.
        tile_px: side of a tile.
        threads: that encode on a CPU.
    """

    def __init__(self, resident: Resident, tile_px: int, *, threads: int) -> None:
        self._resident, self._threads = resident, threads if resident.device.type == "cpu" else 1
        draw = np.random.default_rng(0)
        pixels = torch.from_numpy(draw.integers(0, 256, (resident.batch_size, tile_px, tile_px, 3), dtype=np.uint8))
        self._batch = pixels.pin_memory() if resident.device.type == "cuda" else pixels

    def encode(self, tiles: int) -> float:
        """Encode at least so many tiles in whole batches; seconds until the last row is on the host."""
        batches = range(math.ceil(tiles / self._resident.batch_size))
        began = time.perf_counter()
        if self._resident.device.type == "cpu":
            with ThreadPoolExecutor(self._threads, initializer=one_cpu_thread_here) as pool:
                list(pool.map(lambda _: self._resident.encode(self._batch), batches))
        else:
            rows = None
            for _ in batches:
                rows = self._resident.encode(self._batch.to(self._resident.device, non_blocking=True))
            if rows is not None:
                rows.cpu()  # waits for all that were launched before it
        return time.perf_counter() - began

    def tiles_per_s(self) -> float:
        """A first measurement, after a batch that is not counted."""
        self.encode(1)
        tiles = self._resident.batch_size * self._threads * _GAUGED_BATCHES
        return tiles / max(self.encode(tiles), 1e-9)


def tiles_for(minutes: float, tiles_per_s: float, *, pairs: int) -> int:
    """How many tiles a trial of so many minutes can encode as often as it has to."""
    return max(1, int(60 * minutes * tiles_per_s / _READING / (ENCODINGS + 2 * pairs)))


def take_turns(
    extraction: Callable[[], float], bare: BareEncoder, *, tiles: int, threads: int, pairs: int, until: float
) -> Speed:
    """Time both in turns, each first in every other pair, so that a machine that slows down slows both.

    Args:
        extraction: makes the features anew; its seconds.
        bare: the encoder.
        tiles: that the extraction encodes.
        threads: of the extraction.
        pairs: how many.
        until: of `time.perf_counter`, after which no further pair begins; there is one at least.
    """
    ours: list[float] = []
    theirs: list[float] = []
    bare.encode(tiles)
    while len(ours) < pairs and (not ours or time.perf_counter() < until):
        if len(ours) % 2:
            ours.append(extraction())
            theirs.append(bare.encode(tiles))
        else:
            theirs.append(bare.encode(tiles))
            ours.append(extraction())
    return Speed(tiles, threads, tuple(ours), tuple(theirs))
