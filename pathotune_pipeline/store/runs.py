"""The record of runs: what was asked, with which versions, and what became of every slide.

`runs/<run>/run.json` is replaced whole; `outcomes.jsonl` grows by a line a slide, so that a killed run still tells
how far it came.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathotune_pipeline.provenance import machine, now, package_versions
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json, to_json
from pathotune_pipeline.store.leases import Lease
from pathotune_pipeline.store.place import Place, place_of


class RunLog:
    """The record of one run, while it runs."""

    def __init__(self, runs: Place | Path, verb: str, settings: Mapping[str, Any]) -> None:
        """Open a record.

        Args:
            runs: `FeatureStore.runs`.
            verb: "extract", ...
            settings: what was asked, in plain values.

        Raises:
            StoreUnwritableError: the store is full, read-only or forbidden.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.run_id = f"{stamp}-{secrets.token_hex(3)}"
        self._runs = place_of(runs)
        self._lease: Lease | None = None
        self._began = time.monotonic()
        self._record: dict[str, Any] = {
            "run_id": self.run_id,
            "verb": verb,
            "started": now(),
            "finished": None,
            "settings": dict(settings),
            "versions": package_versions(),
            "machine": machine(),
        }
        self._save()

    def _save(self) -> None:
        self._runs.replace(f"{self.run_id}/run.json", to_json(self._record))

    def note(self, **facts: Any) -> None:
        """Add facts to the run's record."""
        self._record.update(facts)
        self._save()

    def outcome(self, outcome: Mapping[str, Any]) -> None:
        """Append what became of one slide."""
        line = json.dumps(dict(outcome), sort_keys=True) + "\n"
        self._runs.append(f"{self.run_id}/outcomes.jsonl", line.encode())

    def finish(self, **facts: Any) -> None:
        self.note(finished=now(), **facts)

    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def keep_alive(self, lease: Lease | None) -> None:
        """Hold a lease as long as the run goes on, so that others see that it lives."""
        self._lease = lease

    def close(self) -> None:
        """Say that the run goes on no longer."""
        if self._lease is not None:
            self._lease.release()


def run_lease(run_id: str) -> str:
    """Name of the lease that a run holds as long as it goes on."""
    return f"{layout.RUNS}/{run_id}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it was recorded; `finished` is None where it was killed or still runs."""

    run_id: str
    record: dict[str, Any]
    outcomes: list[dict[str, Any]] = field(default_factory=list)


def read_runs(runs: Place | Path, *, newest: int | None = None) -> list[Run]:
    """Recorded runs, oldest first: every one, or the newest so many. A line cut short by a kill is left out."""
    place, found = place_of(runs), []
    names = sorted(place.names(""))
    for name in names if newest is None else names[-newest:]:
        record = parse_json(place.read(f"{name}/run.json"))
        if isinstance(record, dict):
            found.append(Run(name, record, _lines(place.read(f"{name}/outcomes.jsonl") or b"")))
    return found


def _lines(data: bytes) -> list[dict[str, Any]]:
    outcomes = []
    for line in data.decode(errors="replace").splitlines():
        try:
            outcomes.append(json.loads(line))
        except ValueError:
            continue
    return outcomes
