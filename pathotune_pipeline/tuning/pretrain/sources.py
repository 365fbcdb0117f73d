"""Batches by number, for one of several processes: images from memory, tiles straight from slides, or both.

Image j of batch k has a number of its own, and what it is hangs on that number alone. So batches are the same whatever
was read before, by however many threads, and a run goes on from any batch.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.features.online import OnlineSpec, Patch, TileDraws
from pathotune_pipeline.tuning.pretrain.images import Pictures, read_pictures
from pathotune_pipeline.tuning.pretrain.spec import ImageSpec
from pathotune_pipeline.tuning.pretrain.stored import StoredDraws, StoredTiles

_AHEAD = 2
"""Batches that lie ready, and as many more of tiles in the readers' hands."""
_POLL_S = 0.2
"""How often a thread that waits looks whether it still should."""


@dataclass(frozen=True, slots=True)
class Team:
    """Which of the processes that train together this one is.

    Attributes:
        rank: from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1


class Source:
    """Where a run's pixels come from.

    Attributes:
        images: images in memory to learn from.
    """

    def __init__(
        self,
        spec: ImageSpec,
        *,
        side: int,
        seed: int,
        pictures: tuple[Pictures, Pictures] | None,
        manifest: Manifest | None,
    ) -> None:
        self.side = side
        self._spec, self._seed = spec, seed
        self._pictures, self._manifest = pictures, manifest

    @property
    def images(self) -> int:
        return len(self._pictures[0]) if self._pictures else 0

    def facts(self) -> dict[str, Any]:
        """What a card says of the data: counts and digests, no names and no paths."""
        facts: dict[str, Any] = {"source_px": self.side}
        if self._pictures:
            learnt, watched = self._pictures
            facts |= {"images": len(learnt), "held_out_images": len(watched), "images_sha256": learnt.digest()}
        if self._manifest:
            ids = "\n".join(item.slide_id for item in self._manifest.items)
            facts |= {"slides": len(self._manifest), "slides_sha256": hashlib.sha256(ids.encode()).hexdigest()}
            facts |= {"mpps": list(self._spec.mpps), "slide_share": self._share()}
        return facts

    def batches(self, size: int, *, team: Team, start: int = 0) -> Batches:
        """This process's part of batches `start`, `start` + 1, ...; to be closed.

        Args:
            size: images of a batch over all processes.
            team: which process this is.
            start: number of the first batch.
        """
        return Batches(self, size, team=team, start=start)

    def watched(self, count: int) -> np.ndarray:
        """uint8 [count, S, S, 3], always the same: images held out, and tiles drawn under another seed."""
        watched = self._pictures[1] if self._pictures and len(self._pictures[1]) else None
        tiles = round(count * (self._share() if watched or not self._pictures else 1.0)) if self._manifest else 0
        if not tiles and watched is None:
            return np.zeros((0, self.side, self.side, 3), np.uint8)
        found = [watched.window(number) for number in range(min(count - tiles, len(watched)))] if watched else []
        if self._manifest and tiles:
            with TileDraws(self._manifest, self.stream(self._seed + 1)) as draws:
                found += [next(draws).pixels for _ in range(tiles)]
        return np.stack(found)

    def stream(self, seed: int) -> OnlineSpec:
        """The stream of tiles that the settings ask for."""
        spec = self._spec
        return OnlineSpec.parse(
            {
                "mpps": spec.mpps,
                "weights": spec.weights,
                "tile_px": self.side,
                "seed": seed,
                "min_tissue": spec.min_tissue,
                "store": spec.store,
            }
        )

    def _share(self) -> float:
        if not self._manifest:
            return 0.0
        return self._spec.slide_share if self._pictures else 1.0

    def plan(self, size: int, team: Team) -> Plan:
        """Which numbers this process has in each batch."""
        tiles = round(size * self._share())
        return Plan(size, tiles, tuple(range(team.rank, size, team.world)))

    def open_tiles(self, plan: Plan, start: int, stopped: threading.Event) -> TileReaders | None:
        """Readers of this process's tiles, where it has any; they end when `stopped` is set."""
        if self._manifest is None or not plan.tile_rows:
            return None
        draws = partial(TileDraws, self._manifest, self.stream(self._seed))
        return TileReaders(draws, plan, threads=self._spec.readers, start=start, stopped=stopped)

    def window(self, number: int) -> np.ndarray:
        if self._pictures is None:
            raise UsageError("there are no images in memory.")
        return self._pictures[0].window(number)


class StoredSource(Source):
    """The tiles of feature sets that teach, each once an epoch.

    Attributes:
        tiles: of the sets.
    """

    def __init__(self, spec: ImageSpec, tiles: StoredTiles, *, seed: int) -> None:
        super().__init__(spec, side=tiles.tile_px, seed=seed, pictures=None, manifest=None)
        self.tiles = tiles

    @property
    def images(self) -> int:
        """Tiles to learn from."""
        return len(self.tiles)

    def facts(self) -> dict[str, Any]:
        """What a card says of the data: counts and digests, no names and no paths."""
        return self.tiles.facts()

    def watched(self, count: int) -> np.ndarray:
        """uint8 [count, S, S, 3], always the same: tiles that are held out."""
        found = np.zeros((min(count, self.tiles.watched), self.side, self.side, 3), np.uint8)
        with StoredDraws(self.tiles, watched=True) as draws:
            for place in range(len(found)):
                found[place] = next(draws).pixels
        return found

    def open_tiles(self, plan: Plan, start: int, stopped: threading.Event) -> TileReaders | None:
        """Readers of this process's tiles; they end when `stopped` is set."""
        draws = partial(StoredDraws, self.tiles)
        return TileReaders(draws, plan, threads=self._spec.readers, start=start, stopped=stopped)

    def _share(self) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch is shared out.

    Attributes:
        size: images of a batch over all processes.
        tiles: how many of them are tiles from slides; they come first.
        rows: this process's places in the batch.
    """

    size: int
    tiles: int
    rows: tuple[int, ...]

    @property
    def tile_rows(self) -> tuple[int, ...]:
        return tuple(row for row in self.rows if row < self.tiles)

    def tile_numbers(self, start: int) -> Iterator[int]:
        """Numbers of this process's tiles from batch `start` on, without end."""
        batch = start
        while True:
            yield from (batch * self.tiles + row for row in self.tile_rows)
            batch += 1

    def image_numbers(self, batch: int) -> list[int]:
        """Numbers of this process's images in a batch."""
        return [batch * (self.size - self.tiles) + row - self.tiles for row in self.rows if row >= self.tiles]


