"""Feature sets to slide embeddings: what is made, that it is made once, and that verify and gc know it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from pathotune_pipeline.embeddings.encode import EncodeResult, encode_slides
from pathotune_pipeline.errors import SpecError, UsageError
from pathotune_pipeline.slide_encoders import SlideEncoderSpec, create_slide_encoder
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.store.forget import Forgetting, purge
from pathotune_pipeline.store.gc import delete_rubbish, find_rubbish
from pathotune_pipeline.store.layout import WHOLE_SET
from pathotune_pipeline.store.leases import take_lease
from pathotune_pipeline.store.ledger import read_ledger
from pathotune_pipeline.store.verify import verify_store
from tests.embeddings.stores import DIM, FEATURES, new_store, put_slide, slide_arrays

LONGNET = {"name": "longnet", "settings": {"dim": 8, "layers": 2, "heads": 2, "segments": [8, 64], "dilations": [1, 2]}}
SLIDES = ("a.svs", "b.svs", "c.svs")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return new_store(tmp_path / "store")


def encode(store: FeatureStore, threads: int = 1, **values: object) -> EncodeResult:
    return encode_slides(store, FEATURES, SlideEncoderSpec.parse({"device": "cpu", **values}), threads=threads)


def test_the_mean_of_readable_tiles(store: FeatureStore) -> None:
    result = encode(store, name="mean-toy")
    assert str(result.embeddings).startswith("embeddings-mean-toy-256px-0.5mpp-")
    assert store.find_set("mean-toy", "embeddings") == result.embeddings
    assert encode(store, name="mean").embeddings == result.embeddings
    found = open_store(store.root).embeddings(result.embeddings)
    assert list(found) == list(SLIDES)
    for number, slide in enumerate(SLIDES):
        features, valid, _ = slide_arrays(slide, 20 + number)
        np.testing.assert_allclose(found[slide], features[valid].astype(np.float64).mean(0), rtol=1e-6)
        assert found[slide].dtype == np.float32


def test_what_lies_in_the_store_can_be_read_without_this_package(store: FeatureStore) -> None:
    result = encode(store, **LONGNET)
    record = store.records(result.embeddings)["b.svs"]
    group = zarr.open(str(store.data), mode="r")[record.group]
    assert np.array_equal(group["embedding"][:], store.embeddings(result.embeddings)["b.svs"])
    attrs = dict(group.attrs)
    features = store.records(FEATURES)["b.svs"]
    assert (attrs["features_group"], attrs["features_fingerprint"]) == (features.group, features.fingerprint)
    assert (attrs["case_id"], attrs["tiles"], attrs["dim"]) == ("case of b.svs", 20, 8)
    assert attrs["slide_encoder"]["architecture"] == "longnet"
    assert "random" in result.notes[0]


def test_tiles_reach_the_encoder_in_order_with_their_places(tmp_path: Path) -> None:
    """Strides that are no whole number of pixels, and pixels that are not square."""
    store = FeatureStore(tmp_path / "store")
    store.initialise()
    cells = slide_arrays("x.svs", 70)[2] // 512
    for slide, stride in (("x.svs", (448.6, 448.6)), ("y.svs", (448.6, 460.9)), ("z.svs", (512.0, 512.0))):
        coords = np.rint(cells * stride).astype(np.int64)
        features = slide_arrays("x.svs", 70)[0]
        put_slide(store, slide, 70, stride=stride, coords=coords, features=features)
    spec = SlideEncoderSpec.parse({**LONGNET, "device": "cpu"})
    found = store.embeddings(encode_slides(store, FEATURES, spec).embeddings)
    features, valid, coords = slide_arrays("x.svs", 70)
    with torch.no_grad():
        expected = create_slide_encoder(spec, in_dim=DIM)(
            torch.tensor(features[valid].astype(np.float32)), torch.tensor(coords[valid]), 512
        )
    for slide in ("x.svs", "y.svs", "z.svs"):
        assert np.array_equal(found[slide], expected.numpy()), slide


def test_the_second_run_does_nothing_and_a_new_slide_is_all_that_a_third_does(store: FeatureStore) -> None:
    first = encode(store, **LONGNET)
    assert [first.counts()[name] for name in ("slides", "committed", "computed", "tiles")] == [3, 3, 3, 60]
    before = {path: path.stat().st_mtime_ns for path in store.data.rglob("*")}
    second = encode(store, **LONGNET)
    assert (second.counts()["computed"], second.counts()["committed"]) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in store.data.rglob("*")} == before
    put_slide(store, "d.svs")
    third = encode(store, **LONGNET)
    assert [outcome.slide_id for outcome in third.outcomes if outcome.new] == ["d.svs"]
    other = encode(store, **LONGNET, seed=1)
    assert other.counts()["computed"] == 4
    assert other.embeddings != third.embeddings


def test_features_that_changed_are_encoded_again_and_older_ones_come_back(store: FeatureStore) -> None:
    name = encode(store).embeddings
    old = store.embeddings(name)["a.svs"]
    put_slide(store, "a.svs", digit="d", seed=1)
    assert encode(store).counts()["computed"] == 1
    new = store.embeddings(name)["a.svs"]
    assert not np.array_equal(new, old)
    store.renew(FEATURES, "a.svs", "c" * 64)
    assert encode(store).counts()["computed"] == 0
    assert np.array_equal(store.embeddings(name)["a.svs"], old)


def test_threads_do_not_change_bits(tmp_path: Path) -> None:
    slides = tuple(f"{number}.svs" for number in range(6))
    found = []
    for threads in (1, 4):
        store = new_store(tmp_path / str(threads), slides)
        found.append(store.embeddings(encode(store, threads, **LONGNET).embeddings))
    assert all(np.array_equal(found[0][slide], found[1][slide]) for slide in slides)


def test_slides_without_tiles_and_slides_that_fail_leave_the_others_alone(store: FeatureStore) -> None:
    put_slide(store, "empty.svs", 0, reason="no tissue was found")
    put_slide(store, "nan.svs", features=np.full((20, DIM), np.nan, np.float16))
    put_slide(store, "torn.svs")
    for chunk in (store.data / store.records(FEATURES)["torn.svs"].group / "features").glob("c*"):
        chunk.write_bytes(b"no zstd")
    result = encode(store, threads=2)
    told = {outcome.slide_id: (outcome.status, outcome.reason) for outcome in result.outcomes}
    assert told["empty.svs"] == ("empty", "no tissue was found")
    assert told["nan.svs"][0] == "failed"
    assert "NaN or infinity" in told["nan.svs"][1]
    assert told["torn.svs"][0] == "failed"
    assert "cannot be read" in told["torn.svs"][1]
    assert list(store.embeddings(result.embeddings)) == list(SLIDES)
    run = json.loads((store.root / "runs" / result.run_id / "run.json").read_text())
    assert set(run["failures"]) == {"nan.svs", "torn.svs"}
    assert (run["verb"], run["made_from"]) == ("encode-slides", str(FEATURES))
    (entry,) = read_ledger(store)
    assert (entry.verb, entry.facts["run"], entry.facts["counts"]["failed"]) == ("encode-slides", result.run_id, 2)


def test_encoders_that_do_not_go_with_the_features(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"the features are toy's. Give mean-toy, or mean"):
        encode(store, name="mean-uni")
    with pytest.raises(UsageError, match="nothing is committed"):
        encode_slides(new_store(tmp_path / "new", ()), FEATURES, SlideEncoderSpec())


# --- one writer, and kills -----------------------------------------------------------------------------------------


def test_a_second_run_waits_for_the_first_and_finds_its_work(store: FeatureStore) -> None:
    name = encode(store).embeddings
    put_slide(store, "d.svs")
    lease = take_lease(store.place, f"{name}/{WHOLE_SET}", 60, run="another")
    assert lease is not None
    results: list[EncodeResult] = []
    waits: list[float] = []

    def work() -> None:
        spec = SlideEncoderSpec(device="cpu")
        results.append(encode_slides(store, FEATURES, spec, on_wait=lambda: waits.append(time.monotonic())))

    waiting = threading.Thread(target=work)
    waiting.start()
    time.sleep(0.6)
    assert not results
    assert "d.svs" not in store.embeddings(name)
    lease.release()
    waiting.join(30)
    assert results[0].counts()["computed"] == 1
    assert len(waits) == 1
    assert not list((store.root / "leases").rglob("*.json"))


def test_what_a_living_run_has_just_placed_is_no_leftover(store: FeatureStore) -> None:
    name = encode(store).embeddings
    next((store.root / "commits" / str(name)).glob("a.svs@*")).unlink()
    lease = take_lease(store.place, f"{name}/{WHOLE_SET}", 60)
    assert lease is not None
    assert verify_store(store) == []
    lease.release()
    assert [finding.kind for finding in verify_store(store)] == ["leftover"]


@pytest.mark.parametrize("failpoint", ["store.staged", "store.placed", "store.committed:2"])
def test_a_killed_run_is_completed_to_the_same_bits(failpoint: str, tmp_path: Path) -> None:
    stores = [new_store(tmp_path / name) for name in ("killed", "whole")]
    code = (
        "import sys; from pathotune_pipeline.cli.main import main; "
        "sys.exit(main(['encode-slides', '--store', sys.argv[1], '--features', 'toy', '--threads', '1', '--device', 'cpu']))"
    )
    environment = {**os.environ, "PATHOTUNE_FAILPOINT": failpoint}
    died = subprocess.run([sys.executable, "-c", code, str(stores[0].root)], env=environment, check=False)
    assert died.returncode == -9
    results = [encode(store) for store in stores]
    assert 1 <= results[0].counts()["computed"] <= 3
    found = [store.embeddings(result.embeddings) for store, result in zip(stores, results, strict=True)]
    assert all(np.array_equal(found[0][slide], found[1][slide]) for slide in SLIDES)
    delete_rubbish(stores[0], find_rubbish(stores[0]))
    assert verify_store(stores[0]) == []


# --- verify and gc -------------------------------------------------------------------------------------------------


def test_verify_holds_embeddings_against_their_records_and_parents(store: FeatureStore) -> None:
    name = encode(store).embeddings
    assert verify_store(store) == []
    assert verify_store(store, {str(name)}) == []
    group = store.data / store.records(name)["a.svs"].group
    chunk = next((group / "embedding").glob("c*"))
    whole = chunk.read_bytes()
    zarr.open_array(str(group / "embedding"), mode="r+")[0] = np.float32(9)
    assert [finding.where for finding in verify_store(store)] == [
        f"data.zarr/{group.relative_to(store.data)}/embedding"
    ]
    chunk.write_bytes(whole)
    assert verify_store(store) == []
    next((store.root / "commits" / str(FEATURES)).glob("b.svs@*")).unlink()
    told = [finding.what for finding in verify_store(store, {str(name)})]
    assert len(told) == 1
    assert "which is not committed" in told[0]


def test_a_vector_of_another_length_than_its_record_says(store: FeatureStore) -> None:
    name = encode(store).embeddings
    record = next((store.root / "commits" / str(name)).glob("a.svs@*"))
    facts = json.loads(record.read_text())
    record.write_text(json.dumps({**facts, "dim": 7}))
    assert [finding.what for finding in verify_store(store, fast=True)] == [
        "its vector has shape (6,), its record says 7 numbers."
    ]


def test_a_forgotten_slide_leaves_no_vector(store: FeatureStore) -> None:
    name = encode(store).embeddings
    what = Forgetting({"b.svs": "b.svs"}).write(store)
    purge(store, what, outside=lambda _: None)
    assert list(store.embeddings(name)) == ["a.svs", "c.svs"]
    left = [
        path
        for path in store.root.rglob("*")
        if "b.svs" in path.name or (path.is_file() and b"b.svs" in path.read_bytes())
    ]
    assert left == []
    assert verify_store(store) == []


def test_gc_keeps_what_embeddings_were_made_from_and_deletes_them_before_it(store: FeatureStore) -> None:
    mean, longnet = encode(store).embeddings, encode(store, **LONGNET).embeddings
    rubbish = find_rubbish(store, [mean])
    assert rubbish.sets() == {str(longnet): 3}
    delete_rubbish(store, rubbish)
    assert verify_store(store) == []
    assert store.sets("embeddings") == [mean]
    rubbish = find_rubbish(store, [FEATURES])
    assert rubbish.sets() == {str(mean): 3}
    everything = find_rubbish(store, [])
    assert [record.set_name.stage for record in everything.records[:6]] == ["embeddings"] * 3 + ["features"] * 3
    delete_rubbish(store, rubbish)
    assert store.sets("embeddings") == []
    assert encode(store).counts()["computed"] == 3
