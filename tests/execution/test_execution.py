"""Executors: one failing item, dying workers, and the same results from each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dask import config

from pathotune_pipeline.errors import DeviceLostError, UsageError, WorkerLostError
from pathotune_pipeline.execution import ExecutionSpec, Executor, SerialExecutor, create_executor, dask


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


def lose_device_once(marker: str) -> str:
    """The device fails for the first process that is at it, for good."""
    path = Path(marker)
    if not path.exists():
        path.write_text(str(os.getpid()))
    if path.read_text() == str(os.getpid()):
        raise DeviceLostError("the device failed (CUDA error: an illegal memory access was encountered).")
    return "went on"


def die_always(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note_and_die(item: tuple[str, str]) -> str:
    """Write down who is at work in this process, for as long as it is; the deadly one dies."""
    folder, name = Path(item[0]), item[1]
    mine = folder / f"{os.getpid()}-{name}"
    mine.touch()
    with (folder / f"log-{name}").open("a") as log:
        log.write(" ".join(sorted(path.name.partition("-")[2] for path in folder.glob(f"{os.getpid()}-*"))) + "\n")
    time.sleep(0.3 if name.startswith("deadly") else 0.1)
    if name.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    mine.unlink()
    return name


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


@pytest.mark.parametrize("at_once", [1, 3])
def test_serial(at_once: int) -> None:
    check_squares(SerialExecutor(at_once))
    assert list(SerialExecutor(at_once).map(square, [])) == []


def test_serial_has_a_few_items_in_hand_and_stops_when_nobody_listens() -> None:
    begun: list[int] = []
    together = threading.Barrier(3)

    def note(number: int) -> int:
        begun.append(number)
        if number < 3:
            together.wait(30)  # passes only where three are at work at once
        return number

    results = SerialExecutor(3).map(note, range(1000))
    for _ in range(3):
        next(results)
    results.close()
    time.sleep(0.2)
    assert len(begun) < 20


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


@pytest.mark.filterwarnings("ignore")
def test_a_deadly_item_is_blamed_alone_and_what_was_in_hand_with_it_is_done(tmp_path: Path) -> None:
    """Two items a worker at once: the deadly ones take neighbours along, which are done again and not blamed."""
    names = [f"fine{number}" for number in range(14)]
    names[3:3] = ["deadly0"]
    names[9:9] = ["deadly1"]
    with create_executor(ExecutionSpec(executor="local", workers=2, slides_at_once=2)) as executor:
        results = list(executor.map(note_and_die, [(str(tmp_path), name) for name in names]))
    assert sorted(result.index for result in results) == list(range(16))
    for result in results:
        name = names[result.index]
        if name.startswith("deadly"):
            assert isinstance(result.error, WorkerLostError)
            assert "died 3 times under it, 2 times with nothing else in hand" in str(result.error)
        else:
            assert result.value == name, result.error
    company = {name: (tmp_path / f"log-{name}").read_text().splitlines() for name in names}
    for name in ("deadly0", "deadly1"):
        assert len(company[name]) in (2, 3), "its first worker may have died before it began"
        assert company[name][-2:] == [name, name], "with the worker to itself after the first death"
    assert max(len(lines) for lines in company.values()) <= 3
    assert any(len(line.split()) == 2 for lines in company.values() for line in lines), "two were in hand at once"


@pytest.mark.filterwarnings("ignore")
def test_a_process_whose_device_failed_makes_room_for_another(local: Executor, tmp_path: Path) -> None:
    results = list(local.map(lose_device_once, [str(tmp_path / "lost")] * 6))
    assert [result.value for result in results] == ["went on"] * 6
    (told,) = SerialExecutor().map(lose_device_once, [str(tmp_path / "here")])
    assert isinstance(told.error, DeviceLostError)


@pytest.mark.filterwarnings("ignore")
def test_workers_whose_nannies_gave_up_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nanny that does not get its worker up again in time is closed by Dask, which starts no other by itself."""
    monkeypatch.setattr(dask, "SCALE_S", 1.0)
    with create_executor(ExecutionSpec(executor="local", workers=2)) as executor:
        results = executor.map(square, range(10, 60))
        first = next(results)
        cluster = executor._cluster  # type: ignore[attr-defined]
        for nanny in list(cluster.workers.values()):
            cluster.sync(nanny.close)
        found = {result.index: result for result in (first, *results)}
    assert {index: result.value for index, result in found.items()} == {n: (n + 10) ** 2 for n in range(50)}


