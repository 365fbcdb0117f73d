"""The training cache: the store's bags again, whole or not at all, and only what is new is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.bags import cache as caching
from pathotune_pipeline.bags.cache import TrainingCache, make_cache
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelRow
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.store import FeatureStore, SetName, open_store

FEATURES, TILES = (SetName(stage, "toy-256px-0.5mpp", "0123456789ab") for stage in ("features", "tiles"))


def put(store: FeatureStore, number: int, *, version: int = 0, dtype=np.float16) -> None:
    """One slide with a tile that could not be read."""
    slide, rng = f"s{number}.svs", np.random.default_rng([number, version])
    n = 4 + number
    prints = {name: f"{number:x}{version:x}{name.stage[0].encode().hex()}".ljust(64, "0") for name in (FEATURES, TILES)}
    arrays = {
        TILES: {"coords": rng.integers(0, 9999, (n, 2))},
        FEATURES: {
            "features": rng.standard_normal((n, 3)).astype(dtype),
            "valid": (np.arange(n) != 1).astype(np.uint8),
        },
    }
    groups = {}
    for name in (TILES, FEATURES):
        with store.stage(slide, slide, name, prints[name]) as staged:
            for key, values in arrays[name].items():
                staged.put(key, values)
            groups[name] = staged.group
            facts = {"slide_id": slide, "fingerprint": prints[name], "tiles": n, "invalid_tiles": 1}
            staged.commit(facts | {"tiles_fingerprint": prints[TILES], "tiles_group": groups[TILES]}, {})


def dataset_of(store: FeatureStore, *numbers: int) -> BagDataset:
    labels = {f"s{n}.svs": LabelRow(f"case{n}", "ab"[n % 2]) for n in numbers}
    return BagDataset(open_store(store.root), FEATURES, labels)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    for number in range(4):
        put(store, number)
    return store


def same(cache: TrainingCache, dataset: BagDataset) -> bool:
    assert len(cache) == len(dataset)
    pairs = [(cache[i], dataset[i]) for i in range(len(dataset))]
    facts = all((a.bag_id, a.group, a.target) == (b.bag_id, b.group, b.target) for a, b in pairs)
    dtypes = all(a.features.dtype == b.features.dtype and a.coords.dtype == np.int64 for a, b in pairs)
    values = all(np.array_equal(a.features, b.features) and np.array_equal(a.coords, b.coords) for a, b in pairs)
    return facts and dtypes and values


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{FEATURES}/*/*"))


def test_the_cache_holds_what_the_store_holds_and_is_made_once(store, tmp_path):
    dataset = dataset_of(store, 0, 1, 2)
    cache = make_cache(dataset, tmp_path / "cache")
    assert cache.written == 3
    assert same(cache, dataset)
    assert all(isinstance(cache[i].features, np.memmap) for i in range(3))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    again = make_cache(dataset, tmp_path / "cache")
    assert (again.written, same(again, dataset)) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before


def test_only_new_and_changed_slides_are_written(store, tmp_path):
    make_cache(dataset_of(store, 0, 1), tmp_path / "cache")
    more = dataset_of(store, 0, 1, 2, 3)
    told = []
    cache = make_cache(more, tmp_path / "cache", on_slide=told.append)
    assert (cache.written, told, same(cache, more)) == (2, [1, 2], True)
    assert len(segments(tmp_path / "cache")) == 2
    put(store, 1, version=1)
    changed = dataset_of(store, 0, 1, 2, 3)
    cache = make_cache(changed, tmp_path / "cache")
    assert (cache.written, same(cache, changed)) == (1, True)
    fewer = dataset_of(store, 2)
    assert make_cache(fewer, tmp_path / "cache").written == 0


def test_segments_of_slides_that_are_gone_are_deleted(store, tmp_path):
    make_cache(dataset_of(store, 0), tmp_path / "cache")
    (old,) = segments(tmp_path / "cache")
    put(store, 0, version=1)
    make_cache(dataset_of(store, 0), tmp_path / "cache")
    (new,) = segments(tmp_path / "cache")
    assert new != old


def test_stores_share_a_folder_and_leave_each_other_alone(store, tmp_path):
    other = FeatureStore(tmp_path / "other")
    other.initialise()
    put(other, 9)
    for _ in range(2):
        one, two = (make_cache(d, tmp_path / "cache") for d in (dataset_of(store, 0), dataset_of(other, 9)))
    assert (one.written, two.written) == (0, 0)


def test_float32_stays_and_parts_from_float16(store, tmp_path):
    put(store, 7, dtype=np.float32)
    dataset = dataset_of(store, 0, 1, 7)
    assert same(make_cache(dataset, tmp_path / "cache"), dataset)
    assert len(segments(tmp_path / "cache")) == 2


def test_full_segments_are_closed(store, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "SEGMENT_BYTES", 1)
    dataset = dataset_of(store, 0, 1, 2)
    assert same(make_cache(dataset, tmp_path / "cache"), dataset)
    assert len(segments(tmp_path / "cache")) == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "a bit of features": lambda folder: flip(folder / "features.bin"),
    "a bit of coords": lambda folder: flip(folder / "coords.bin"),
    "cut short": lambda folder: os.truncate(folder / "features.bin", 20),
    "no features": lambda folder: (folder / "features.bin").unlink(),
    "no index": lambda folder: (folder / "index.json").unlink(),
    "half an index": lambda folder: os.truncate(folder / "index.json", 40),
    "another format": lambda folder: (folder / "index.json").write_text(json.dumps({"format": 99})),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_damage_is_found_and_the_segment_is_made_again(damage, store, tmp_path):
    dataset = dataset_of(store, 0, 1, 2)
    make_cache(dataset, tmp_path / "cache")
    (folder,) = segments(tmp_path / "cache")
    damage(folder)
    cache = make_cache(dataset, tmp_path / "cache")
    assert (cache.written, same(cache, dataset)) == (3, True)


MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_cache import dataset_of, make_cache, FeatureStore
from pathotune_pipeline.errors import StoreUnwritableError
try:
    print(make_cache(dataset_of(FeatureStore(Path({store!r})), 0, 1, 2), Path({cache!r})).written)
except StoreUnwritableError as error:
    print(error)
    print(sorted(str(path.relative_to({cache!r})) for path in Path({cache!r}).rglob("*") if path.is_file()))
"""


