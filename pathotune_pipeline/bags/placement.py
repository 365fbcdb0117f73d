"""Where the bags of a training lie: on the device, in memory, or on disk with the next ones fetched ahead."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from pathotune_pipeline.bags.bag import Bag, BagBatch

Tier = Literal["device", "memory", "disk"]
SHARE_OF_DEVICE = 0.6
"""Of a GPU's free memory that features may take; activations need the rest."""
SHARE_OF_MEMORY = 0.5
"""Of the available memory up to which the system is trusted to keep what was read from files."""
AHEAD = 2
"""Bags that are fetched before they are asked for."""


class PlacedBags:
    """Bags as batches of one, each on the device when it is handed out, with features as they are stored.

    Attributes:
        tier: "device" where all lie on a GPU; "memory"; or "disk", where some are maps of files. What a map has once read
            stays in the system's cache as long as there is room, so maps are not copied.
        device: where batches come to lie.
    """

    def __init__(self, bags: Sequence[Bag], device: torch.device, *, limit_gb: float | None = None) -> None:
        """Place them: on the GPU if all fit, else they stay where they are and go to it one by one.

        Args:
            bags: in memory, or maps of a training cache.
            device: where they are wanted.
            limit_gb: features that a GPU may hold; None: a share of what is free.

        Raises:
            UsageError: a bag is empty.
        """
        self.device = device
        self._bags = bags
        self.tier = _tier(bags, device, limit_gb)
        mapped = {place for place, bag in enumerate(bags) if isinstance(bag.features, np.memmap)}
        self._unread = mapped
        on_disk = sum(int(bags[place].features.nbytes) for place in mapped)
        # What the system can keep once it is read need not be asked for again.
        self._stays = on_disk <= SHARE_OF_MEMORY * psutil.virtual_memory().available
        self._placed: list[BagBatch] | None = None
        if self.tier == "device" or device.type == "cpu":
            self._placed = [self._fetch(place) for place in range(len(bags))]

    def __len__(self) -> int:
        return len(self._bags)

    def walk(self, order: Sequence[int]) -> Iterator[tuple[int, BagBatch]]:
        """Bags in that order, with their places.

        The next ones are fetched meanwhile: by a thread onto a GPU, by the system from a file.
        """
        if self._placed is not None:
            for at, place in enumerate(order):
                for ahead in order[at + AHEAD : at + AHEAD + 1] if at else order[: AHEAD + 1]:
                    self._ask_for(ahead)
                yield place, self._placed[place]
            return
        waiting: deque[tuple[int, Future[BagBatch]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="bags") as pool:
            for place in order:
                waiting.append((place, pool.submit(self._fetch, place)))
                if len(waiting) > AHEAD:
                    first, fetched = waiting.popleft()
                    yield first, fetched.result()
            while waiting:
                first, fetched = waiting.popleft()
                yield first, fetched.result()

    def _ask_for(self, place: int) -> None:
        if place in self._unread or not self._stays:
            _will_need(self._bags[place].features)
            self._unread.discard(place)

    def _fetch(self, place: int) -> BagBatch:
        bag = self._bags[place]
        if self.device.type == "cuda":
            return self._to_gpu(BagBatch.of_bag(bag))
        return BagBatch.of_bag(bag).to(self.device)

    def _to_gpu(self, batch: BagBatch) -> BagBatch:
        """Copied on a stream of its own, so that it does not queue behind products; whole when it is handed out."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                moved = BagBatch(
                    batch.features.pin_memory().to(self.device, non_blocking=True),
                    batch.offsets,
                    coords=None if batch.coords is None else batch.coords.to(self.device),
                    bag_ids=batch.bag_ids,
                )
            stream.synchronize()
            reader = torch.cuda.default_stream()
            moved.features.record_stream(reader)
            if moved.coords is not None:
                moved.coords.record_stream(reader)
        return moved


def _tier(bags: Sequence[Bag], device: torch.device, limit_gb: float | None) -> Tier:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        limit = float("inf") if limit_gb is None else limit_gb * 1e9
        if sum(int(bag.features.nbytes) for bag in bags) <= min(limit, SHARE_OF_DEVICE * free):
            return "device"
    return "disk" if any(isinstance(bag.features, np.memmap) for bag in bags) else "memory"


def _will_need(features: np.ndarray | Tensor) -> None:
    """Have the system read a map's part of its file now, without waiting for it."""
    if not isinstance(features, np.memmap):
        return
    owner: object = features
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(owner, "madvise"):
        start = features.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
        first = start - start % mmap.PAGESIZE
        owner.madvise(mmap.MADV_WILLNEED, first, start + features.nbytes - first)