@pytest.mark.filterwarnings("ignore")
def test_a_nanny_has_time_to_start_its_worker_again_and_the_setting_is_given_back() -> None:
    name = "distributed.deploy.lost-worker-timeout"
    before = config.get(name)
    with create_executor(ExecutionSpec(executor="local", workers=1)):
        assert config.get(name) == "300 s"
    assert config.get(name) == before


@pytest.mark.filterwarnings("ignore")
def test_where_no_worker_can_be_had_a_run_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dask, "TELL_S", 0.5)
    with create_executor(ExecutionSpec(executor="local", workers=1)) as executor:
        cluster = executor._cluster  # type: ignore[attr-defined]
        executor._staffing = dask.Staffing(patience_s=3.0)  # type: ignore[attr-defined]
        cluster.sync(cluster.workers[0].close)
        results = list(executor.map(square, range(10, 14)))
    assert sorted(result.index for result in results) == [0, 1, 2, 3]
    for result in results:
        assert isinstance(result.error, WorkerLostError)
        assert "no worker process could be kept or started for 3 s" in str(result.error)
    assert "there has been no worker for" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_moment_without_workers_after_a_long_rest_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are looked at during work alone: as if the last look had been an hour ago."""
    monkeypatch.setattr(dask, "SCALE_S", 1.0)
    with create_executor(ExecutionSpec(executor="local", workers=1)) as executor:
        assert [result.value for result in executor.map(square, [10])] == [100]
        for name in ("_manned_s", "_seen_s", "_counted_s"):
            setattr(executor, name, getattr(executor, name) - 3600.0)
        cluster = executor._cluster  # type: ignore[attr-defined]
        cluster.sync(cluster.workers[0].close)
        assert [result.value for result in executor.map(square, [11])] == [121]


@pytest.mark.filterwarnings("ignore")
def test_several_maps_share_the_workers(local: Executor) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: list(local.map(square, range(10, 20))), range(4)))
    for results in done:
        assert sorted(result.value for result in results) == [number**2 for number in range(10, 20)]


def cluster_elsewhere(folder: Path, *worker: str) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """A scheduler and a worker, as somebody else would start them."""
    file = folder / "scheduler.json"
    dask, quiet = [sys.executable, "-m", "dask"], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen([*dask, "scheduler", *common, "--host", "127.0.0.1", "--port", "0"], **quiet)
    workers = subprocess.Popen(
        [*dask, "worker", *common, *worker, "--memory-limit", "0", "--local-directory", str(folder)], **quiet
    )
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    import json

    return json.loads(file.read_text())["address"], [scheduler, workers]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_elsewhere_needs_no_settings_of_ours_and_its_end_is_told(tmp_path: Path) -> None:
    """Dask's defaults would do an item again under which a worker died; a dead scheduler ends what is left."""
    address, processes = cluster_elsewhere(tmp_path, "--nworkers", "1", "--nthreads", "2", "--resources", "GPU=1")
    try:
        with create_executor(ExecutionSpec(executor=address)) as executor:
            check_squares(executor)
            names = ["fine0", "deadly0", "fine1", "fine2"]
            results = list(executor.map(note_and_die, [(str(tmp_path), name) for name in names]))
            told = {names[result.index]: result.value or str(result.error) for result in results}
            assert told["fine0"] == "fine0"
            assert told["fine2"] == "fine2"
            assert "died 3 times" in told["deadly0"]
            endless = executor.map(time.sleep, [0.2] * 200)
            next(endless)
            processes[0].kill()
            rest = Counter(type(result.error).__name__ for result in endless)
            assert sum(rest.values()) == 199
            assert rest["WorkerLostError"] > 150
    finally:
        for process in processes:
            process.kill()
            process.wait(30)


@pytest.mark.parametrize("name", ["locl", "cluster"])
def test_an_unknown_executor_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="serial, local"):
        create_executor(ExecutionSpec(executor=name))


@pytest.mark.filterwarnings("ignore")
def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathotune_pipeline.execution import clusters

    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT_S", 1.0)
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        create_executor(ExecutionSpec(executor="tcp://127.0.0.1:9"))