def script(store: FeatureStore, cache: Path) -> str:
    return MAKE.format(here=str(Path(__file__).parent), store=str(store.root), cache=str(cache))


def test_a_killed_run_leaves_nothing_that_is_believed(store, tmp_path):
    command = [sys.executable, "-c", script(store, tmp_path / "cache")]
    killed = subprocess.run(command, env={**os.environ, "PATHOTUNE_FAILPOINT": "cache.written"}, check=False)
    assert killed.returncode == -9
    (left,) = segments(tmp_path / "cache")
    assert left.name.startswith(".")
    dataset = dataset_of(store, 0, 1, 2)
    cache = make_cache(dataset, tmp_path / "cache")
    assert (cache.written, same(cache, dataset)) == (3, True)
    assert not left.exists()


def test_a_full_disk_leaves_nothing_and_says_what_to_do(store, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("unshare is absent")
    full = tmp_path / "full"
    full.mkdir()
    mount = f'mount -t tmpfs -o size=4k tmpfs {full} && exec {sys.executable} -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount],
        env={**os.environ, "CODE": script(store, full / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no user namespaces here")
    said, left = done.stdout.splitlines()
    assert "cannot be written (No space left on device). Free space there" in said
    assert left == "[]"


def test_another_run_may_write_the_same_segment(store, tmp_path, monkeypatch):
    dataset = dataset_of(store, 0, 1)
    real = caching.sync_tree

    def first_by_another(folder: Path) -> None:
        monkeypatch.setattr(caching, "sync_tree", real)
        make_cache(dataset, tmp_path / "cache")
        real(folder)

    monkeypatch.setattr(caching, "sync_tree", first_by_another)
    assert same(make_cache(dataset, tmp_path / "cache"), dataset)
    assert len(segments(tmp_path / "cache")) == 1


def test_a_folder_that_cannot_be_made_is_said(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--cache .*file.* cannot be made"):
        make_cache(dataset_of(store, 0), tmp_path / "file" / "cache")
