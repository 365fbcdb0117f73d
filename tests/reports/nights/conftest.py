"""An archive over nights: what was committed long ago, and what came since."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.store.store import FeatureStore

CONTEXT = {"stain": "H&E", "scanner": "AT2 <b>"}


def quality(rng: np.random.Generator, *, redder: float = 0.0) -> dict[str, Any]:
    """What `Quality.as_dict` gives, of a slide whose haematoxylin absorbs more red by so much."""
    vectors = np.abs(np.array([[0.65 + redder, 0.70, 0.29], [0.07, 0.99, 0.11]]) + rng.normal(0, 0.01, (2, 3)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {
        "area_mm2": 3.0,
        "coverage": 0.2,
        "blur_share": float(np.abs(rng.normal(0, 0.02))),
        "fold_share": 0.0,
        "pen_share": 0.0,
        "hematoxylin": vectors[0].tolist(),
        "eosin": vectors[1].tolist(),
        "background": [240.0, 241.0, 242.0],
        "finest_provable_um": 16.0,
    }


def age(store: Any, slide_ids: list[str]) -> None:
    """Let commits be as if they had been made an hour ago."""
    for path in (store.root / "commits").glob("*/*.json"):
        facts = json.loads(path.read_text())
        if facts["slide_id"] in slide_ids:
            facts["committed_ns"] -= 3600 * 10**9
            path.write_text(json.dumps(facts))


def stamp(hours: float = 0.0) -> str:
    """A run's time, so many hours from now."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + 3600 * hours))


@pytest.fixture(scope="session")
def old_archive(fake: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store with 22 slides of an earlier night; copied for each test."""
    rng = np.random.default_rng(3)
    old = [
        fake.FakeSlide(
            f"old-{index:02}.svs", seed=index % 3, quality=quality(rng), context=CONTEXT, mean=float(rng.normal())
        )
        for index in range(22)
    ]
    store = fake.build_store(tmp_path_factory.mktemp("old") / "store", old, stamp=stamp(-1.5))
    age(store, [slide.slide_id for slide in old])
    return SimpleNamespace(root=store.root, old=old)


@pytest.fixture
def archive(fake: SimpleNamespace, old_archive: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """The old archive, and what makes further nights.

    `night(slides, ...)` commits slides, or fails them, and writes a run in which the others were there already.
    """
    rng = np.random.default_rng(4)
    old, store = old_archive.old, FeatureStore(shutil.copytree(old_archive.root, tmp_path / "store"))

    def night(slides: list[Any], *, at: str | None = None, gone: tuple[str, ...] = (), **more: Any) -> None:
        started, here = at or stamp(), {slide.slide_id for slide in slides} | set(gone)
        outcomes = [fake.outcome_of(each, 5, new=False) for each in old if each.slide_id not in here]
        for each in slides:
            made = each.status in ("committed", "empty")
            outcomes.append(fake.outcome_of(each, fake.commit_slide(store, each) if made else 0))
        fake.write_run(store, started, outcomes, removed=list(gone), **more)

    def fresh(name: str, *, redder: float = 0.0, mean: float = 0.0, **more: Any) -> Any:
        told = quality(rng, redder=redder)
        return fake.FakeSlide(name, quality=told, context=CONTEXT, mean=mean + float(rng.normal()), **more)

    return SimpleNamespace(store=store, old=old, night=night, fresh=fresh, stamp=stamp)
