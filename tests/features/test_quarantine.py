"""A slide that ends the processes that read it is given up, tried once more by the next run, and then left alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.archive.identity import Pseudonymiser, key_of
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import WorkerLostError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.execution.dask import DEADLY
from pathotune_pipeline.execution.executor import Result
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.quarantine import quarantined
from pathotune_pipeline.models.forget import find_case, forget
from pathotune_pipeline.store import FeatureStore
from pathotune_pipeline.store.verify import verify_store

SETTINGS: dict[str, Any] = {"tiles": {"tile_px": 128}}
POISON = "poison.tif"


class Deadly(SerialExecutor):
    """Gives up one slide as the Dask executor does when processes died under it, and counts how often it came."""

    def __init__(self, why: str = f"{DEADLY} 3 times under it.") -> None:
        super().__init__()
        self.why, self.came = why, 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        jobs = list(items)
        poison = [at for at, job in enumerate(jobs) if job.item.slide_id.startswith(("poison", "s-"))]
        self.came += len(poison)
        rest = [at for at in range(len(jobs)) if at not in poison]
        for result in super().map(function, [jobs[at] for at in rest]):
            yield Result(rest[result.index], result.value, result.error)
        yield from (Result(at, error=WorkerLostError(self.why)) for at in poison)


class Again(SerialExecutor):
    """Does everything twice, as where processes die after a commit and before anybody hears of it."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Result]:
        jobs = list(items)
        list(super().map(function, jobs))
        for result in super().map(function, jobs):
            yield replace(result, deaths=1)


class Nights:
    """Runs over an archive of one slide, or one and the poison."""

    def __init__(self, place: Path, slide: Path) -> None:
        self.archive, self.store = place / "in", FeatureStore(place / "s")
        self.archive.mkdir()
        shutil.copy(slide, self.archive / POISON)

    def run(self, why: str = "", key: Pseudonymiser | None = None, **settings: Any) -> tuple[int, Outcome]:
        """How often the slide was tried, and what became of it."""
        executor = Deadly(why) if why else Deadly()
        manifest = read_manifest(self.archive)
        manifest = manifest.pseudonymised(key) if key else manifest
        spec = ExtractSpec.parse({**SETTINGS, **settings})
        result = extract(manifest, spec, self.store, executor, pseudonymiser=key)
        (outcome,) = result.outcomes
        return executor.came, outcome


@pytest.fixture
def nights(tmp_path: Path, small_archive: Path) -> Nights:
    return Nights(tmp_path, small_archive / "case-1" / "s2.tif")


def test_it_is_tried_in_two_runs_and_in_no_third(nights: Nights) -> None:
    came, first = nights.run()
    assert (came, first.status, first.transient) == (1, "failed", False), "the same run has tried it enough"
    assert first.reason.startswith(f"{DEADLY} 3 times under it. ")
    assert "The next run tries it once more." in first.reason
    came, second = nights.run()
    assert came == 1
    assert "No further run tries it." in second.reason
    for _ in range(2):
        came, third = nights.run()
        assert came == 0
        assert third.reason.startswith(f"{DEADLY} in each of 2 runs, last on 20")
        assert "it was not tried" in third.reason
        assert third.status == "failed"
    assert [found for found in verify_store(nights.store, fast=True) if found.kind == "fault"] == []


def test_a_worker_lost_for_other_reasons_counts_against_nobody(nights: Nights) -> None:
    for _ in range(3):
        came, outcome = nights.run(why="the Dask scheduler went away.")
        assert (came, outcome.transient) == (1, True)
    assert quarantined(nights.store) == {}


def test_another_file_or_other_settings_are_tried(nights: Nights) -> None:
    for tried in (1, 1, 0):
        assert nights.run()[0] == tried
    assert nights.run(tiles={"tile_px": 64})[0] == 1
    assert nights.run(slide={"mpp_override": 0.26})[0] == 1
    assert nights.run(engine={"threads": 2})[0] == 0, "what decides no feature changes nothing"
    slide = nights.archive / POISON
    os.utime(slide, ns=(1, 1))
    assert [nights.run()[0] for _ in range(3)] == [1, 1, 0]


def test_released_slides_are_tried_and_done(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quarantine", "--store", str(nights.store.root)]
    nights.run()
    assert main(words) == 0
    assert f"{POISON}: given up in 1 runs" in capsys.readouterr().out
    nights.run()
    assert main([*words, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["slide_id"], told["runs"], told["tried"], told["released"]) == (POISON, 2, False, False)
    assert main([*words, "--release", "other.tif"]) == 2
    assert "no process died under such a slide" in capsys.readouterr().err
    assert nights.run()[0] == 0
    assert main([*words, "--release", POISON]) == 0
    assert "released" in capsys.readouterr().out
    assert [nights.run()[0] for _ in range(3)] == [1, 1, 0]
    assert main([*words, "--release"]) == 0
    spec = ExtractSpec.parse(SETTINGS)
    result = extract(read_manifest(nights.archive), spec, nights.store, SerialExecutor())
    assert result.counts()["committed"] == 1
    capsys.readouterr()
    assert main(words) == 0
    assert "no process died under a slide" in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"slide_id": "poison.tif"}'])
def test_a_record_that_cannot_be_read_counts_for_nothing(nights: Nights, data: bytes) -> None:
    nights.run()
    nights.run()
    next((Path(nights.store.root) / "deaths").iterdir()).write_bytes(data)
    assert [nights.run()[0] for _ in range(2)] == [1, 0]


def test_the_planned_run_says_so_and_tries_the_others(nights: Nights, small_archive: Path) -> None:
    nights.run()
    nights.run()
    shutil.copy(small_archive / "case-1" / "s3.tif", nights.archive / "good.tif")
    result = extract(read_manifest(nights.archive), ExtractSpec.parse(SETTINGS), nights.store, Deadly())
    assert {each.slide_id: each.status for each in result.outcomes} == {"good.tif": "committed", POISON: "failed"}


def test_names_stay_private_and_are_forgotten(nights: Nights) -> None:
    key = Pseudonymiser(b"0123456789abcdef")
    for tried in (1, 1, 0):
        came, outcome = nights.run(key=key)
        assert came == tried
    records = list((Path(nights.store.root) / "deaths").iterdir())
    assert len(records) == 2
    assert not any("poison" in path.name or b"poison" in path.read_bytes() for path in records)
    forget(nights.store, find_case(nights.store, None, [outcome.slide_id]))
    assert list((Path(nights.store.root) / "deaths").iterdir()) == []
    assert key_of(outcome.slide_id) not in str(list(Path(nights.store.root).rglob("*")))


def test_what_a_run_committed_before_its_process_died_is_of_that_run(tmp_path: Path, small_archive: Path) -> None:
    nights = Nights(tmp_path, small_archive / "case-0" / "s1.tif")
    slide = nights.archive / POISON
    manifest, spec = read_manifest(nights.archive), ExtractSpec.parse(SETTINGS)
    first = extract(manifest, spec, nights.store, Again())
    assert (first.counts()["computed"], first.changed) == (1, [])
    shutil.copy(small_archive / "case-1" / "s2.tif", slide)
    second = extract(manifest, spec, nights.store, Again())
    assert (second.counts()["computed"], second.changed) == (1, [POISON])
    assert extract(manifest, spec, nights.store, Again()).counts()["computed"] == 0
