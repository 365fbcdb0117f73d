"""Tiles through an encoder: reader threads fill a bounded ring of batches, encoder threads empty it.

Pixels are read into preallocated uint8 buffers and stay uint8 until they are on the device. Every batch has the same
shape. On a CPU each encoder thread computes with one intra-operation thread, so that features do not depend on how
many threads or workers there are; on a GPU one thread owns the device.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import zarr

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import SlideError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tiles.read import Transform, read_tiles


@dataclass(slots=True)
class StreamStats:
    """What a pass over one slide's tiles cost and lost.

    Attributes:
        read_s, encode_s: seconds summed over threads.
        valid: bool [N]; False where a tile could not be read.
        first_problem: reason of the first unreadable tile.
    """

    read_s: float
    encode_s: float
    valid: np.ndarray
    first_problem: str


@dataclass(slots=True)
class _Batch:
    pixels: torch.Tensor  # uint8 [B, P, P, 3]
    start: int = 0
    count: int = 0


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


def stream_features(
    slide: Slide,
    grid: TileGrid,
    encoder: Encoder,
    *,
    threads: int,
    writer: RowWriter,
    transform: Transform | None = None,
) -> StreamStats:
    """Read, encode and write every tile of a grid.

    Args:
        slide: open, safe to read from several threads.
        grid: where the tiles lie.
        encoder: on its device.
        threads: readers; as many encoders on a CPU.
        writer: takes fp16 rows [start, start + n).
        transform: applied to each tile's pixels before the encoder sees them.

    Raises:
        SlideError: the encoder gave a value that fp16 cannot hold.
    """
    return _Stream(slide, grid, encoder, threads=threads, writer=writer, transform=transform).run()


class _Stream:
    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        encoder: Encoder,
        *,
        threads: int,
        writer: RowWriter,
        transform: Transform | None,
    ) -> None:
        self._slide, self._grid, self._encoder, self._writer = slide, grid, encoder, writer
        self._transform = transform
        self._count, self._size = len(grid.coords), encoder.batch_size
        self._on_cpu = encoder.device.type == "cpu"
        batches = -(-self._count // self._size)
        self._readers = max(1, min(threads, batches))
        self._encoders = self._readers if self._on_cpu else 1
        self._starts = iter(range(0, self._count, self._size))
        self._free: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._filled: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._reading = self._readers
        self.stats = StreamStats(0.0, 0.0, np.ones(self._count, dtype=bool), "")
        shape = (self._size, grid.tile_px, grid.tile_px, 3)
        for _ in range(min(batches, self._readers + self._encoders + 1)):
            self._free.put(_Batch(torch.zeros(shape, dtype=torch.uint8, pin_memory=not self._on_cpu)))

    def run(self) -> StreamStats:
        work = [self._read] * self._readers + [self._encode] * self._encoders
        threads = [threading.Thread(target=self._guard, args=(each,), daemon=True) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return self.stats

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            with self._lock:
                self._error = self._error or error
            self._stop.set()
            for _ in range(self._readers):
                self._free.put(None)
            for _ in range(self._encoders):
                self._filled.put(None)

    def _read(self) -> None:
        spent = 0.0
        while not self._stop.is_set():
            batch = self._free.get()
            with self._lock:
                start = next(self._starts, None)
            if batch is None or start is None:
                self._free.put(None)  # wakes the next reader
                break
            began = time.perf_counter()
            batch.start, batch.count = start, min(self._size, self._count - start)
            pixels = batch.pixels.numpy()
            valid, problem = read_tiles(
                self._slide, self._grid, start, start + batch.count, pixels[: batch.count], transform=self._transform
            )
            pixels[batch.count :] = 0
            self.stats.valid[start : start + batch.count] = valid
            if problem and not self.stats.first_problem:
                self.stats.first_problem = problem
            spent += time.perf_counter() - began
            self._filled.put(batch)
        with self._lock:
            self.stats.read_s += spent
            self._reading -= 1
            last = self._reading == 0
        if last:
            for _ in range(self._encoders):
                self._filled.put(None)

    def _encode(self) -> None:
        if self._on_cpu:
            torch.set_num_threads(1)
        spent = 0.0
        while not self._stop.is_set():
            batch = self._filled.get()
            if batch is None:
                break
            began = time.perf_counter()
            features = self._encoder.encode(batch.pixels)[: batch.count].cpu().numpy()
            self._store(batch, features)
            spent += time.perf_counter() - began
            self._free.put(batch)
        with self._lock:
            self.stats.encode_s += spent

    def _store(self, batch: _Batch, features: np.ndarray) -> None:
        valid = self.stats.valid[batch.start : batch.start + batch.count]
        with np.errstate(over="ignore"):
            rows = features.astype(np.float16)
        rows[~valid] = 0
        if not np.isfinite(rows).all():
            bad = batch.start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise SlideError(
                f"the encoder gave a value for tile {bad} that is not finite in fp16. "
                "Try --precision fp32, and check the encoder's weights."
            )
        self._writer.add(batch.start, rows)
        failpoint("features.batch")
