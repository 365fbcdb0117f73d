"""What runs said became of slides; the newest says most."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pathotune_pipeline.store.runs import Run


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run: `finished` is empty where it was killed or still runs; `stream` is its speed, where it made tiles."""

    run_id: str
    verb: str
    features: str
    started: str
    finished: str
    slides: int | None
    computed: int
    failed: int
    stream: str = ""


@dataclass(slots=True)
class History:
    """What runs said of one slide.

    Attributes:
        newest: the last outcome of the newest run that names it.
        ended: when that run ended, or began where it never did.
        worked: the newest outcome of a run that did work on it.
    """

    newest: Mapping[str, Any]
    ended: str
    worked: Mapping[str, Any] | None = None


def outcomes_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """The last outcome of each slide of a run, held against what the run said in the end."""
    told: dict[str, Mapping[str, Any]] = {
        str(line["slide_id"]): line for line in run.outcomes if isinstance(line, dict) and "slide_id" in line
    }
    for slide_id in run.record.get("left") or []:
        told[str(slide_id)] = {"slide_id": slide_id, "status": "left", "new": False, "reason": "the time was over."}
    for slide_id in run.record.get("planned_slides") or []:
        reason = "the run has not come to it, or was killed before."
        unreached = {"slide_id": slide_id, "status": "failed", "reason": reason, "unreached": True}
        told.setdefault(str(slide_id), unreached)
    for slide_id, reason in (run.record.get("failures") or {}).items():
        if told.get(slide_id, {}).get("status") != "failed":
            told[slide_id] = {"slide_id": slide_id, "status": "failed", "reason": reason}
    return told


def histories(runs: Iterable[Run]) -> dict[str, History]:
    """What runs, oldest first, said of each slide."""
    found: dict[str, History] = {}
    for run in runs:
        ended = str(run.record.get("finished") or run.record.get("started") or "")
        for slide_id, outcome in outcomes_of(run).items():
            before = found.get(slide_id)
            worked = outcome if outcome.get("new", True) else None
            found[slide_id] = History(outcome, ended, worked or (before.worked if before else None))
    return found


def run_row(run: Run) -> RunRow:
    """One run as the page shows it."""
    outcomes = outcomes_of(run).values()
    counts = run.record.get("counts") or {}
    failed = sum(outcome.get("status") == "failed" and not outcome.get("unreached") for outcome in outcomes)
    computed = sum(
        bool(outcome.get("new", True)) and outcome.get("status") in ("committed", "empty") for outcome in outcomes
    )
    return RunRow(
        run_id=run.run_id,
        verb=str(run.record.get("verb", "")),
        features=str(run.record.get("features", "")).removeprefix("features-"),
        started=str(run.record.get("started") or ""),
        finished=str(run.record.get("finished") or ""),
        slides=run.record.get("slides"),
        computed=int(counts.get("computed", computed)),
        failed=int(counts.get("failed", failed)),
        stream=_stream(run.record.get("stream")),
    )


def _stream(stream: Any) -> str:
    if not isinstance(stream, Mapping) or "tiles_per_s" not in stream:
        return ""
    megabytes = float(stream.get("bytes_read", 0)) / 1e6
    return f"{stream['tiles_per_s']:.1f} tiles/s, encoders busy {stream['device_busy']:.0%}, {megabytes:.0f} MB read"


def nanoseconds(stamp: str) -> int:
    """The end of the second that an ISO time names; 0 where it is none."""
    try:
        return (calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) + 1) * 10**9
    except ValueError:
        return 0
