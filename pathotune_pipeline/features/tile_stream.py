"""The stream of random tiles as a torch data set, split over ranks and loader workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.features.online import OnlineSpec, stream_tiles


class TileStream(IterableDataset[dict[str, Any]]):
    """Random tiles for a torch DataLoader: {pixels uint8 [P, P, 3], slide_id, location int64 [2], mpp, number}.

    Each loader worker of each rank draws its own part of one stream (see `features.online`); slides are opened in the
    worker. With `limit` an epoch ends after so many patches of the whole stream, and `set_epoch` goes on to the next
    ones. A loader with persistent workers does not hear of `set_epoch`.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: OnlineSpec | None = None,
        *,
        limit: int | None = None,
        rank: int | None = None,
        world: int | None = None,
        **settings: Any,
    ) -> None:
        """Describe the stream; nothing is opened yet.

        Args:
            manifest: the slides.
            spec: what is drawn; by default an OnlineSpec of the settings.
            limit: patches an epoch, over all ranks and workers; None never ends.
            rank: this process's number among those that train; by default torch.distributed's, or 0.
            world: how many those are; by default torch.distributed's, or 1.
            settings: fields of OnlineSpec.

        Raises:
            SpecError: a setting is unknown or not allowed.
        """
        self.spec = spec.with_values(**settings) if spec else OnlineSpec.parse(settings)
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if grouped else 0
        self.world = world if world is not None else torch.distributed.get_world_size() if grouped else 1
        if not 0 <= self.rank < self.world:
            raise SpecError(f"rank {self.rank} of {self.world}: ranks are counted from 0 and are fewer than the world.")
        if limit is not None and limit < 1:
            raise SpecError(f"limit {limit}: give at least 1 patch an epoch, or None for a stream without end.")
        self.manifest, self.limit, self.epoch = manifest, limit, 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration draw the patches of that epoch, counted from 0.

        Raises:
            SpecError: the stream has no `limit`, so no epochs.
        """
        if self.limit is None:
            raise SpecError("set_epoch: this stream has no limit, so it has no epochs. Give limit=N.")
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        start = self.epoch * (self.limit or 0)
        part = (self.rank * workers + index, self.world * workers)
        with stream_tiles(self.manifest, self.spec, substream=part, start=start) as draws:
            while self.limit is None or draws.number < start + self.limit:
                patch = next(draws)
                yield {
                    "pixels": torch.from_numpy(patch.pixels),
                    "slide_id": patch.slide_id,
                    "location": torch.tensor(patch.location, dtype=torch.int64),
                    "mpp": patch.mpp,
                    "number": patch.number,
                }
