"""verify finds each kind of damage and nothing else; gc frees what is not wanted and nothing else, also when killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.errors import StoreError
from pathotune_pipeline.store import FeatureStore, SetName, open_store
from pathotune_pipeline.store.gc import delete_rubbish, find_rubbish, living_work, refuse_while_in_use
from pathotune_pipeline.store.leases import take_lease
from pathotune_pipeline.store.runs import RunLog
from pathotune_pipeline.store.verify import verify_store
from tests.store.groups import put

TISSUE = SetName("tissue", "8mpp", "0123456789ab")
TILES = SetName("tiles", "256px-0.5mpp", "0123456789ab")
ONE = SetName("features", "one-256px-0.5mpp", "0123456789ab")
TWO = SetName("features", "two-256px-0.5mpp", "0123456789ab")
DRAWN = SetName("tissue", "imported", "0123456789ab")


def put_slide(store: FeatureStore, slide: str, features: np.ndarray | None = None) -> None:
    """Tissue, tiles, and two encoders' features of 20 tiles, the fourth of which could not be read."""
    byte = np.zeros(4, np.uint8)
    arrays = {"mask": np.ones((4, 5), np.uint8), "geojson": byte, "thumbnail_jpeg": byte}
    tissue = put(store, TISSUE, slide, "a", arrays)
    coords = np.zeros((20, 2), np.int64)
    tiles = put(store, TILES, slide, "b", {"coords": coords, "tissue_fraction": np.ones(20, np.float32)}, tiles=20)
    chain = {
        "tiles_group": tiles,
        "tissue_group": tissue,
        "tiles_fingerprint": "b" * 64,
        "tissue_fingerprint": "a" * 64,
    }
    valid = np.arange(20) != 3
    rows = np.arange(1, 61).reshape(20, 3).astype(np.float16) * valid[:, None] if features is None else features
    for name, digit in ((ONE, "c"), (TWO, "d")):
        put(store, name, slide, digit, {"features": rows.astype(np.float16), "valid": valid},
            tiles=20, invalid_tiles=1, dim=3, **chain)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    for slide in ("a.svs", "b.svs"):
        put_slide(store, slide)
    return store


def group_of(store: FeatureStore, name: SetName, slide: str = "a.svs") -> Path:
    return store.data / store.records(name)[slide].group


def record_of(store: FeatureStore, name: SetName, slide: str = "a.svs") -> Path:
    return next((store.root / "commits" / str(name)).glob(f"{slide}@*.json"))


def change_record(path: Path, **facts: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def empty_chunk(store: FeatureStore) -> None:
    (group_of(store, ONE) / "valid" / "c.0").write_bytes(b"\0")


def other_bits(store: FeatureStore) -> None:
    zarr.open_group(group_of(store, ONE), mode="r+")["features"][0, 0] = 9  # type: ignore[index]


def lost_chunk(store: FeatureStore) -> None:
    (group_of(store, ONE) / "features" / "c.0.0").unlink()


def lost_group(store: FeatureStore) -> None:
    shutil.rmtree(group_of(store, ONE))


def lost_array(store: FeatureStore) -> None:
    shutil.rmtree(group_of(store, TILES) / "coords")


def wrong_count(store: FeatureStore) -> None:
    change_record(record_of(store, TILES), tiles=19)


def wrong_name(store: FeatureStore) -> None:
    path = record_of(store, ONE)
    path.rename(path.with_name(f"a.svs@{'0' * 12}.json"))


def broken_chain(store: FeatureStore) -> None:
    record_of(store, TILES).unlink()


def other_parent(store: FeatureStore) -> None:
    change_record(record_of(store, ONE), tissue_fingerprint="0" * 64)


def torn_record(store: FeatureStore) -> None:
    record_of(store, TISSUE).write_text('{"slide_id": "a.s')


def other_attributes(store: FeatureStore) -> None:
    zarr.open_group(group_of(store, ONE), mode="r+").attrs["fingerprint"] = "0" * 64


def no_root(store: FeatureStore) -> None:
    (store.data / "zarr.json").write_text("{}")


DAMAGES: list[tuple[Callable[[FeatureStore], None], str, bool]] = [
    (empty_chunk, "cannot be read", False),
    (other_bits, "not what was committed", False),
    (lost_chunk, "not what was committed", False),
    (lost_group, "cannot be read", True),
    (lost_array, "no array coords", True),
    (wrong_count, "numbers of tiles differ", True),
    (wrong_name, "does not fit", True),
    (broken_chain, "not committed", True),
    (other_parent, "says otherwise", True),
    (torn_record, "no whole record", True),
    (other_attributes, "fingerprint is not that of its record", True),
    (no_root, "root of a Zarr", True),
]


def test_a_sound_store_has_no_findings(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_store(store) == []
    assert main(["verify", "--store", str(store.root)]) == 0
    assert "what was committed" in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "says", "seen_fast"), DAMAGES, ids=[each[0].__name__ for each in DAMAGES])
