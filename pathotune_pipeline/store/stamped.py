"""Small records that are never changed: `<folder>/<slide's key>@<number><ending>.json`, the number growing with time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from pathotune_pipeline.store.files import to_json
from pathotune_pipeline.store.store import FeatureStore

_NAME = re.compile(r"^([^.].*)@(\d{20})((?:-[a-z]+)?)\.json$")


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """One record's name.

    Attributes:
        key: the slide's.
        number: nanoseconds of Unix time, or one more than the slide's record before.
        ending: what its name says besides, such as "-reject"; or empty.
    """

    key: str
    number: int
    ending: str = ""

    def name(self, folder: str) -> str:
        """Of the record in the store."""
        return f"{folder}/{self.key}@{self.number:020d}{self.ending}.json"


def stamps(store: FeatureStore, folder: str) -> list[Stamp]:
    """Every record of a folder, each slide's oldest first: one listing, no file opened."""
    found = (_NAME.match(name) for name in store.place.names(folder))
    return sorted(Stamp(match[1], int(match[2]), match[3]) for match in found if match)


def newest_stamps(store: FeatureStore, folder: str) -> dict[str, Stamp]:
    """The newest record of each slide, by its key."""
    return {stamp.key: stamp for stamp in stamps(store, folder)}


def add_stamped(store: FeatureStore, folder: str, key: str, record: dict[str, Any], ending: str = "") -> Stamp:
    """Write a record that is newer than all of its slide, however the clock was set.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    while True:
        before = newest_stamps(store, folder).get(key)
        stamp = Stamp(key, max(time.time_ns(), before.number + 1 if before else 0), ending)
        if store.place.create(stamp.name(folder), to_json(record)):
            return stamp
