"""The training cache: a feature set's bags end to end in flat files, which are mapped and not read.

A store keeps a slide's features in chunks that any reader of Zarr understands; a training reads all of them hundreds of
times in another order each time. The cache is made once from the store and may be deleted at any time. It lies in
`<folder>/<set>/<store>/segment-<hash>/`: `features.bin` [sum of N, D] in the store's dtype, `coords.bin` [sum of N, 2] int64 and
`index.json`. A segment is written aside and renamed, so it is there whole or not at all; slides that it lacks, or that were
extracted anew, go into a new one. Every slide's bytes are held against their checksum before they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.errors import StoreUnwritableError, UsageError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.provenance import canonical_json
from pathotune_pipeline.store.files import parse_json, sync_folder, sync_tree, to_json
from pathotune_pipeline.store.owner import is_gone, owner_name
from pathotune_pipeline.store.store import CommitRecord
from pathotune_pipeline.store.unwritable import ADVICE

FORMAT = 1
SEGMENT_BYTES = 4_000_000_000
"""Features after which a segment is closed: what is closed need not be written again after a crash."""
FEATURES, COORDS, INDEX = "features.bin", "coords.bin", "index.json"
CHECKERS = 4
"""Threads that compare checksums."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedBag:
    """One slide in the cache.

    Attributes:
        features: [N, D] float16 or float32, a memory map.
        coords: [N, 2] int64, a memory map.
        checksums: CRC-32 of both.
    """

    features: np.ndarray
    coords: np.ndarray
    checksums: tuple[int, int]

    def is_sound(self) -> bool:
        """Whether the bytes are those that were written."""
        return (_crc(self.features), _crc(self.coords)) == self.checksums


@dataclass(frozen=True, slots=True, eq=False)
class TrainingCache:
    """The bags of a dataset, mapped; `cache[i]` is what `dataset[i]` reads.

    Attributes:
        dataset: ids, patients and labels.
        found: each of its slides.
        written: slides that had to be written now.
    """

    dataset: BagDataset
    found: Sequence[CachedBag]
    written: int

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> Bag:
        one = self.found[index]
        return self.dataset.bag(index, one.features, one.coords)


def make_cache(dataset: BagDataset, folder: Path, *, on_slide: Callable[[int], None] | None = None) -> TrainingCache:
    """Take the dataset's slides from the cache, after writing those that it lacks.

    Args:
        dataset: whose slides are wanted.
        folder: of the cache; is made. Several runs may share it.
        on_slide: told how many slides are written.

    Raises:
        UsageError: the folder cannot be one.
        StoreUnwritableError: there is no room, or no right to write; what was closed before stays, nothing else.
        CorruptDataError: what was committed in the store cannot be read.
    """
    # Each store its own: what one store no longer holds is deleted, and says nothing of another's.
    store = hashlib.sha256(dataset.store.address.encode()).hexdigest()[:8]
    home = folder / str(dataset.features_set) / store
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--cache {folder}: cannot be made ({error.strerror or error}). Give another folder."
        ) from None
    _clear_abandoned(home)
    keys = [content_key(record) for record in dataset.records]
    held = _sound(home, set(keys))
    lacking = [index for index, key in enumerate(keys) if key not in held]
    if lacking:
        current = {content_key(record) for record in dataset.store.records(dataset.features_set).values()}
        _drop_outdated(home, current)
        try:
            _write_segments(home, dataset, [(index, keys[index]) for index in lacking], on_slide)
        except OSError as error:
            if error.errno not in ADVICE:
                raise
            raise StoreUnwritableError(
                f"--cache {folder}: cannot be written ({error.strerror}). {ADVICE[error.errno]}, or leave --cache out.",
                error.errno,
            ) from error
        held |= _sound(home, set(keys) - held.keys())  # what was held needs no second look
    return TrainingCache(dataset, [held[key] for key in keys], len(lacking))


def content_key(record: CommitRecord) -> str:
    """The hash of all that decides a slide's bag: features, which tiles are valid, and where they lie."""
    facts = record.facts
    parts = [record.slide_id, record.fingerprint, facts.get("checksums"), facts.get("tiles_fingerprint")]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def segments_with(folder: Path, keys: frozenset[str]) -> list[Path]:
    """Segments of a cache's folder, of any set and store, that hold one of some slides (by `content_key`)."""
    return [segment for segment in sorted(folder.glob("*/*/segment-*")) if keys & set(_read(segment) or ())]


