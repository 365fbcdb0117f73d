"""What a slide hands to the engine, and where its rows go: a part for each grid, a sink for each encoder of a part."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import zarr

from pathotune_pipeline.errors import SlideError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tiles.read import Transform


class RowWriter:
    """Collects rows that come in any order and writes whole chunks in order, hashing them on the way."""

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        self._rows, self._total = array.chunks[0], array.shape[0]
        self._open: dict[int, np.ndarray] = {}
        self._missing: dict[int, int] = {}
        self._next = 0
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()

    def add(self, start: int, rows: np.ndarray) -> None:
        """Take rows [start, start + len(rows)); write every chunk that is now whole."""
        with self._lock:
            while len(rows):
                chunk, offset = divmod(start, self._rows)
                part = rows[: self._rows - offset]
                self._buffer(chunk)[offset : offset + len(part)] = part
                self._missing[chunk] -= len(part)
                start, rows = start + len(part), rows[len(part) :]
            while self._missing.get(self._next) == 0:
                self._write(self._next)

    def _buffer(self, chunk: int) -> np.ndarray:
        if chunk not in self._open:
            count = min(self._rows, self._total - chunk * self._rows)
            self._open[chunk] = np.zeros((count, self._array.shape[1]), dtype=np.float16)
            self._missing[chunk] = count
        return self._open[chunk]

    def _write(self, chunk: int) -> None:
        rows = self._open.pop(chunk)
        del self._missing[chunk]
        first = chunk * self._rows
        self._array[first : first + len(rows)] = rows
        self._digest.update(rows.tobytes())
        self._next += 1
        failpoint("features.chunk")

    def digest(self) -> str:
        """SHA-256 of the whole array.

        Raises:
            RuntimeError: rows are missing.
        """
        if self._next * self._rows < self._total:
            raise RuntimeError(f"rows from {self._next * self._rows} of {self._total} were never written")
        return self._digest.hexdigest()


@dataclass(slots=True)
class StreamStats:
    """What reading one grid's tiles cost.

    Attributes:
        read_s: seconds that readers spent, summed over threads.
        read_wait_s: seconds that readers waited for a free batch: the encoder was the slower one.
        encode_wait_s: seconds that encoders waited for a filled batch: reading was the slower one.
        bytes_read: from the slide's file, as the system counts them; 0 where it does not tell.
    """

    read_s: float = 0.0
    read_wait_s: float = 0.0
    encode_wait_s: float = 0.0
    bytes_read: int = 0


class Sink:
    """Takes one encoder's rows of one grid.

    Args:
        resident: the encoder.
        writer: takes fp16 rows [start, start + n).
    """

    def __init__(self, resident: Resident, writer: RowWriter) -> None:
        self.resident = resident
        self.error: BaseException | None = None
        self.encode_s = 0.0
        """Seconds on the device, its share of batches that it had with others."""
        self._writer = writer

    def take(self, start: int, rows: np.ndarray, valid: np.ndarray) -> None:
        """Write rows, zero where not valid; what is wrong with them stays with this sink.

        Args:
            start: number of the first row.
            rows: float16 [n, D].
            valid: bool [n].
        """
        if self.error is not None:
            return
        try:
            if not valid.all():
                rows[~valid] = 0
            if not np.isfinite(rows).all():
                bad = start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
                raise SlideError(
                    f"the encoder gave a value for tile {bad} that is not finite in fp16. "
                    "Try --precision fp32, and check the encoder's weights."
                )
            self._writer.add(start, rows)
        except Exception as error:  # noqa: BLE001 - carried to the slide's own thread
            self.error = error


@dataclass(eq=False, slots=True)
class Part:
    """One grid of a slide, and the encoders that see its tiles. Each tile is read once for all of them.

    Attributes:
        grid: where the tiles lie.
        sinks: one for each encoder.
        transform: applied to each tile's pixels before the encoders see them.
        valid: bool [N]; False where a tile could not be read.
        first_problem: reason of the first unreadable tile.
        error: what stopped the reading.
        stats: what it cost.
        claimed: tiles given to readers so far.
        pending: of them, tiles whose rows have not been taken yet.
    """

    grid: TileGrid
    sinks: Sequence[Sink]
    transform: Transform | None = None
    valid: np.ndarray = field(init=False)
    first_problem: str = ""
    error: BaseException | None = None
    stats: StreamStats = field(default_factory=StreamStats)
    claimed: int = 0
    pending: int = 0

    def __post_init__(self) -> None:
        self.valid = np.ones(len(self.grid), dtype=bool)

    @property
    def left(self) -> int:
        """Tiles that are still to be given to readers; none once nobody would take their rows."""
        if self.error is not None or all(sink.error is not None for sink in self.sinks):
            return 0
        return len(self.grid) - self.claimed

    @property
    def done(self) -> bool:
        return not self.left and not self.pending

    @property
    def next_y(self) -> int:
        """Level-0 row at which reading goes on. Parts of one slide are read in step, so that each block is decoded once."""
        return int(self.grid.coords[self.claimed, 1])
