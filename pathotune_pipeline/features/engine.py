"""The engine of a worker process: one for each device, fed by every slide that the process has in hand.

Readers fill a bounded ring of preallocated uint8 batches; encoders empty it; their rows are handed on. A batch may hold
tiles of several slides. It goes to the device when it is full, or when the device would have nothing to do and no tile
is left to be read; while another slide is still being prepared, it is held back for as long as a batch takes to encode,
since waiting longer would cost more than the padding saves.

On a CPU there are as many encoders as readers, each with one intra-operation thread, so that features do not depend on
how many there are, and each hands its rows on by itself; on a GPU one thread owns the device, and another waits for the
rows that come back.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import torch

from pathotune_pipeline.engine.device import one_cpu_thread_here
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.features.resident import CudaLane, Encoded, Finish, HostLane
from pathotune_pipeline.features.ring import Batch, Lane, Ring, Span, Work
from pathotune_pipeline.features.stream import Part
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tiles.read import read_tiles

LEAST_TILES_A_CLAIM, MOST_TILES_A_CLAIM = 8, 32
"""Tiles that a reader takes at once: enough that taking them costs nothing, few enough that readers stay close together."""
SMOOTHING = 0.2
"""Weight of the newest batch in the mean time of a batch."""
_IO = Path("/proc/thread-self/io")


class Engine:
    """Reads, encodes and hands on the tiles of any number of slides at once.

    Args:
        device: where its encoders are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._here = device.type != "cuda"
        self._lock = threading.Lock()
        self._to_read, self._to_encode, self._to_end = (threading.Condition(self._lock) for _ in range(3))
        self._works: list[Work] = []
        self._expected: set[int] = set()  # threads that prepare a slide
        self._rings: dict[tuple[int, int], Ring] = {}
        self._lanes: dict[tuple[int, ...], Lane] = {}
        self._ready: deque[tuple[Lane, Batch]] = deque()
        self._launched: queue.Queue[tuple[Lane, Batch, Finish] | None] = queue.Queue(maxsize=2)
        self._threads: list[threading.Thread] = []  # readers and encoders
        self._writer: threading.Thread | None = None
        self._readers = 0
        self._idle_s = 0.0  # encoders waited so long while slides were being prepared
        self._closed = False
        self._broken: BaseException | None = None

    # --- what a slide's thread calls -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Within the block, until it calls `encode`, this thread prepares a slide whose tiles may share a batch."""
        me = threading.get_ident()
        with self._lock:
            self._expected.add(me)
        try:
            yield
        finally:
            with self._lock:
                self._expect_no_more(me)

    def encode(self, slide: Slide, parts: Sequence[Part], *, threads: int) -> None:
        """Read, encode and hand on every tile of a slide; wait until it is done. Errors are left in parts and sinks.

        Args:
            slide: open, safe to read from several threads.
            parts: its grids, and where their rows go. They are read in step, from top to bottom.
            threads: readers, and on a CPU as many encoders, that this process may have in all.

        Raises:
            RuntimeError: the engine is closed, or has broken down.
        """
        with self._lock:
            self._check()
            self._grow(max(1, threads))
            work = Work(slide, [part for part in parts if len(part.grid)], {})
            work.lanes = {part: self._lane(part) for part in work.parts}
            if work.parts:
                self._works.append(work)
                work.parts[0].stats.encode_wait_s, self._idle_s = self._idle_s, 0.0
            self._expect_no_more(threading.get_ident())
            self._to_read.notify_all()
            while not work.done:
                self._to_end.wait()
                self._check()
            if work in self._works:
                self._works.remove(work)

    def close(self) -> None:
        """End the threads. Slides still at work fail."""
        with self._lock:
            self._closed = True
            self._wake()
        for thread in self._threads:
            thread.join()
        if self._writer is not None:
            self._to_writer(self._writer, None)
            self._writer.join()

    @property
    def broken(self) -> bool:
        """Whether one of its threads has come to grief: by a fault of ours, for what slides do is theirs."""
        return self._broken is not None

    @property
    def closed(self) -> bool:
        """Whether it takes no more slides."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._broken is not None:
            raise RuntimeError(f"the engine broke down ({type(self._broken).__name__}: {self._broken}). Run again.")
        if self._closed:
            raise RuntimeError("the engine is closed.")

    def _wake(self) -> None:
        for condition in (self._to_read, self._to_encode, self._to_end):
            condition.notify_all()

    def _expect_no_more(self, thread: int) -> None:
        self._expected.discard(thread)
        self._to_encode.notify_all()

    # --- set-up ----------------------------------------------------------------------------------------------------

    def _grow(self, threads: int) -> None:
        """Have so many readers and encoders, if there are not as many yet."""
        if self._writer is None and not self._here:
            self._writer = self._started(self._write, "writer")
            self._threads.append(self._started(self._encode, "encoder"))
        for _ in range(self._readers, threads):
            self._threads.append(self._started(self._read, "reader"))
            if self._here:
                self._threads.append(self._started(self._encode, "encoder"))
            self._readers += 1
        for ring in self._rings.values():
            ring.most = max(ring.most, self._base())

    def _started(self, work: object, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=(work,), name=f"engine-{name}", daemon=True)
        thread.start()
        return thread

    def _guard(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - told to every slide's own thread
            with self._lock:
                self._broken = self._broken or error
                self._closed = True
                self._wake()

    def _base(self) -> int:
        """Batches under way in a ring, besides those that lanes hold open."""
        # On a CPU each encoder has one, readers may finish one each, and one is filled. On a GPU some are launched, one
        # is filled beside them, and two are ready.
        return 2 * self._readers + 1 if self._here else 7

    def _lane(self, part: Part) -> Lane:
        residents = tuple(sink.resident for sink in part.sinks)
        side, size = part.grid.tile_px, residents[0].batch_size
        ring = self._rings.get((size, side))
        if ring is None:
            ring = Ring((size, side, side, 3), self._base(), pinned=not self._here)
            self._rings[size, side] = ring
        key = (size, side, *map(id, residents))
        if key not in self._lanes:
            ring.most += 1  # a lane may hold one open that nobody else can use
            self._lanes[key] = Lane(ring, residents)
        return self._lanes[key]

    # --- readers ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        with _bytes_counter() as bytes_read:
            self._read_on(bytes_read)

    def _read_on(self, bytes_read: Callable[[], int]) -> None:
        counted = bytes_read()
        while True:
            with self._lock:
                claim = self._wait_for_claim()
            if claim is None:
                return
            work, lane, batch, span = claim
            part, stop = span.part, span.first_tile + span.count
            pixels = batch.pixels.numpy()[span.first_row : span.first_row + span.count]
            began = time.perf_counter()
            error: BaseException | None = None
            problem: str | None = None
            try:
                part.valid[span.first_tile : stop], problem = read_tiles(
                    work.slide, part.grid, span.first_tile, stop, pixels, transform=part.transform
                )
            except Exception as raised:  # noqa: BLE001 - carried to the slide's own thread
                error = raised
                pixels[...] = 0
            now, before = time.perf_counter(), counted
            counted = bytes_read()
            with self._lock:
                part.error = part.error or error
                part.first_problem = part.first_problem or problem or ""
                part.stats.read_s += now - began
                part.stats.bytes_read += counted - before
                batch.filled += span.count
                batch.touched_s = now
                whole = batch is not lane.open and batch.filled == batch.claimed
                if whole:
                    self._ready.append((lane, batch))
                if error:
                    self._to_encode.notify_all()
                elif whole or not part.left:  # while more is to come, there is nothing that an encoder could do
                    self._to_encode.notify()

    def _wait_for_claim(self) -> tuple[Work, Lane, Batch, Span] | None:
        while not self._closed:
            claim = self._claim()
            if claim is not None:
                return claim
            waiting = next((part for work in self._works for part in work.parts if part.left), None)
            began = time.perf_counter()
            self._to_read.wait()
            if waiting is not None:
                waiting.stats.read_wait_s += time.perf_counter() - began
        return None

    def _claim(self) -> tuple[Work, Lane, Batch, Span] | None:
        """The next tiles of the slide that came first, if there is a batch for them; else of one that came later."""
        for work in self._works:
            part = min((part for part in work.parts if part.left), key=lambda part: part.next_y, default=None)
            if part is None:
                continue
            lane = work.lanes[part]
            if lane.open is None:
                lane.open = lane.ring.take()
            batch = lane.open
            if batch is None:
                continue
            span = Span(part, part.claimed, batch.claimed, min(self._share(batch), part.left, batch.room))
            part.claimed += span.count
            part.pending += span.count
            batch.claimed += span.count
            batch.spans.append(span)
            if not batch.room:
                lane.open = None
            return work, lane, batch, span
        return None

    def _share(self, batch: Batch) -> int:
        """Tiles that a reader claims at once: on a GPU all readers fill one batch, that it is full the sooner."""
        size = len(batch.pixels)
        return min(MOST_TILES_A_CLAIM, size if self._here else max(LEAST_TILES_A_CLAIM, size // self._readers))

    # --- encoders --------------------------------------------------------------------------------------------------

    def _encode(self) -> None:
        if self._here:
            one_cpu_thread_here()
        way: HostLane | CudaLane = HostLane() if self._here else CudaLane(self.device)
        while True:
            with self._lock:
                found = self._wait_for_batch(way)
            if found is None:
                return
            lane, batch = found
            finish = way.launch(batch.pixels, lane.residents)
            if self._writer is None:
                self._hand_on(lane, batch, finish())
            else:
                self._to_writer(self._writer, (lane, batch, finish))

    def _wait_for_batch(self, way: HostLane | CudaLane) -> tuple[Lane, Batch] | None:
        while not self._closed:
            patience_s = None if self._ready else self._flush()
            if self._ready:
                found = self._ready.popleft()
                if self._ready:
                    self._to_encode.notify()
                return found
            began, busy = time.perf_counter(), bool(self._works or self._expected)
            self._to_encode.wait(patience_s)
            if not busy:
                way.rest()
            elif self._here:
                self._note_idle(time.perf_counter() - began)
        return None

    def _note_idle(self, seconds: float) -> None:
        if self._works:
            self._works[0].parts[0].stats.encode_wait_s += seconds
        else:
            self._idle_s += seconds

    def _flush(self) -> float | None:
        """An encoder has nothing to do: send what is there if no more can come. Returns for how long to wait at most."""
        soonest: float | None = None
        wanted = {work.lanes[part] for work in self._works for part in work.parts if part.left}
        for lane in self._lanes.values():
            batch = lane.open
            if batch is None or not batch.claimed or batch.filled < batch.claimed or lane in wanted:
                continue
            rest = lane.patience_s - (time.perf_counter() - batch.touched_s) if self._expected else 0.0
            if rest > 0:
                soonest = rest if soonest is None else min(soonest, rest)
                continue
            batch.pixels[batch.claimed :] = 0
            lane.open = None
            self._ready.append((lane, batch))
        return soonest

    # --- rows ------------------------------------------------------------------------------------------------------

    def _to_writer(self, writer: threading.Thread, item: tuple[Lane, Batch, Finish] | None) -> None:
        while writer.is_alive():  # one that has come to grief takes nothing any more
            with contextlib.suppress(queue.Full):
                self._launched.put(item, timeout=1.0)
                return

    def _write(self) -> None:
        while (item := self._launched.get()) is not None:
            lane, batch, finish = item
            self._hand_on(lane, batch, finish())

    def _hand_on(self, lane: Lane, batch: Batch, encoded: Sequence[Encoded]) -> None:
        """Give each sink its rows, and the batch back to its ring."""
        for span in batch.spans:
            rows = slice(span.first_row, span.first_row + span.count)
            valid = span.part.valid[span.first_tile : span.first_tile + span.count]
            for sink, made in zip(span.part.sinks, encoded, strict=True):
                if made.rows is None:
                    sink.error = sink.error or made.error
                elif span.part.error is None:
                    sink.take(span.first_tile, made.rows[rows], valid)
        failpoint("features.batch")
        took = sum(made.seconds for made in encoded)
        with self._lock:
            lane.patience_s += (took - lane.patience_s) * (SMOOTHING if lane.patience_s else 1.0)
            for made in encoded:
                if made.idle_s and self._works:
                    self._note_idle(made.idle_s)
            for span in batch.spans:
                span.part.pending -= span.count
                for sink, made in zip(span.part.sinks, encoded, strict=True):
                    sink.encode_s += made.seconds * span.count / batch.claimed
            last = any(not span.part.left for span in batch.spans)
            ended = any(span.part.done for span in batch.spans)
            lane.ring.give(batch)
            self._to_read.notify()
            if last:  # a sink that takes no more leaves less to be read: a batch may be held back for nothing
                self._to_encode.notify()
            if ended:
                self._to_end.notify_all()


@contextlib.contextmanager
def _bytes_counter() -> Iterator[Callable[[], int]]:
    """What tells how many bytes this thread has read from files so far: always 0 where the system does not tell."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(
                _IO.open("rb", buffering=0)
            )  # opened once: to open it takes longer than to read it
        except OSError:
            yield lambda: 0
            return
        number = file.fileno()
        yield lambda: _rchar(os.pread(number, 4096, 0))


def _rchar(text: bytes) -> int:
    return int(text[text.index(b"rchar:") + 6 : text.index(b"\n")])
