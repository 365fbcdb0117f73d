"""Tiles of a store's feature sets, by number, and what the sets say of them: teachers that need not be run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from pathotune_pipeline.archive.identity import redact
from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.encoders.card import EncoderCard
from pathotune_pipeline.errors import SlideError, SpecError, UsageError
from pathotune_pipeline.features.online import Patch
from pathotune_pipeline.features.persist import load_grid
from pathotune_pipeline.features.recorded import open_recorded
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore, open_store
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tiles.read import read_tile
from pathotune_pipeline.tuning.pretrain.spec import STORED, DistillSpec, ImageSpec, PretrainSpec, check_stored

WINDOW = 8
"""Slides whose tiles are mixed with one another before the next ones come; so many are open at a time."""
_SPLIT, _ORDER = 0x5EED, 0x0DE5


@dataclass(frozen=True, slots=True, eq=False)
class _StoredSlide:
    """A slide that every set has.

    Attributes:
        item: its file.
        records: of its features, by set.
        rows: int64 [n], its tiles that could be read when any of the sets was made.
    """

    item: SlideItem
    records: Mapping[str, CommitRecord]
    rows: np.ndarray


class StoredTiles:
    """The tiles that all of some feature sets have, of slides that are at hand.

    Which tile a number means hangs on the sets, the seed and the number alone: in each epoch every tile comes once, those
    of some slides mixed, then those of the next ones.

    Attributes:
        sets: their names, by what the teachers call them.
        tile_px: side of the tiles.
        left_out: slides of the sets without a file, or not in all sets.
    """

    def __init__(
        self,
        store: FeatureStore,
        sets: Mapping[str, SetName],
        slides: Sequence[_StoredSlide],
        *,
        tile_px: int,
        held_out: float,
        seed: int,
        left_out: int = 0,
    ) -> None:
        self.store, self.sets, self.tile_px, self.left_out = store, dict(sets), tile_px, left_out
        self._slides, self._seed = tuple(slides), seed
        self._ends = np.cumsum([0, *(len(slide.rows) for slide in slides)])
        split = np.random.default_rng(_SPLIT).permutation(int(self._ends[-1]))
        count = round(held_out * len(split))
        self._watched, self._learnt = split[:count], np.sort(split[count:])
        self._orders: dict[int, np.ndarray] = {}
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """Tiles to learn from."""
        return len(self._learnt)

    @property
    def watched(self) -> int:
        """Tiles that are only watched."""
        return len(self._watched)

    def tile(self, number: int, *, watched: bool = False) -> tuple[int, int]:
        """The slide's place, and the row in its grid, of a tile of the run or of the watched ones."""
        index = int(self._watched[number] if watched else self._in_order(number))
        place = int(np.searchsorted(self._ends, index, side="right")) - 1
        return place, int(self._slides[place].rows[index - self._ends[place]])

    def slide(self, place: int) -> _StoredSlide:
        return self._slides[place]

    def features(self, name: str, numbers: np.ndarray, *, watched: bool = False) -> np.ndarray:
        """What a set says of tiles, float32 [n, D].

        Args:
            name: of the set, as `sets` has it.
            numbers: int64 [n].
            watched: whether they count the watched tiles.
        """
        tiles = [self.tile(number, watched=watched) for number in numbers.tolist()]
        return np.stack([self._of_slide(name, place)[row] for place, row in tiles]).astype(np.float32)

    def digest(self, name: str) -> str:
        """SHA-256 of what decides a set's features of these slides."""
        prints = "\n".join(slide.records[name].fingerprint for slide in self._slides)
        return hashlib.sha256(prints.encode()).hexdigest()

    def card(self, name: str) -> EncoderCard:
        """The card of the encoder that made a set, under the name that the teacher has here."""
        record = self._slides[0].records[name]
        group = self.store.group(record)
        told: Any = group.attrs.get("encoder")
        dim = int(group["features"].shape[1])
        if isinstance(told, dict):
            return EncoderCard.parse({**told, "name": name, "dim": dim}, f"encoder of {record.set_name}")
        return EncoderCard(name=name, source="local", architecture=str(told or "unknown"), dim=dim)

    def facts(self) -> dict[str, Any]:
        """What a card says of the data: counts and digests, no names and no paths."""
        ids = "\n".join(slide.item.slide_id for slide in self._slides)
        return {
            "source_px": self.tile_px,
            "tiles": len(self),
            "held_out_tiles": self.watched,
            "slides": len(self._slides),
            "slides_sha256": hashlib.sha256(ids.encode()).hexdigest(),
        }

    def _of_slide(self, name: str, place: int) -> np.ndarray:
        key = (name, place)
        if key not in self._kept:
            while len(self._kept) >= 2 * WINDOW * len(self.sets):
                self._kept.popitem(last=False)
            self._kept[key] = self.store.read(self._slides[place].records[name], "features")
        self._kept.move_to_end(key)
        return self._kept[key]

    def _in_order(self, number: int) -> int:
        epoch, within = divmod(number, len(self._learnt))
        order = self._orders.get(epoch)
        if order is None:  # readers are ahead of the steps by an epoch at most
            order = self._shuffled(epoch)
            self._orders = {each: own for each, own in self._orders.items() if abs(each - epoch) == 1} | {epoch: order}
        return int(order[within])

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The tiles of an epoch: windows of slides at random, within each of them tiles at random."""
        rng = np.random.default_rng([self._seed, _ORDER, epoch])
        slides = rng.permutation(len(self._slides))
        cuts = np.searchsorted(self._learnt, self._ends)
        own = [self._learnt[begin:end] for begin, end in pairwise(cuts.tolist())]
        windows = [slides[start : start + WINDOW] for start in range(0, len(slides), WINDOW)]
        return np.concatenate([rng.permutation(np.concatenate([own[at] for at in window])) for window in windows])


class StoredDraws:
    """Reads tiles by number from their slides. Not for several threads at once: each has its own."""

    def __init__(self, tiles: StoredTiles, *, watched: bool = False) -> None:
        self.number = 0
        self._tiles, self._watched = tiles, watched
        self._open: OrderedDict[int, tuple[Slide, TileGrid]] = OrderedDict()
        self._known: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1][0].close()

    def __next__(self) -> Patch:
        """Read the tile of this number, and go on to the next.

        Raises:
            SlideError: it cannot be read, or its slide is not what the features were made of; the message names it.
        """
        place, row = self._tiles.tile(self.number, watched=self._watched)
        item = self._tiles.slide(place).item
        try:
            slide, grid = self._opened(place)
            pixels = read_tile(slide, grid, row)
        except (SlideError, OSError) as error:
            raise SlideError(f"{item.slide_id}: {redact(str(error), item.path, item.slide_id)}") from None
        x, y = grid.coords[row].tolist()
        self.number += 1
        return Patch(pixels, item.slide_id, (x, y), grid.mpp, self.number - 1)

    def _opened(self, place: int) -> tuple[Slide, TileGrid]:
        if place not in self._open:
            while len(self._open) >= WINDOW:
                self._open.popitem(last=False)[1][0].close()
            one, store = self._tiles.slide(place), self._tiles.store
            record = next(iter(one.records.values()))
            slide = open_recorded(store, record, one.item, known=place in self._known)
            self._known.add(place)
            self._open[place] = slide, load_grid(store, record.made_from("tiles"))
        self._open.move_to_end(place)
        return self._open[place]


def stored_names(method: DistillSpec) -> list[str]:
    """The teachers with a weight that are feature sets, as they are called."""
    weighted = [name for place, name in enumerate(method.teachers) if any(method.weights_of(place))]
    return [name for name in weighted if name.startswith(STORED)]


def open_stored(run: PretrainSpec, method: DistillSpec) -> StoredTiles | None:
    """The tiles of the feature sets that teach; None where none does.

    Raises:
        UsageError: there is no such store or set, the sets have other tiles, or no slide of theirs is at hand.
    """
    names = stored_names(method)
    if not names:
        return None
    method.check()
    run.data.check()
    check_stored(run)
    store = open_store(method.teacher_store or "")
    sets = {name: store.find_set(name.removeprefix(STORED)) for name in names}
    records = {name: store.records(found) for name, found in sets.items()}
    items = _items(run.data)
    shared = sorted(set.intersection(set(items), *(set(own) for own in records.values())))
    slides, sides = [], set()
    for slide_id in shared:
        own = {name: records[name][slide_id] for name in names}
        if len({record.facts["tiles_group"] for record in own.values()}) > 1:
            told = " and ".join(str(found).removeprefix("features-") for found in sets.values())
            raise UsageError(
                f"--teachers: {told} have other tiles of {slide_id}. Sets that teach together must come from one pass, or from "
                "the same tile settings."
            )
        valid = np.logical_and.reduce([store.read(record, "valid").astype(bool) for record in own.values()])
        if valid.any():
            first = next(iter(own.values()))
            sides.add(int(store.group(first.made_from("tiles")).attrs["geometry"]["tile_px"]))
            slides.append(_StoredSlide(items[slide_id], own, np.flatnonzero(valid)))
    if not slides:
        raise UsageError(
            f"--teachers: of {len(items)} slides at hand none has tiles in {' and '.join(map(str, sets.values()))}. Give the "
            "folder, and the manifest, that the sets were extracted from."
        )
    (side,) = sides
    if run.data.source_px not in (0, side):
        raise SpecError(f"source_px {run.data.source_px}: the tiles of the sets have {side} px. Leave it out.")
    every = set().union(*records.values())
    tiles = StoredTiles(
        store, sets, slides, tile_px=side, held_out=run.data.held_out, seed=run.seed, left_out=len(every) - len(slides)
    )
    if not len(tiles):
        raise UsageError(f"held_out {run.data.held_out}: all {tiles.watched} tiles would be held out. Lower it.")
    return tiles


def _items(data: ImageSpec) -> dict[str, SlideItem]:
    folder, table = (Path(each).expanduser() if each else None for each in (data.slides, data.manifest))
    return {item.slide_id: item for item in read_manifest(folder, table).items}
