"""What was done with a store, and when: numbered records that are written once, each bearing the hash of the one before.

The ledger outlives records of runs (`gc --keep-runs`), and names no slide, case or path. A record that was changed, or taken
from the middle, shows; one missing at the end does not, as nothing speaks of it yet.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from pathotune_pipeline.provenance import now
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json, to_json
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.version import VERSION

_NAME = re.compile(r"^(\d{8})\.json$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the ledger.

    Attributes:
        number: its place, from 0.
        verb: what was done: extract, predict, train, forget, ...
        at: when, UTC.
        facts: numbers and names of what came of it.
    """

    number: int
    verb: str
    at: str
    facts: dict[str, Any]


def enter(store: FeatureStore, verb: str, **facts: Any) -> int:
    """Add a record; of several processes that add at once each gets a number of its own.

    Args:
        store: an existing store.
        verb: what was done.
        facts: plain values, without names of slides, cases or files.

    Returns:
        Its number.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    number = (_numbers(store) or [-1])[-1] + 1
    while True:
        before = store.place.read(_name(number - 1)) if number else None
        record = {
            "number": number,
            "previous": None if before is None else hashlib.sha256(before).hexdigest(),
            "verb": verb,
            "at": now(),
            "version": VERSION,
            **facts,
        }
        if store.place.create(_name(number), to_json(record)):
            return number
        number += 1


def read_ledger(store: FeatureStore) -> list[Entry]:
    """Every record that can be read, in their order."""
    names = [_name(number) for number in _numbers(store)]
    data = store.place.read_many(names)
    records: list[Any] = [parse_json(data.get(name)) for name in names]
    return [_entry(record) for record in records if isinstance(record, dict) and "number" in record]


def ledger_faults(store: FeatureStore) -> dict[str, str]:
    """What is wrong with the ledger, by the record's path: one is missing, cannot be read, or was changed afterwards."""
    numbers = _numbers(store)
    data = store.place.read_many(_name(number) for number in numbers)
    faults: dict[str, str] = {}
    before: bytes | None = None
    for number in range(numbers[-1] + 1 if numbers else 0):
        name = _name(number)
        own = data.get(name)
        record: Any = parse_json(own)
        if own is None:
            faults[name] = "is missing, and later ones are there. Restore it from a backup."
        elif not isinstance(record, dict) or record.get("number") != number:
            faults[name] = "is no whole record. Restore it from a backup."
        elif before is not None and record.get("previous") != hashlib.sha256(before).hexdigest():
            faults[name] = f"does not follow {_name(number - 1)}: one of them was changed. Restore both from a backup."
        before = own
    return faults


def _entry(record: dict[str, Any]) -> Entry:
    facts = {name: value for name, value in record.items() if name not in ("number", "previous", "verb", "at")}
    return Entry(int(record["number"]), str(record.get("verb", "")), str(record.get("at", "")), facts)


def _numbers(store: FeatureStore) -> list[int]:
    return sorted(int(match[1]) for match in map(_NAME.match, store.place.names(layout.LEDGER)) if match)


def _name(number: int) -> str:
    return f"{layout.LEDGER}/{number:08d}.json"