class _Segment:
    """Flat files that are being written, aside."""

    def __init__(self, home: Path, first: np.ndarray) -> None:
        self.dtype, self.dim, self.rows = first.dtype, first.shape[1], 0
        self._home = home
        self._folder = home / f".{owner_name()}.{uuid.uuid4().hex}"
        self._folder.mkdir()
        self._files: list[BinaryIO] = [(self._folder / name).open("xb") for name in (FEATURES, COORDS)]
        self._slides: list[dict[str, Any]] = []

    def takes(self, features: np.ndarray) -> bool:
        """Whether a slide still belongs here."""
        room = self.rows * self.dim * self.dtype.itemsize < SEGMENT_BYTES
        return room and (features.dtype, features.shape[1]) == (self.dtype, self.dim)

    def add(self, key: str, bag: Bag) -> None:
        arrays = (np.ascontiguousarray(bag.features), np.ascontiguousarray(bag.coords, dtype=np.int64))
        for file, array in zip(self._files, arrays, strict=True):
            file.write(array.data.cast("B"))
        sums = [_crc(array) for array in arrays]
        self._slides.append({"key": key, "start": self.rows, "rows": len(bag), "checksums": sums})
        self.rows += len(bag)

    def close(self) -> None:
        """Flush it, and give it its name."""
        for file in self._files:
            file.close()
        index = {"format": FORMAT, "dtype": self.dtype.name, "dim": self.dim, "rows": self.rows, "slides": self._slides}
        (self._folder / INDEX).write_bytes(to_json(index))
        sync_tree(self._folder)
        failpoint("cache.written")
        name = hashlib.sha256(canonical_json([slide["key"] for slide in self._slides]).encode()).hexdigest()[:16]
        goal = self._home / f"segment-{name}"
        try:
            self._folder.rename(goal)
        except OSError:
            if not goal.is_dir():
                raise
            self.drop()  # another run's, of the same slides
        sync_folder(self._home)

    def drop(self) -> None:
        """Leave nothing."""
        for file in self._files:
            with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffer
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _write_segments(
    home: Path, dataset: BagDataset, wanted: Iterable[tuple[int, str]], on_slide: Callable[[int], None] | None
) -> None:
    segment: _Segment | None = None
    try:
        for done, (index, key) in enumerate(wanted, 1):
            bag = dataset[index]
            features = np.asarray(bag.features)
            if segment is not None and not segment.takes(features):
                segment.close()
                segment = None
            if segment is None:
                segment = _Segment(home, features)
            segment.add(key, bag)
            if on_slide:
                on_slide(done)
        if segment is not None:
            segment.close()
            segment = None
    finally:
        if segment is not None:
            segment.drop()


def _sound(home: Path, wanted: set[str]) -> dict[str, CachedBag]:
    """Wanted slides by key; a segment with a damaged one is deleted."""
    found: dict[str, CachedBag] = {}
    for folder in sorted(home.glob("segment-*")):
        held = _read(folder)
        slides = {key: slide for key, slide in (held or {}).items() if key in wanted}
        with ThreadPoolExecutor(CHECKERS) as pool:
            sound = held is not None and all(pool.map(CachedBag.is_sound, slides.values()))
        if sound:
            found |= slides
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _read(folder: Path) -> dict[str, CachedBag] | None:
    """What a segment holds, by key; None where it makes no sense."""
    try:
        index = parse_json((folder / INDEX).read_bytes())
        if index["format"] != FORMAT:
            return None
        rows, dim, dtype = int(index["rows"]), int(index["dim"]), np.dtype(index["dtype"])
        # Copy on write: torch wants memory that it may write, and the file stays as it is.
        features = np.memmap(folder / FEATURES, dtype, mode="c", shape=(rows, dim))
        coords = np.memmap(folder / COORDS, np.int64, mode="c", shape=(rows, 2))
        found = {}
        for slide in index["slides"]:
            part = slice(int(slide["start"]), int(slide["start"]) + int(slide["rows"]))
            sums = (int(slide["checksums"][0]), int(slide["checksums"][1]))
            found[str(slide["key"])] = CachedBag(features[part], coords[part], sums)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _drop_outdated(home: Path, current: set[str]) -> None:
    """Delete segments none of whose slides is what the store holds now."""
    for folder in home.glob("segment-*"):
        if not current & set(_read(folder) or ()):
            shutil.rmtree(folder, ignore_errors=True)


def _clear_abandoned(home: Path) -> None:
    for folder in home.glob(".*"):
        if is_gone(folder.name.split(".")[1]):
            shutil.rmtree(folder, ignore_errors=True)


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B"))
