"""Slides that a killed run never came to are shown."""

from __future__ import annotations

from pathlib import Path

from pathotune_pipeline.reports.collect import collect
from pathotune_pipeline.store import FeatureStore, SetName
from pathotune_pipeline.store.runs import RunLog


def test_a_killed_run_shows_every_slide_that_it_had_planned(tmp_path: Path) -> None:
    name = SetName("features", "toy-256px-0.5mpp", "0123456789ab")
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    log = RunLog(store.runs, "extract", {})
    log.note(features=str(name), planned=2, planned_slides=["a.svs", "b.svs"])
    log.outcome({"slide_id": "a.svs", "status": "failed", "reason": "no mpp", "new": True})
    view = collect(store, name)
    assert {row.slide_id: row.reason for row in view.slides} == {
        "a.svs": "no mpp",
        "b.svs": "the run has not come to it, or was killed before.",
    }
    assert view.runs[0].failed == 1
    assert view.runs[0].finished == ""