class TileReader(Protocol):
    """Reads tiles by number; within `with` its slides are open.

    Attributes:
        number: of the tile that comes next.
    """

    number: int

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def __next__(self) -> Patch: ...


class TileReaders:
    """Threads that read tiles ahead; tile i of this process comes from thread i mod n, in order."""

    def __init__(
        self,
        open_draws: Callable[[], TileReader],
        plan: Plan,
        *,
        threads: int,
        start: int,
        stopped: threading.Event,
    ) -> None:
        room = max(1, _AHEAD * len(plan.tile_rows) // threads)
        self._ready: list[queue.Queue[Any]] = [queue.Queue(room) for _ in range(threads)]
        self._next = 0
        self._stopped = stopped
        self._threads = [
            threading.Thread(target=self._read, args=(open_draws, plan, start, place), daemon=True)
            for place in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def take(self) -> np.ndarray:
        """The next tile of this process: uint8 [S, S, 3].

        Raises:
            SlideError: no slide gives a tile.
        """
        found = _taken(self._ready[self._next], self._stopped)
        self._next = (self._next + 1) % len(self._ready)
        return found

    def join(self) -> None:
        """Wait until the threads have closed their slides; `stopped` is set by then."""
        for thread in self._threads:
            thread.join()

    def _read(self, open_draws: Callable[[], TileReader], plan: Plan, start: int, place: int) -> None:
        ready = self._ready[place]
        try:
            with open_draws() as draws:
                for index, number in enumerate(plan.tile_numbers(start)):
                    if self._stopped.is_set():
                        return
                    if index % len(self._ready) == place:
                        draws.number = number
                        _hand(ready, next(draws).pixels, self._stopped)
        except BaseException as error:  # noqa: BLE001 - raised again where the tile is taken
            _hand(ready, error, self._stopped)


class Batches(Iterator[np.ndarray]):
    """This process's part of one batch after the other, put together by a thread ahead of their use."""

    def __init__(self, source: Source, size: int, *, team: Team, start: int = 0) -> None:
        if size % team.world:
            raise UsageError(f"batch_size {size}: {team.world} processes share it; give a multiple of {team.world}.")
        self._ready: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._source, self._plan = source, source.plan(size, team)
        self._tiles = source.open_tiles(self._plan, start, self._stopped)
        self._thread = threading.Thread(target=self._make, args=(start,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> np.ndarray:
        """uint8 [b, S, S, 3] for the b rows of this process.

        Raises:
            SlideError: no slide gives a tile.
            StopIteration: the batches are closed.
        """
        found: np.ndarray = _taken(self._ready, self._stopped)
        return found

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()
        self._thread.join()
        if self._tiles:
            self._tiles.join()

    def _make(self, start: int) -> None:
        try:
            for batch in itertools.count(start):
                if self._stopped.is_set():
                    return
                _hand(self._ready, self._put_together(batch), self._stopped)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is taken
            _hand(self._ready, error, self._stopped)

    def _put_together(self, batch: int) -> np.ndarray:
        side = self._source.side
        tiles = len(self._plan.tile_rows) if self._tiles else 0
        pixels = np.empty((len(self._plan.rows), side, side, 3), np.uint8)
        for place in range(tiles):
            pixels[place] = self._tiles.take()  # type: ignore[union-attr]
        for place, number in enumerate(self._plan.image_numbers(batch), tiles):
            pixels[place] = self._source.window(number)
        return pixels


def open_source(spec: ImageSpec, *, input_px: int, seed: int) -> Source:
    """Read the images, list the slides.

    Args:
        spec: what to learn from.
        input_px: side of the network's input, for `source_px` of 0.
        seed: decides the order.

    Raises:
        UsageError: there is neither an image nor a slide, or a source cannot be read.
    """
    spec.check()
    side = spec.source_px or input_px
    pictures = read_pictures(spec.images, side=side, seed=seed, held_out=spec.held_out) if spec.images else None
    manifest = None
    if spec.slides is not None or spec.manifest is not None:
        folder, table = (Path(each).expanduser() if each else None for each in (spec.slides, spec.manifest))
        manifest = read_manifest(folder, table)
    source = Source(spec, side=side, seed=seed, pictures=pictures, manifest=manifest)
    if manifest:
        source.stream(seed)  # settings that make no sense are told before anything is read
    return source


def _hand(place: queue.Queue[Any], item: Any, stopped: threading.Event) -> None:
    """Put an item in its place, unless nobody waits for it any more."""
    while not stopped.is_set():
        try:
            place.put(item, timeout=_POLL_S)
            return
        except queue.Full:
            continue


def _taken(place: queue.Queue[Any], stopped: threading.Event) -> Any:
    """The next item of a place; an error that lies there is raised, and StopIteration once all is stopped."""
    while not stopped.is_set():
        try:
            found = place.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if isinstance(found, BaseException):
            raise found
        return found
    raise StopIteration
