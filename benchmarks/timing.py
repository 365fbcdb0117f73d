"""What every benchmark shares: rows of JSON, and pairs of runs taken in turns."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping


def row(
    bench: str, case: str, value: float, unit: str, ratios: Mapping[str, float] | None = None, **more: float
) -> None:
    """Print one row; `more` are further numbers of it."""
    plain = {name: round(ratio, 3) for name, ratio in (ratios or {}).items()}
    told = {"bench": bench, "case": case, "value": round(value, 4), "unit": unit, "ratios": plain}
    print(json.dumps({**told, **{name: round(number, 4) for name, number in more.items()}}), flush=True)


Clock = Callable[[], float]


def seconds(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    began = clock()
    work()
    return clock() - began


def in_turns(
    contenders: Mapping[str, Callable[[], object]], pairs: int, *, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each contender, one of each in turn, after one warm-up of each."""
    for work in contenders.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(pairs):
        names = list(contenders)
        for name in names if turn % 2 == 0 else reversed(names):
            taken[name].append(seconds(contenders[name], clock))
    return taken


def median_ratio(theirs: list[float], ours: list[float]) -> float:
    """Our speed over theirs: the median over pairs."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
