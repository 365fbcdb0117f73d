"""Where the bags of a training lie: on the device, in memory, or on disk with the next ones fetched ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch

from pathotune_pipeline.bags.bag import Bag, BagBatch

Tier = Literal["device", "memory", "disk"]
SHARE_OF_DEVICE = 0.6
"""Of a GPU's free memory that features may take; activations need the rest."""
PAGE_BYTES = 4096
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
        self._placed: list[BagBatch] | None = None
        if self.tier == "device" or (self.tier == "memory" and device.type == "cpu"):
            self._placed = [self._fetch(place) for place in range(len(bags))]

    def __len__(self) -> int:
        return len(self._bags)

    def walk(self, order: Sequence[int]) -> Iterator[tuple[int, BagBatch]]:
        """Bags in that order, with their places; where they are not placed yet, a thread fetches the next ones."""
        if self._placed is not None:
            for place in order:
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

    def _fetch(self, place: int) -> BagBatch:
        bag = self._bags[place]
        if self.device.type == "cuda":
            return self._to_gpu(BagBatch.of_bag(bag))
        if isinstance(bag.features, np.memmap):
            _touch(bag.features)
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


def _touch(mapped: np.memmap) -> None:
    """Have a map's pages read now, and not in the middle of a product."""
    mapped.reshape(-1).view(np.uint8)[::PAGE_BYTES].max(initial=0)
