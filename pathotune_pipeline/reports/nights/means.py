"""Mean features of slides, kept in the store's cache so that a night reads only what is new.

The cache holds hashes of groups' names and numbers, no id; it may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.layout import CHUNK_ROWS, SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

MOST_CHUNKS = 4
"""Chunks of a slide that are read, evenly spread: up to 32,768 tiles all of them."""
_UNREADABLE = (PathotuneError, OSError, LookupError, ValueError, RuntimeError)


def stable_sample(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, chosen by their hashes: those of a growing archive stay mostly the same."""
    return sorted(names, key=_hash)[:most]


class FeatureMeans:
    """Mean features by slide id; each slide is read once and remembered across nights."""

    def __init__(self, store: FeatureStore, features: SetName, records: Mapping[str, CommitRecord]) -> None:
        self._store, self._records = store, records
        self._file = f"{layout.CACHE}/{layout.MEANS}{features}.npz"
        self._known = self._load()
        self._used: dict[str, np.ndarray] = {}

    def of(self, slide_ids: Sequence[str]) -> np.ndarray:
        """The means of slides.

        Args:
            slide_ids: slides with a record.

        Returns:
            float32 [n, D]; a row of NaN where a slide has no readable tile or cannot be read.
        """
        rows = [self._one(self._records[slide_id]) for slide_id in slide_ids]
        dim = max((len(row) for row in rows), default=0)
        return np.stack([row if len(row) == dim else np.full(dim, np.nan, np.float32) for row in rows])

    def save(self) -> None:
        """Keep what was asked for; where the store cannot be written, the next night reads again."""
        if self._used.keys() == self._known.keys():
            return
        whole = [(name, row) for name, row in sorted(self._used.items()) if len(row)]
        if not whole:
            return
        buffer = io.BytesIO()
        np.savez(buffer, names=np.array([name for name, _ in whole]), means=np.stack([row for _, row in whole]))
        with contextlib.suppress(*_UNREADABLE):
            self._store.place.replace(self._file, buffer.getvalue(), durable=False)

    def _load(self) -> dict[str, np.ndarray]:
        data = self._store.place.read(self._file)
        if data is None:
            return {}
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as kept:
                return dict(zip(kept["names"].tolist(), kept["means"].astype(np.float32), strict=True))
        except Exception:  # noqa: BLE001 - a damaged cache is no cache
            return {}

    def _one(self, record: CommitRecord) -> np.ndarray:
        name = _hash(record.group)
        if name not in self._used:
            known = self._known.get(name)
            self._used[name] = known if known is not None else self._read(record)
        return self._used[name]

    def _read(self, record: CommitRecord) -> np.ndarray:
        try:
            return _mean(self._store.group(record))
        except _UNREADABLE:
            return np.zeros(0, np.float32)


def _mean(group: Any) -> np.ndarray:
    features, valid = group["features"], np.asarray(group["valid"][...]).astype(bool)
    starts = np.arange(0, len(valid), CHUNK_ROWS)
    if len(starts) > MOST_CHUNKS:
        starts = starts[np.linspace(0, len(starts) - 1, MOST_CHUNKS).astype(int)]
    total, count = np.zeros(features.shape[1]), 0
    for start in starts.tolist():
        rows = np.asarray(features[start : start + CHUNK_ROWS])
        rows = rows[valid[start : start + CHUNK_ROWS]]
        total += rows.sum(axis=0, dtype=np.float64)
        count += len(rows)
    return (total / count).astype(np.float32) if count else np.zeros(0, np.float32)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
