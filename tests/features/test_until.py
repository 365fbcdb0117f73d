"""An extraction with a time to end by: what is under way is finished, the rest is told as left, the next run takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.execution.deadline import Deadline
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.reports.collect import choose_set, collect
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.store.runs import read_runs

SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})


class Clock(Deadline):
    """A deadline that comes when a test says so."""

    passed = False

    def over(self) -> bool:
        return type(self).passed


def test_what_is_under_way_is_finished_and_the_rest_is_left(small_archive: Path, tmp_path: Path) -> None:
    class Night(Clock):
        pass

    def first_is_done(outcome: Outcome) -> None:
        Night.passed = True

    store, manifest = FeatureStore(tmp_path / "s"), read_manifest(small_archive)
    result = extract(manifest, SPEC, store, SerialExecutor(until=Night()), on_outcome=first_is_done)
    counts = result.counts()
    assert counts["left"] >= 4
    assert counts["committed"] + counts["failed"] + counts["left"] == 7
    left = {outcome.slide_id for outcome in result.outcomes if outcome.status == "left"}
    (run,) = read_runs(store.runs)
    assert set(run.record["left"]) == left
    assert not left & run.record["failures"].keys()
    assert run.record["finished"], "it ended cleanly"
    view = collect(store, choose_set(store, [run], asked=None, of_models=()))
    assert {row.slide_id for row in view.of_status("left")} == left
    after = extract(manifest, SPEC, store, SerialExecutor())
    assert after.counts()["left"] == 0
    assert after.counts()["committed"] == 6
    assert after.counts()["computed"] == 6 - counts["committed"]


def test_exit_codes(small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("extract", "--store", str(tmp_path / "s"), "--tile-px", "128", "--executor", "serial")
    past = ("--until", "2020-01-01T06:00")
    assert main([*words, "--slides", str(small_archive), *past]) == 4
    told = capsys.readouterr().out
    assert "0 committed, 0 empty, 0 failed, 7 left" in told
    assert "left      7: the time was over before its turn (2020-01-01 06:00). The next run takes them: " in told
    assert main([*words, "--slides", str(small_archive / "case-1")]) == 0
    assert main([*words, "--slides", str(small_archive / "case-1"), *past]) == 0, "nothing was to do"
    assert main([*words, "--slides", str(small_archive), *past, "--json"]) == 4
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])["counts"]
    assert (counts["committed"], counts["left"], counts["failed"]) == (0, 7, 0), "ids go by the folder given"
    assert main([*words, "--slides", str(small_archive), "--until", "tomorrow"]) == 2
    assert "Give a time of the day such as 06:00" in capsys.readouterr().err
    assert len(open_store(tmp_path / "s").sets("features")) == 1
