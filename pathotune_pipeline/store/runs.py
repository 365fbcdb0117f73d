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
from pathotune_pipeline.store.files import read_json, replace_file, to_json


class RunLog:
    """The record of one run, while it runs."""

    def __init__(self, runs: Path, verb: str, settings: Mapping[str, Any]) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.run_id = f"{stamp}-{secrets.token_hex(3)}"
        self.folder = runs / self.run_id
        self.folder.mkdir(parents=True)
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
        replace_file(self.folder / "run.json", to_json(self._record))

    def note(self, **facts: Any) -> None:
        """Add facts to the run's record."""
        self._record.update(facts)
        self._save()

    def outcome(self, outcome: Mapping[str, Any]) -> None:
        """Append what became of one slide."""
        with (self.folder / "outcomes.jsonl").open("a") as file:
            file.write(json.dumps(dict(outcome), sort_keys=True) + "\n")

    def finish(self, **facts: Any) -> None:
        self.note(finished=now(), **facts)


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it was recorded; `finished` is None where it was killed or still runs."""

    run_id: str
    record: dict[str, Any]
    outcomes: list[dict[str, Any]] = field(default_factory=list)


def read_runs(runs: Path) -> list[Run]:
    """Every recorded run, oldest first. A line cut short by a kill is left out."""
    found = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        record = read_json(folder / "run.json")
        if isinstance(record, dict):
            found.append(Run(folder.name, record, _read_lines(folder / "outcomes.jsonl")))
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    outcomes = []
    for line in lines:
        try:
            outcomes.append(json.loads(line))
        except ValueError:
            continue
    return outcomes
