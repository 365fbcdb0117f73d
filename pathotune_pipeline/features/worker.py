"""One slide's job, as a worker process does it: all that is missing of it, for all recipes, in one pass over its tiles."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.features.engine import Engine
from pathotune_pipeline.features.engines import engine_of
from pathotune_pipeline.features.held import HeldSlide
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import SlideJob
from pathotune_pipeline.features.slide_work import SlideWork
from pathotune_pipeline.features.stream import Part
from pathotune_pipeline.store.store import FeatureStore

_at_work: Counter[str] = Counter()
_at_work_lock = threading.Lock()


def process_slide(job: SlideJob) -> Outcome:
    """Do one slide's job and say what became of it. Never raises for what is wrong with the slide.

    Returns:
        The outcome of the job's first recipe; those of its other recipes are in `others`.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
        DeviceLostError: the device has failed for this process.
    """
    began = time.perf_counter()
    held = HeldSlide(job)
    works = [SlideWork(recipe, held) for recipe in (job.recipe, *job.also)]
    with _staging(held.store):
        try:
            engine = engine_of(pick_device(job.recipe.spec.encoder.device))
            with engine.expecting():
                for work in works:
                    work.attempt(work.prepare)
                _stream([work for work in works if work.outcome is None], engine)
                for work in works:
                    work.attempt(work.finish)
        except StoreUnwritableError:
            raise  # every slide would meet it
        except Exception as error:  # noqa: BLE001 - one slide never stops the others; its report says what happened
            for work in works:
                work.fail(error)
        finally:
            for work in works:
                work.close()
            held.close()
    first, *others = (work.told(time.perf_counter() - began) for work in works)
    return replace(first, others=tuple(others))


@contextmanager
def _staging(store: FeatureStore) -> Iterator[None]:
    """Within the block this process's staging folder stays; the last of its slides to leave takes it away."""
    name = store.address
    with _at_work_lock:
        _at_work[name] += 1
    try:
        yield
    finally:
        with _at_work_lock:
            _at_work[name] -= 1
            if not _at_work[name]:
                store.close_staging()


def _stream(works: Sequence[SlideWork], engine: Engine) -> None:
    """Tiles of a slide through the encoders. Recipes with the same tiles share them; each tile is read once for all."""
    groups: dict[str, list[SlideWork]] = {}
    for work in works:
        groups.setdefault(work.prints.tiles, []).append(work)
    for group in groups.values():
        part = Part(group[0].grid, [work.sink for work in group], transform=group[0].stain)
        for work in group:
            work.part = part
    if works:
        began, job = time.perf_counter(), works[0].job
        parts = [group[0].part for group in groups.values()]
        engine.encode(works[0].slide(), parts, threads=job.threads)
        for work in works:
            work.stages["stream_s"] = time.perf_counter() - began
