"""Until when work begins: how a time is read, and that nothing begins after it on any executor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.execution import ExecutionSpec, SerialExecutor, create_executor
from pathotune_pipeline.execution.deadline import NEVER, Deadline, deadline_of


@pytest.fixture
def amsterdam(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Amsterdam")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("until", "since", "at"),
    [
        ("06:00", "2026-11-21T22:00+01:00", "2026-11-22T06:00+01:00"),
        ("6:00", "2026-11-22T00:30+01:00", "2026-11-22T06:00+01:00"),
        ("06:00", "2026-11-22T06:00+01:00", "2026-11-23T06:00+01:00"),
        ("06:00", "2026-10-24T22:00+02:00", "2026-10-25T06:00+01:00"),  # the clocks are put back in this night
        ("06:00", "2027-03-27T22:00+01:00", "2027-03-28T06:00+02:00"),  # and on in this one
        ("06:00", "2026-11-21T21:00+00:00", "2026-11-22T06:00+01:00"),  # Prefect speaks UTC
        ("2026-11-22T06:00", "2026-11-25T22:00+01:00", "2026-11-22T06:00+01:00"),
        ("2026-11-22 06:00-05:00", "2026-11-21T22:00+01:00", "2026-11-22T12:00+01:00"),
    ],
)
def test_a_time_names_a_moment(amsterdam: None, until: str, since: str, at: str) -> None:
    assert deadline_of(until, since=datetime.fromisoformat(since)).at == datetime.fromisoformat(at)


def test_over() -> None:
    assert Deadline(datetime.now(UTC) - timedelta(hours=1)).over()
    assert not Deadline(datetime.now(UTC) + timedelta(hours=1)).over()
    assert not NEVER.over()
    assert deadline_of(None) is NEVER
    assert timedelta() < deadline_of("06:00").at - datetime.now(UTC) <= timedelta(hours=25)  # type: ignore[operator]


@pytest.mark.parametrize(("written", "read"), [("06:00", "06:00"), ("22:30", "22:30"), ("'22:30'", "22:30")])
def test_yaml_reads_some_times_as_numbers(written: str, read: str) -> None:
    assert ExecutionSpec.parse(yaml.safe_load(f"until: {written}")).until == read


@pytest.mark.parametrize("wrong", ["24:00", "6", "soon", "2026-11-22", 1440, "06:00:00", "", True])
def test_what_is_no_time_is_refused(wrong: object) -> None:
    with pytest.raises(SpecError, match=r"until: .*(no time|string)"):
        ExecutionSpec.parse({"until": wrong})


class Clock(Deadline):
    """A deadline that comes when a test says so."""

    passed = False

    def over(self) -> bool:
        return type(self).passed


def clock() -> type[Clock]:
    return type("OneClock", (Clock,), {})


def note(item: str) -> str:
    Path(item).touch()
    return item


def begin(item: str) -> str:
    """One that is deadly dies when another has begun; all others end only when it has."""
    path, deadly = Path(item), Path(item).parent / "deadly"
    with path.open("ab") as file:
        file.write(b".")
    if path == deadly:
        while len(list(path.parent.iterdir())) < 2:
            time.sleep(0.01)
        (path.parent / "over").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while not (path.parent / "over").exists():
        time.sleep(0.01)
    return item


class OverOnce(Deadline):
    """A deadline that comes with a file."""

    def __init__(self, path: Path) -> None:
        object.__setattr__(self, "path", path)

    def over(self) -> bool:
        return self.path.exists()  # type: ignore[attr-defined, no-any-return]


def test_serial_begins_nothing_after_it(tmp_path: Path) -> None:
    kind, items = clock(), [str(tmp_path / f"{number:03d}") for number in range(100)]
    told = []
    for result in SerialExecutor(2, until=kind()).map(note, items):
        kind.passed = True
        told.append(result.value)
    assert 1 <= len(told) < 10
    assert sorted(told) == sorted(map(str, tmp_path.iterdir())), "what began has a result"
    assert list(SerialExecutor(until=kind()).map(note, items)) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_hand", [1, 2])
def test_dask_begins_nothing_after_it_and_gives_no_second_try(tmp_path: Path, in_hand: int) -> None:
    over = tmp_path / "over"
    names = ["deadly", *(f"{number:03d}" for number in range(40))]
    with create_executor(ExecutionSpec(executor="local", workers=2, slides_at_once=in_hand)) as executor:
        executor.until = OverOnce(over)  # type: ignore[misc]
        results = list(executor.map(begin, [str(tmp_path / name) for name in names]))
        assert [result.error for result in results] == [None] * len(results), "the deadly one was not blamed"
        told = {Path(result.value).name for result in results}
        begun = {path.name: path.stat().st_size for path in tmp_path.iterdir() if path != over}
        assert begun["deadly"] == 1
        assert max(begun.values()) == 1, "nothing had a second try"
        assert set(begun) <= set(names[: 2 * in_hand]), "only what was in hand before it"
        assert told <= set(begun) - {"deadly"}
        assert len(set(begun) - told) <= in_hand, "what began has a result, but what died with the deadly one"
        assert list(executor.map(note, [str(tmp_path / "late")])) == []
        assert not (tmp_path / "late").exists()
        over.unlink()
        assert [result.value for result in executor.map(note, [str(tmp_path / "next")])], "it still works"
