"""Encoders that stay on their device, and batches on their way through them.

Each batch has one fixed shape. Where the device has no room for it, the shape is halved and the work goes on; on a GPU
pixels are copied on a stream of their own while the batch before is encoded, and rows come back without anyone waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import DeviceLostError, EncoderMemoryError
from pathotune_pipeline.features.plan import CompileMode

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Encoded:
    """What one encoder made of a batch.

    Attributes:
        rows: float16 [B, D], on the host; None where it failed.
        error: why it failed.
        seconds: on the device.
        idle_s: the device had nothing to do for so long before; None where whoever waits measures it.
    """

    rows: np.ndarray | None
    error: Exception | None
    seconds: float
    idle_s: float | None = None


Finish = Callable[[], list[Encoded]]
"""Waits until a batch that was launched is through."""


class Resident:
    """An encoder that stays on its device.

    Args:
        encoder: on its device.
        compile_mode: how `torch.compile` is asked to do its work; "no" leaves the network as it is.
    """

    def __init__(self, encoder: Encoder, *, compile_mode: CompileMode = "no") -> None:
        self.encoder = encoder
        self.device = encoder.device
        self.batch_size = encoder.batch_size
        """Tiles of a batch as it lies in the ring."""
        self._rows = self.batch_size
        self._lock = threading.Lock()
        self._plain = encoder.module
        self._cold = compile_mode != "no"
        if self._cold:
            compiled: Any = torch.compile(
                encoder.module, mode=None if compile_mode == "default" else compile_mode, dynamic=False
            )
            encoder.module = compiled

    @property
    def encoded_at_once(self) -> int:
        """Tiles that go through the network at once: the batch size, or less since the device had no room for it."""
        return self._rows

    @property
    def halved(self) -> bool:
        return self._rows < self.batch_size

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rows of a batch. Several threads may call it at once on a CPU.

        Args:
            pixels: uint8 [batch_size, P, P, 3].

        Returns:
            float16 [batch_size, D] on the device; infinite where a value is beyond fp16.

        Raises:
            EncoderMemoryError: the device has no room for a single tile.
        """
        while True:
            rows = self._rows
            try:
                if self._cold:
                    return self._warm(pixels, rows)
                return self._encode(pixels, rows)
            except torch.OutOfMemoryError as error:
                if rows == 1:
                    raise EncoderMemoryError(
                        f"{self.encoder.card.name}: the device {self.device} has no room for one tile ({error}). "
                        "Free its memory, or give --precision bf16 or another --device."
                    ) from None
            self._halve(rows)  # only now are the network's frames gone, and with them what they held

    def _encode(self, pixels: torch.Tensor, rows: int) -> torch.Tensor:
        parts = [self.encoder.encode(part, pad_to=rows) for part in pixels.split(rows)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(torch.float16)

    def _warm(self, pixels: torch.Tensor, rows: int) -> torch.Tensor:
        """The first batch through a compiled network: by one thread, and without it where it cannot be compiled."""
        with self._lock:
            try:
                out = self._encode(pixels, rows)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a compiler has against the network, it works without
                _log.warning(
                    "%s: torch.compile failed (%s: %s); it runs as it is. Install a C++ compiler, or give --compile no.",
                    self.encoder.card.name, type(error).__name__, str(error).strip().partition("\n")[0],
                )  # fmt: skip
                self.encoder.module = self._plain
                out = self._encode(pixels, rows)
            self._cold = False
            return out

    def _halve(self, rows: int) -> None:
        with self._lock:
            if self._rows != rows:
                return  # another thread has done it
            self._rows = rows // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning(
            "%s: %s ran out of memory with %d tiles at once; it goes on with %d. Give --batch-size %d to begin with that.",
            self.encoder.card.name, self.device, rows, rows // 2, rows // 2,
        )  # fmt: skip


class HostLane:
    """Encodes in the thread that calls, which waits until it is done: on a CPU, and wherever there are no streams."""

    def rest(self) -> None:
        """Nothing is to be done for now; it is not idleness."""

    def launch(self, pixels: torch.Tensor, residents: Sequence[Resident]) -> Finish:
        """Encode a batch by each encoder.

        Args:
            pixels: uint8 [B, P, P, 3] on the host.
            residents: the encoders.
        """
        found = []
        for resident in residents:
            began = time.perf_counter()
            rows, error = _attempt(partial(_on_host, resident, pixels))
            found.append(Encoded(rows, error, time.perf_counter() - began))
        return lambda: found


class CudaLane:
    """Launches batches on a GPU and does not wait: pixels on one stream, networks and rows on another.

    One thread launches. It runs ahead of the device by as many batches as whoever calls `Finish` lets it, so that the
    next batch lies on the device before the one before is through.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._copies = torch.cuda.Stream()
        self._ended: torch.cuda.Event | None = None

    def launch(self, pixels: torch.Tensor, residents: Sequence[Resident]) -> Finish:
        """Launch a batch through each encoder.

        Args:
            pixels: uint8 [B, P, P, 3], pinned; not to be written before the batch is through.
            residents: the encoders.
        """
        with torch.cuda.device(self._device):
            work = torch.cuda.current_stream()
            with torch.cuda.stream(self._copies):
                tiles = pixels.to(self._device, non_blocking=True)
            work.wait_stream(self._copies)
            tiles.record_stream(work)  # its memory was taken on the other stream, and is not to be given away before
            launched = [self._encode(tiles, resident, work) for resident in residents]
        return lambda: [_finish(each) for each in launched]

    def rest(self) -> None:
        """Nothing is to be done for now; it is not idleness."""
        self._ended = None

    def _encode(self, tiles: torch.Tensor, resident: Resident, work: torch.cuda.Stream) -> _Launched:
        before, began, ended = self._ended, *(torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record(work)
        host, error = _attempt(lambda: _to_host(resident.encode(tiles)))
        ended.record(work)
        self._ended = ended
        return _Launched(host, error, before, began, ended)


@dataclass(slots=True)
class _Launched:
    host: torch.Tensor | None  # fp16 [B, D], pinned; its rows are there when `ended` is past
    error: Exception | None
    before: torch.cuda.Event | None
    began: torch.cuda.Event
    ended: torch.cuda.Event


def _on_host(resident: Resident, pixels: torch.Tensor) -> np.ndarray:
    return resident.encode(pixels).cpu().numpy()


def _to_host(rows: torch.Tensor) -> torch.Tensor:
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    return host.copy_(rows, non_blocking=True)


def _finish(launched: _Launched) -> Encoded:
    try:
        launched.ended.synchronize()
        seconds = launched.began.elapsed_time(launched.ended) / 1e3
        idle_s = launched.before.elapsed_time(launched.began) / 1e3 if launched.before else 0.0
    except RuntimeError as error:  # what went wrong on the device is often said only now
        return Encoded(None, _named(error), 0.0, 0.0)
    rows = None if launched.host is None else launched.host.numpy()
    return Encoded(rows, launched.error, seconds, max(0.0, idle_s))


def _attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - told to the slides whose tiles these were
        return None, _named(error)


def _named(error: Exception) -> Exception:
    """A failure of the device, after which CUDA refuses this process everything, under its own name."""
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):
        first = str(error).partition("\n")[0]
        return DeviceLostError(f"the device failed ({first}). Look at the GPU with nvidia-smi, and run again.")
    return error
