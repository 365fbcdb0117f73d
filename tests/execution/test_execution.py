"""Executors: one failing item, dying workers, and the same results from each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathotune_pipeline.errors import UsageError, WorkerLostError
from pathotune_pipeline.execution import ExecutionSpec, Executor, SerialExecutor, create_executor


def square(number: int) -> int:
    if number == 3:
        raise ValueError("three is refused")
    return number * number


def die_once(marker: str) -> str:
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die_always(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mixed(item: tuple[str, str]) -> str:
    return {"once": die_once, "always": die_always}.get(item[0], str)(item[1]) or ""


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with create_executor(ExecutionSpec(executor="local", workers=2)) as executor:
        yield executor


def check_squares(executor: Executor) -> None:
    results = {result.index: result for result in executor.map(square, range(20))}
    assert len(results) == 20
    assert isinstance(results[3].error, ValueError)
    assert all(results[index].value == index**2 for index in range(20) if index != 3)


def test_serial() -> None:
    check_squares(SerialExecutor())


@pytest.mark.filterwarnings("ignore")
def test_dask_workers(local: Executor) -> None:
    assert local.workers == 2
    check_squares(local)
    assert list(local.map(square, [])) == []


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_dies_is_replaced_and_one_that_always_dies_costs_its_item_alone(
    local: Executor, tmp_path: Path
) -> None:
    items = [("once", str(tmp_path / "died")), ("fine", "a"), ("always", ""), ("fine", "b"), ("fine", "c")]
    results = {result.index: result for result in local.map(mixed, items)}
    assert results[0].value == "survived"
    assert [results[index].value for index in (1, 3, 4)] == ["a", "b", "c"]
    assert isinstance(results[2].error, WorkerLostError)
    assert "died 3 times" in str(results[2].error)


@pytest.mark.parametrize("name", ["locl", "cluster"])
def test_an_unknown_executor_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="serial, local"):
        create_executor(ExecutionSpec(executor=name))


@pytest.mark.filterwarnings("ignore")
def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathotune_pipeline.execution import dask

    monkeypatch.setattr(dask, "CONNECT_TIMEOUT_S", 1.0)
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        create_executor(ExecutionSpec(executor="tcp://127.0.0.1:9"))