def test_damage_is_found_and_named(
    store: FeatureStore, damage: Callable[[FeatureStore], None], says: str, seen_fast: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage(store)
    found = [each for each in verify_store(store) if each.kind == "fault"]
    assert any(says in each.what for each in found), found
    assert all("b.svs" not in each.where for each in found), "the other slide is sound"
    assert any(says in each.what for each in verify_store(store, fast=True)) == seen_fast
    assert main(["verify", "--store", str(store.root), "--json"]) == 1
    assert any(says in each["what"] for each in json.loads(capsys.readouterr().out)["findings"])


def test_values_that_are_not_finite_are_found(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    rows = np.ones((20, 3))
    rows[3] = 0
    rows[5, 1], rows[9, 0] = np.nan, np.inf
    put_slide(store, "a.svs", rows)
    found = verify_store(store, {str(ONE)})
    assert [each.what.partition(" with")[0] for each in found] == ["holds 2 rows"]
    rows[5, 1], rows[9, 0], rows[3] = 1, 1, 1
    put_slide(store, "b.svs", rows)
    assert any("not zero" in each.what for each in verify_store(store) if "b.svs" in each.where)


def leave_behind(store: FeatureStore) -> set[str]:
    """What killed processes leave: an orphan, staging, a lease, a file half written, a group with nothing in it."""
    code = "from pathotune_pipeline.store.owner import owner_name; print(owner_name())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    orphan = Path(shutil.copytree(group_of(store, ONE), store.data / "a.svs" / f"features-old-256px-0.5mpp-{'0' * 12}"))
    (store.root / "staging" / gone / "x").mkdir(parents=True)
    (store.root / "staging" / gone / "x" / "zarr.json").write_text("{}")
    lease = store.root / "leases" / str(ONE) / "c.svs.json"
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({"owner": gone, "token": "t", "beat": 1, "lease_s": 60}))
    torn = store.root / "commits" / str(ONE) / f".c.svs@0.json.{'0' * 32}.tmp"
    torn.write_text("{")
    (store.data / "c.svs").mkdir()
    shutil.copy(store.data / "a.svs" / "zarr.json", store.data / "c.svs" / "zarr.json")
    left = (orphan, store.root / "staging" / gone, lease, torn, store.data / "c.svs")
    return {str(path.relative_to(store.root)) for path in left}


def tree(store: FeatureStore) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}


def test_leftovers_are_found_and_cleared_and_nothing_else_goes(store: FeatureStore) -> None:
    before = tree(store)
    left = leave_behind(store)
    found = verify_store(store)
    assert {each.where for each in found} == left
    assert {each.kind for each in found} == {"leftover"}
    assert main(["gc", "--store", str(store.root), "--dry-run"]) == 0
    assert {each.where for each in verify_store(store)} == left
    assert main(["gc", "--store", str(store.root)]) == 0
    assert verify_store(store) == []
    assert tree(store) == before | {"ledger/00000000.json"}  # which tells of the clearing


