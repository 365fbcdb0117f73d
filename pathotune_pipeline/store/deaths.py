"""Slides under which worker processes died: records under `STORE/deaths/` that are never changed; a release is one, too.

A record says which slide, in which set, and in what state its file and all that decides its features were: its trial.
What counts against a slide are the deaths of the same trial since its last release.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pathotune_pipeline.provenance import now
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.stamped import Stamp, add_stamped, stamps
from pathotune_pipeline.store.store import FeatureStore

_RELEASE = "-release"


@dataclass(frozen=True, slots=True)
class Death:
    """A run in which a slide was given up, because worker processes died under it.

    Attributes:
        slide_id: which slide.
        features: the set that was to be made.
        trial: digest of the file's state and of what decides the features; no path can be read from it.
        at: when, UTC; set when it is kept.
    """

    slide_id: str
    features: str
    trial: str
    at: str = ""


def add_death(store: FeatureStore, slide_key: str, death: Death) -> None:
    """Keep that a slide was given up.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    add_stamped(store, layout.DEATHS, slide_key, {**asdict(death), "at": now()})


def read_deaths(store: FeatureStore) -> dict[str, list[Death]]:
    """Deaths since the last release by the slide's key, oldest first. One listing where there are none.

    A record that cannot be read counts for nothing: its slide is tried once more, and no night stops for it.
    """
    counted: dict[str, list[Stamp]] = {}
    for stamp in stamps(store, layout.DEATHS):
        if stamp.ending == _RELEASE:
            counted.pop(stamp.key, None)
        else:
            counted.setdefault(stamp.key, []).append(stamp)
    data = store.place.read_many(stamp.name(layout.DEATHS) for own in counted.values() for stamp in own)
    found: dict[str, list[Death]] = {}
    for key, own in counted.items():
        for stamp in own:
            death = _death(data.get(stamp.name(layout.DEATHS)))
            if death is not None:
                found.setdefault(key, []).append(death)
    return found


def release(store: FeatureStore, slide_key: str) -> None:
    """Let the next run try a slide as if no process had died under it.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    add_stamped(store, layout.DEATHS, slide_key, {"at": now()}, _RELEASE)


def _death(data: bytes | None) -> Death | None:
    record: Any = parse_json(data)
    try:
        return Death(**record)
    except TypeError:
        return None
