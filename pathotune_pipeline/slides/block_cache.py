"""Decoded blocks of one slide, shared by the threads that read it: bounded in bytes, each block decoded once.

Buffers are used again: on many machines a fresh page of memory costs more than the decoding of what goes into it.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

from pathotune_pipeline.errors import TileReadError


class Block:
    """A block in the cache: its pixels, and who reads them now."""

    __slots__ = ("error", "gate", "pixels", "users")

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.users = 1
        self.error: TileReadError | None = None
        self.gate = threading.Lock()  # held while the block is decoded


class BlockCache:
    """The blocks used last. What is being read is never taken away, so the bound may be passed by a block a thread.

    Args:
        limit_bytes: decoded bytes kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Hashable, Block] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Decoded bytes held now."""
        return self._bytes

    def __contains__(self, key: Hashable) -> bool:
        return key in self._blocks

    def acquire(self, key: Hashable, shape: tuple[int, ...], decode: Callable[[np.ndarray], None]) -> Block:
        """A block, decoded by the first thread that asks while the others wait. `release` it after use.

        Args:
            key: which block.
            shape: of its uint8 pixels.
            decode: fills an array of that shape.

        Raises:
            TileReadError: what `decode` raised, in each thread that asked.
        """
        with self._lock:
            block = self._blocks.get(key)
            if block is not None:
                block.users += 1
                self._blocks.move_to_end(key)
            else:
                fresh = Block(self._buffer(shape))
                fresh.gate.acquire()
                self._blocks[key] = fresh
        if block is None:
            self._fill(key, fresh, decode)
            return fresh
        if block.gate.locked():
            with block.gate:
                pass
        if block.error is not None:
            raise TileReadError(str(block.error))
        return block

    def release(self, block: Block) -> None:
        """Give a block back."""
        with self._lock:
            block.users -= 1

    def clear(self) -> None:
        """Let go of every block; those being read live on until they are given back."""
        with self._lock:
            self._blocks.clear()
            self._bytes = 0

    def _fill(self, key: Hashable, block: Block, decode: Callable[[np.ndarray], None]) -> None:
        try:
            decode(block.pixels)
        except BaseException as error:
            block.error = error if isinstance(error, TileReadError) else TileReadError(str(error))
            with self._lock:
                if self._blocks.get(key) is block:
                    del self._blocks[key]
                    self._bytes -= block.pixels.nbytes
            raise
        finally:
            block.gate.release()

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        needed = math.prod(shape)
        spare: np.ndarray | None = None
        while self._bytes + needed > self._limit:
            oldest = next((key for key, block in self._blocks.items() if not block.users), None)
            if oldest is None:
                break
            gone = self._blocks.pop(oldest).pixels
            self._bytes -= gone.nbytes
            if gone.shape == shape:
                spare = gone
        self._bytes += needed
        return np.empty(shape, np.uint8) if spare is None else spare
