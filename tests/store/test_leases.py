"""Leases: one holder, a counter that moves, and an observer with a clock of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pathotune_pipeline.store.leases import LeaseWatch, all_leases, look, take_lease
from pathotune_pipeline.store.owner import is_gone, owner_name
from pathotune_pipeline.store.place import LocalPlace

NAME = "features-toy-256px-0.5mpp-0123456789ab/a.svs"
ELSEWHERE = "0123456789ab-1-2"
"""A process of another machine: nobody here can tell whether it lives."""


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plant(place: LocalPlace, owner: str, beat: int = 0, lease_s: float = 10.0) -> None:
    place.replace(
        f"leases/{NAME}.json",
        json.dumps({"owner": owner, "token": "t", "beat": beat, "lease_s": lease_s}).encode(),
    )


def test_one_holds_it_and_gives_it_back(place: LocalPlace) -> None:
    lease = take_lease(place, NAME, 60.0)
    assert lease is not None
    assert take_lease(place, NAME, 60.0) is None
    (held,) = all_leases(place)
    assert (held.name, held.owner) == (NAME, owner_name())
    with lease:
        pass
    assert all_leases(place) == []
    assert take_lease(place, NAME, 60.0) is not None


def test_a_lease_is_dead_when_its_counter_has_not_moved_on_the_observers_clock(place: LocalPlace) -> None:
    clock = Clock()
    watch = LeaseWatch(place, lease_s=1.0, clock=clock)
    plant(place, ELSEWHERE)
    assert watch.state(NAME) == "held"
    clock.now = 9.0
    plant(place, ELSEWHERE, beat=1)
    assert watch.state(NAME) == "held"
    clock.now = 18.0
    assert watch.state(NAME) == "held", (
        "the lease lives ten seconds from the last beat that was seen, as it says itself"
    )
    clock.now = 19.5
    assert watch.state(NAME) == "dead"
    assert watch.state(NAME) == "free"
    assert take_lease(place, NAME, 60.0) is not None


def test_a_lease_that_cannot_be_understood_dies_too(place: LocalPlace) -> None:
    clock = Clock()
    watch = LeaseWatch(place, lease_s=2.0, clock=clock)
    place.replace(f"leases/{NAME}.json", b"{ torn")
    assert take_lease(place, NAME, 60.0) is None
    assert watch.state(NAME) == "held"
    clock.now = 2.5
    assert watch.state(NAME) == "dead"


def test_the_lease_of_a_process_that_has_ended_is_taken_at_once(place: LocalPlace) -> None:
    code = "from pathotune_pipeline.store.owner import owner_name; print(owner_name())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert is_gone(gone)
    assert is_gone(owner_name()) is False
    assert is_gone(ELSEWHERE) is None
    plant(place, gone)
    lease = take_lease(place, NAME, 60.0)
    assert lease is not None
    plant(place, ELSEWHERE)
    assert take_lease(place, NAME, 60.0) is None


def test_a_run_takes_over_what_its_own_lost_worker_held_and_nothing_of_others(place: LocalPlace) -> None:
    first = take_lease(place, NAME, 60.0, run="night-1")
    assert first is not None
    assert take_lease(place, NAME, 60.0, run="night-2") is None
    assert take_lease(place, NAME, 60.0) is None
    second = take_lease(place, NAME, 60.0, run="night-1")
    assert second is not None
    assert not first.beat()
    first.release()
    assert second.beat()
    second.release()
    assert look(place, NAME) is None


def test_the_counter_moves_by_itself_and_stops_with_the_lease(place: LocalPlace) -> None:
    lease = take_lease(place, NAME, 0.5)
    assert lease is not None
    first, deadline = look(place, NAME), time.monotonic() + 30
    while look(place, NAME) == first and time.monotonic() < deadline:
        time.sleep(0.02)
    assert look(place, NAME) != first
    lease.release()
    assert look(place, NAME) is None


def test_one_who_lost_his_lease_leaves_the_new_holders_alone(place: LocalPlace) -> None:
    lease = take_lease(place, NAME, 60.0)
    assert lease is not None
    plant(place, ELSEWHERE)
    assert lease.beat() is False
    lease.release()
    held = look(place, NAME)
    assert held is not None
    assert held.owner == ELSEWHERE


def test_a_lease_that_moved_since_it_was_seen_is_not_taken_away(place: LocalPlace) -> None:
    plant(place, ELSEWHERE)
    seen = look(place, NAME)
    assert seen is not None
    plant(place, ELSEWHERE, beat=1)
    assert not place.delete_if(f"leases/{NAME}.json", seen.data)
    assert look(place, NAME) is not None
    assert [path.name for path in (place.root / "leases").rglob("*.json")] == ["a.svs.json"]
