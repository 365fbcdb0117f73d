"""An archive of many slides on real Dask workers: slides come out of memory, everything else is as it is at night.

Every slide is committed once; a second run finds nothing to do; the process with the scheduler does not grow; a slide
costs as much at the end as at the beginning. `--deadly` puts in slides that kill their worker.

    python benchmarks/simulate.py [--quick] [--slides 10000] [--workers 8] [--deadly 0]
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from timing import row

from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.errors import UnreadableSlideError
from pathotune_pipeline.execution.executor import ExecutionSpec, create_executor
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.open import READERS
from pathotune_pipeline.slides.slide import Level, Slide, SlideInfo
from pathotune_pipeline.store.store import FeatureStore

BENCH = "simulate"
SIDE_PX = 256
SPEC: dict[str, Any] = {
    "slide": {"reader": "simulated"},
    "tiles": {"tile_px": 128, "mpp": 0.5, "min_tissue": 0.0},
    "encoder": {"device": "cpu", "batch_size": 8},
}


class SimulatedSlide:
    """A pink square on glass; its file holds a number, and of a deadly one a word."""

    def __init__(self, path: Path) -> None:
        text = path.read_text()
        if not text.startswith("simulated "):
            raise UnreadableSlideError("it is not simulated.")
        if text.endswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        size = Size(SIDE_PX, SIDE_PX)
        self.info = SlideInfo("simulated", "simulated", (Level(size, 1.0),), Mpp.square(0.5), "simulated", None)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        out = np.full((size[1], size[0], 3), 245, np.uint8)
        out[size[1] // 8 :, size[0] // 8 :] = (200, 120, 170)
        return out

    def close(self) -> None:
        """Nothing is held."""


def open_simulated(path: Path) -> Slide:
    return SimulatedSlide(path)


def dask_setup(worker: object) -> None:
    """Called in each worker process (`distributed.worker.preload`): the reader is known there too."""
    if "simulated" not in READERS.names():
        READERS.add("simulated", open_simulated)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 slides; under 3 minutes")
    parser.add_argument("--slides", type=int, default=None)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--deadly", type=int, default=0)
    arguments = parser.parse_args()
    count = arguments.slides or (200 if arguments.quick else 10_000)
    few = min(100, count)
    import dask

    dask_setup(None)
    dask.config.set({"distributed.worker.preload": [str(Path(__file__).resolve())]})
    with tempfile.TemporaryDirectory() as folder:
        listed = manifest(Path(folder), count, first=few, deadly=arguments.deadly)
        execution = ExecutionSpec(executor="local", workers=arguments.workers)
        with create_executor(execution, gpus=False) as executor:
            warm = Manifest(listed.items[:few], ())
            simulate(Path(folder) / "warm", warm, executor)

            def small(when: str) -> list[float]:
                """Seconds of some runs over few slides: a single one is over too soon to be told from noise."""
                return [simulate(Path(folder) / f"few{when}{number}", warm, executor)[1] for number in range(5)]

            before = small("before")
            times: list[float] = []
            result, seconds, grown = simulate(Path(folder) / "store", listed, executor, times)
            check(result, Path(folder) / "store", count, arguments.deadly)
            each = statistics.median(before + small("after")) / few
            row(BENCH, f"{few} slides, {arguments.workers} workers", 1e3 * each, "ms a slide")
            ratio = each / (seconds / count)
            case = f"{count} slides, {arguments.workers} workers"
            tenths = np.diff([0.0, *times[count // 10 - 1 :: count // 10]]) * 1e4 / count
            first_and_last = {"first_tenth": float(tenths[0]), "last_tenth": float(tenths[-1])}
            row(BENCH, case, 1e3 * seconds / count, "ms a slide", {f"at {few}": ratio}, **first_and_last)
            row(BENCH, f"{case}: growth of the scheduler's process after the first tenth", grown / 1e6, "MB")
            if not arguments.deadly:
                again, seconds, _ = simulate(Path(folder) / "store", listed, executor)
                if again.counts()["computed"]:
                    raise SystemExit(f"a second run computed {again.counts()['computed']} slides")
                row(BENCH, f"{count} slides, second run", seconds, "s")


def manifest(folder: Path, count: int, *, first: int, deadly: int) -> Manifest:
    """Small files, every one with contents of its own; deadly ones spread over those after the first."""
    (folder / "archive").mkdir()
    killers = {int(place) for place in np.linspace(first, count - 1, deadly)}
    items = []
    for number in range(count):
        path = folder / "archive" / f"{number:05d}.sim"
        path.write_text(f"simulated {number}" + (" deadly" if number in killers else ""))
        items.append(SlideItem(path.name, path))
    return Manifest(tuple(items), ())


def simulate(
    store: Path, listed: Manifest, executor: Any, times: list[float] | None = None
) -> tuple[ExtractResult, float, int]:
    """Extract; the result, wall seconds, and by how many bytes this process grew after the first tenth.

    Args:
        store: where to.
        listed: the slides.
        executor: what does the work.
        times: takes the seconds after which each outcome was there.
    """
    process, seen = psutil.Process(), []

    def on_outcome(_: Outcome) -> None:
        seen.append(process.memory_info().rss)
        if times is not None:
            times.append(time.perf_counter() - began)

    gc.collect()
    began = time.perf_counter()
    result = extract(listed, ExtractSpec.parse(SPEC), FeatureStore(store), executor, on_outcome=on_outcome)
    seconds = time.perf_counter() - began
    return result, seconds, (max(seen) - seen[len(seen) // 10]) if seen else 0


def check(result: ExtractResult, store: Path, count: int, deadly: int) -> None:
    """Every slide has one outcome and, unless it is deadly, one commit."""
    outcomes = Counter(outcome.slide_id for outcome in result.outcomes)
    commits = Counter(record.name.partition("@")[0] for record in (store / "commits").glob("features-*/*.json"))
    counts = result.counts()
    if len(outcomes) != count or max(outcomes.values()) != 1:
        raise SystemExit(f"{len(outcomes)} slides have outcomes, of {count}")
    if (len(commits), counts["computed"], counts["failed"]) != (count - deadly,) * 2 + (deadly,):
        raise SystemExit(
            f"{len(commits)} slides are committed, {counts['failed']} failed, of {count} with {deadly} deadly"
        )
    if commits and max(commits.values()) != 1:
        raise SystemExit("a slide was committed twice")
    reasons = {outcome.reason for outcome in result.outcomes if outcome.status == "failed"}
    if any("died 3 times" not in reason for reason in reasons):
        raise SystemExit(f"failed for other reasons: {reasons}")
    print(f"{count} slides: {counts['committed']} committed once each, {counts['failed']} given up", file=sys.stderr)


if __name__ == "__main__":
    main()