def test_what_is_kept_stays_with_what_it_was_made_from(store: FeatureStore) -> None:
    put(store, DRAWN, "a.svs", "e", {"mask": np.ones((4, 5), np.uint8), "geojson": np.zeros(1, np.uint8),
        "thumbnail_jpeg": np.zeros(1, np.uint8)})  # fmt: skip
    weight = sum(path.stat().st_size for path in store.data.rglob("*two*/**/*") if path.is_file())
    rubbish = find_rubbish(store, [ONE])
    assert rubbish.sets() == {str(TWO): 2}
    assert rubbish.size_bytes >= weight > 0
    delete_rubbish(store, rubbish)
    assert {str(name) for name in store.sets()} == {str(name) for name in (TISSUE, TILES, ONE, DRAWN)}
    assert not [path for path in store.data.rglob("*") if "two" in path.name]
    assert verify_store(store) == []
    delete_rubbish(store, find_rubbish(store, []))
    assert {str(name) for name in store.sets()} == {str(DRAWN), str(TISSUE)}, (
        "what people drew stays, with its slide's tissue"
    )
    assert set(store.records(TISSUE)) == {"a.svs"}
    assert verify_store(store) == []


@pytest.mark.parametrize("place", ["gc.record:1", "gc.record:2", "gc.group:1"])
def test_a_killed_gc_leaves_a_sound_store_that_the_next_one_finishes(store: FeatureStore, place: str) -> None:
    command = [sys.executable, "-m", "pathotune_pipeline.cli", "gc", "--store", str(store.root), "--keep", "one"]
    killed = subprocess.run(command, env={**os.environ, "PATHOTUNE_FAILPOINT": place}, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert [each for each in verify_store(store) if each.kind == "fault"] == []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert verify_store(store) == []
    assert {str(name) for name in store.sets()} == {str(TISSUE), str(TILES), str(ONE)}
    assert not [path for path in store.data.rglob("*") if "two" in path.name]


def test_gc_refuses_while_a_run_lives(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    lease = take_lease(store.place, "runs/20260101T000000Z-abcdef", 60.0)
    assert lease is not None
    with pytest.raises(StoreError, match="20260101T000000Z-abcdef"):
        refuse_while_in_use(store)
    assert main(["gc", "--store", str(store.root), "--keep", "one"]) == 1
    assert "--force" in capsys.readouterr().err
    assert len(store.records(TWO)) == 2
    assert main(["gc", "--store", str(store.root), "--keep", "one", "--force"]) == 0
    assert store.records(TWO) == {}
    lease.release()
    refuse_while_in_use(store)


def test_leases_of_other_machines_are_watched(store: FeatureStore) -> None:
    plant = store.root / "leases" / "runs" / "r.json"
    plant.parent.mkdir(parents=True)
    plant.write_text(json.dumps({"owner": "0123456789ab-1-2", "token": "t", "beat": 1, "lease_s": 5}))
    now = [0.0]

    def clock() -> float:
        now[0] += 3
        return now[0]

    assert living_work(store, clock=clock) == [], "it did not move for as long as it lives"

    def beating() -> float:
        plant.write_text(plant.read_text().replace('"beat": 1', '"beat": 2'))
        return 0.0

    assert living_work(store, clock=beating) == ["runs/r"]


def test_old_records_of_runs_go(store: FeatureStore) -> None:
    logs = [RunLog(store.runs, "extract", {}) for _ in range(3)]
    kept = max(log.run_id for log in logs)
    delete_rubbish(store, find_rubbish(store, keep_runs=1))
    assert [path.name for path in (store.root / "runs").iterdir()] == [kept]
    assert open_store(store.root).records(ONE).keys() == {"a.svs", "b.svs"}


def test_gc_keeps_nothing_it_does_not_understand_apart(store: FeatureStore) -> None:
    torn_record(store)
    with pytest.raises(StoreError, match="pathotune verify"):
        find_rubbish(store, [ONE])
