"""Commit or nothing, under kills, races and damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from pathotune_pipeline.errors import CorruptDataError, NotCommittedError, UsageError
from pathotune_pipeline.store import FeatureStore, SetName, open_store
from pathotune_pipeline.store.runs import RunLog, read_runs

SET = SetName("features", "toy-256px-0.5mpp", "0123456789ab")
PRINT = "f" * 64
FEATURES = np.arange(60, dtype=np.float16).reshape(20, 3)

WRITER = """
import sys
import numpy as np
from pathlib import Path
from pathotune_pipeline.store import FeatureStore, SetName
store = FeatureStore(Path(sys.argv[1])); store.initialise()
name = SetName("features", "toy-256px-0.5mpp", "0123456789ab")
with store.stage("a.svs", "a.svs", name, "f" * 64) as staged:
    staged.put("features", np.arange(60, dtype=np.float16).reshape(20, 3))
    made = staged.commit({"slide_id": "a.svs", "fingerprint": "f" * 64, "group": "a.svs/" + name.group("f" * 12), "tiles": 20}, {})
print(made)
"""


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    return store


def commit(store: FeatureStore, slide: str = "a.svs", data: np.ndarray = FEATURES, fingerprint: str = PRINT) -> bool:
    with store.stage(slide, slide, SET, fingerprint) as staged:
        staged.put("features", data)
        record = {
            "slide_id": slide,
            "fingerprint": fingerprint,
            "group": f"{slide}/{SET.group(fingerprint[:12])}",
            "tiles": len(data),
        }
        return staged.commit(record, {"unit": "none"})


def write_in_a_process(root: Path, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"PATHOTUNE_FAILPOINT": failpoint} if failpoint else {})}
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(root)], env=env, capture_output=True, text=True, check=False
    )


def test_what_is_committed_reads_back_and_plain_zarr_reads_it(store: FeatureStore) -> None:
    assert commit(store)
    record = store.records(SET)["a.svs"]
    np.testing.assert_array_equal(store.read(record, "features"), FEATURES)
    plain = zarr.open(store.root / "data.zarr", mode="r")
    np.testing.assert_array_equal(plain[f"a.svs/features-toy-256px-0.5mpp-{'f' * 12}/features"][:], FEATURES)
    assert plain["a.svs"].attrs["slide_id"] == "a.svs"
    store.verify(record)


def test_nothing_is_visible_before_the_commit(store: FeatureStore) -> None:
    with store.stage("a.svs", "a.svs", SET, PRINT) as staged:
        staged.put("features", FEATURES)
        assert store.committed(SET) == set()
    assert store.committed(SET) == set()
    assert list((store.root / "staging").rglob("*.json")) == []


def test_a_second_commit_of_the_same_fingerprint_changes_nothing(store: FeatureStore) -> None:
    assert commit(store)
    before = store.records(SET)["a.svs"]
    assert not commit(store)
    assert store.records(SET)["a.svs"] == before


@pytest.mark.parametrize("failpoint", ["store.staged", "store.placed", "store.committed"])
def test_a_kill_at_each_step_loses_nothing_and_leaves_nothing_half(tmp_path: Path, failpoint: str) -> None:
    root = tmp_path / "store"
    killed = write_in_a_process(root, failpoint)
    assert killed.returncode == -9, killed.stderr
    store = open_store(root)
    committed = store.committed(SET)
    assert committed == ({("a.svs", "f" * 12)} if failpoint == "store.committed" else set())
    again = write_in_a_process(root)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == str(failpoint != "store.committed")
    record = store.records(SET)["a.svs"]
    store.verify(record)
    np.testing.assert_array_equal(store.read(record, "features"), FEATURES)
    assert store.clear_abandoned() >= (1 if failpoint == "store.staged" else 0)
    assert not [path for path in (root / "staging").rglob("*") if path.is_file()]


def test_a_torn_group_without_a_record_is_replaced(store: FeatureStore) -> None:
    commit(store)
    record = store.records(SET)["a.svs"]
    next((store.root / "commits").rglob("*.json")).unlink()
    chunk = store.data / record.group / "features" / "c.0.0"
    chunk.write_bytes(b"torn")
    assert commit(store)
    np.testing.assert_array_equal(store.read(store.records(SET)["a.svs"], "features"), FEATURES)


def test_a_placed_group_with_other_sound_bits_stands_and_the_record_is_true_to_it(store: FeatureStore) -> None:
    commit(store)
    next((store.root / "commits").rglob("*.json")).unlink()
    assert commit(store, data=FEATURES + np.float16(1))  # another device's rounding, say
    assert not [path for path in (store.root / "staging").rglob("*") if path.is_file()]
    record = store.records(SET)["a.svs"]
    store.verify(record)
    np.testing.assert_array_equal(store.read(record, "features"), FEATURES)


def test_many_writers_of_one_group_make_one_commit(store: FeatureStore) -> None:
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(commit(store))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 1
    assert len(made) == 6
    store.verify(store.records(SET)["a.svs"])


def test_damage_is_found_and_named(store: FeatureStore) -> None:
    commit(store)
    record = store.records(SET)["a.svs"]
    (store.data / record.group / "features" / "c.0.0").write_bytes(b"\x00" * 7)
    with pytest.raises(CorruptDataError, match="extract again"):
        store.read(record, "features")
    with pytest.raises(CorruptDataError):
        store.verify(record)


def test_the_newest_contents_of_a_slide_are_read(store: FeatureStore) -> None:
    commit(store)
    commit(store, data=FEATURES[:5], fingerprint="e" * 64)
    assert store.records(SET)["a.svs"].facts["tiles"] == 5
    assert len(store.committed(SET)) == 2


def test_a_missing_record_is_an_error(store: FeatureStore) -> None:
    with pytest.raises(NotCommittedError):
        store.record(SET, "b.svs", PRINT)


def test_finding_a_set_by_the_beginning_of_its_name(store: FeatureStore) -> None:
    with pytest.raises(UsageError, match="extract"):
        store.find_set("toy")
    commit(store)
    for name in ("toy", "toy-256px-0.5mpp", str(SET), str(SET).removeprefix("features-")):
        assert store.find_set(name) == SET
    with pytest.raises(UsageError, match="Known: toy"):
        store.find_set("to")
    adapted = SetName("features", "toy+breast-256px-0.5mpp", "bbbbbbbbbbbb")
    with store.stage("a.svs", "a.svs", adapted, PRINT) as staged:
        staged.put("features", FEATURES)
        staged.commit({"slide_id": "a.svs", "fingerprint": PRINT, "group": "y"}, {})
    assert store.find_set("toy") == SET
    assert store.find_set("toy+") == store.find_set("toy+breast") == adapted
    several = SetName("features", "local.toy+both_1-256px-0.5mpp", "cccccccccccc")
    with store.stage("a.svs", "a.svs", several, PRINT) as staged:
        staged.put("features", FEATURES)
        staged.commit({"slide_id": "a.svs", "fingerprint": PRINT, "group": "z"}, {})
    assert store.find_set("local:toy+both#1") == several
    other = SetName("features", "toy-256px-0.5mpp", "aaaaaaaaaaaa")
    with store.stage("a.svs", "a.svs", other, PRINT) as staged:
        staged.put("features", FEATURES)
        staged.commit({"slide_id": "a.svs", "fingerprint": PRINT, "group": "x"}, {})
    with pytest.raises(UsageError, match="2 sets"):
        store.find_set("toy")


def test_a_folder_with_other_things_is_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UsageError, match="holds other things"):
        FeatureStore(tmp_path).initialise()
    with pytest.raises(UsageError, match="a store is needed"):
        open_store(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.docx"]


def test_many_processes_make_one_store(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pathotune_pipeline.store import FeatureStore\n"
        "sys.stdin.readline(); FeatureStore(Path(sys.argv[1])).initialise(); print('made')"
    )
    for turn in range(5):
        command = [sys.executable, "-c", code, str(tmp_path / f"store{turn}")]
        racers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for racer in racers:
            out, err = racer.communicate(timeout=60)
            assert out == "made\n", err
        assert open_store(tmp_path / f"store{turn}")


def test_a_store_whose_making_was_cut_short_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "data.zarr").mkdir()
    (tmp_path / ".store.json.0123.tmp").touch()
    FeatureStore(tmp_path).initialise()
    assert open_store(tmp_path)


def test_another_format_is_refused(store: FeatureStore) -> None:
    (store.root / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UsageError, match="99"):
        open_store(store.root)


def run_on_a_mount(place: Path, options: str, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process that sees a small or read-only file system at `place`."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is absent")
    place.mkdir()
    words = " ".join(map(str, arguments))
    mount = f'mount -t tmpfs -o {options} tmpfs {place} && exec {sys.executable} -c "$CODE" {words}'
    command = ["unshare", "-rm", "sh", "-c", mount]
    done = subprocess.run(command, env={**os.environ, "CODE": code}, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    return done


def test_a_read_only_place_is_a_clear_error(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pathotune_pipeline.store import FeatureStore\n"
        "from pathotune_pipeline.errors import UsageError\n"
        "try: FeatureStore(Path(sys.argv[1])).initialise()\n"
        "except UsageError as error: print(error)"
    )
    done = run_on_a_mount(tmp_path / "ro", "ro", code, tmp_path / "ro" / "store")
    assert "cannot write there" in done.stdout, done.stderr
    assert "Read-only" in done.stdout


def test_a_full_disk_fails_the_commit_and_leaves_the_store_sound(tmp_path: Path) -> None:
    large = "np.random.default_rng(0).random((2000, 300))"
    writer = WRITER.replace("np.arange(60, dtype=np.float16).reshape(20, 3)", large).replace("print(made)", "")
    code = (
        "try:\n"
        + "\n".join("    " + line for line in writer.splitlines())
        + "\nexcept OSError as error: print('OSError', error.errno)\n"
        + "print('committed', len(store.committed(name)), 'staged', len(list((store.root / 'staging').rglob('*.json'))))\n"
    )
    done = run_on_a_mount(tmp_path / "small", "size=1m", code, tmp_path / "small" / "store")
    assert "OSError 28" in done.stdout, done.stderr
    assert "committed 0 staged 0" in done.stdout


def test_a_killed_run_still_tells_how_far_it_came(store: FeatureStore) -> None:
    log = RunLog(store.runs, "extract", {"tiles": {"mpp": 0.5}})
    log.outcome({"slide_id": "a", "status": "committed"})
    with (store.root / "runs" / log.run_id / "outcomes.jsonl").open("a") as file:
        file.write('{"slide_id": "b", "sta')
    (run,) = read_runs(store.runs)
    assert run.record["finished"] is None
    assert run.outcomes == [{"slide_id": "a", "status": "committed"}]
    log.finish(counts={"slides": 1})
    assert read_runs(store.runs)[0].record["counts"] == {"slides": 1}
