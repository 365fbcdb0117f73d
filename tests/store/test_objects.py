"""A store in a bucket: what is done on a disk is done there, to the same bits, with kills and races."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.errors import MissingExtraError, UsageError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore, SetName, open_store, read_runs
from pathotune_pipeline.store.gc import delete_rubbish, find_rubbish
from pathotune_pipeline.store.leases import take_lease
from pathotune_pipeline.store.place import LocalPlace, Place, place_of
from pathotune_pipeline.store.verify import verify_store

SET = SetName("features", "toy-256px-0.5mpp", "0123456789ab")
SPEC = ExtractSpec.parse({"tiles": {"tile_px": 128}})


def one_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """S3 takes a conditional write as one step. The local server's threads look first and write then."""
    turn = threading.Lock()

    def answer(*request: Any) -> list[bytes]:
        with turn:
            return list(app(*request))

    return answer


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a local S3 server, whose address and keys stand in the environment."""
    pytest.importorskip("s3fs", reason="s3fs is absent: pip install 'pathotune_pipeline[s3]'")
    server = pytest.importorskip("moto.server", reason="moto is absent").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    server.start()
    server._server.app = one_at_a_time(server._server.app)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        client.close()
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return place_of(tmp_path)
    root = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return place_of(f"{root}/{tmp_path.name}")


def commit(store: FeatureStore, data: np.ndarray, slide: str = "a.svs") -> bool:
    with store.stage(slide, slide, SET, "f" * 64) as staged:
        staged.put("features", data)
        return staged.commit({"slide_id": slide, "fingerprint": "f" * 64, "tiles": len(data)}, {})


def test_every_place_keeps_the_same_promises(place: Place) -> None:
    assert place.read("a/b") is None
    assert place.names("a") == []
    assert place.create("a/b", b"1")
    assert not place.create("a/b", b"2")
    assert place.read("a/b") == b"1"
    place.replace("a/b", b"3")
    place.replace("a/c/d", b"44")
    assert sorted(place.names("a")) == ["b", "c"]
    assert place.read_many(["a/b", "a/c/d", "a/none"]) == {"a/b": b"3", "a/c/d": b"44"}
    assert place.size_of("a") == (2, 3)
    assert place.size_of("none") == (0, 0)
    assert place.exists("a/b")
    assert not place.delete_if("a/b", b"1")
    assert place.delete_if("a/b", b"3")
    assert not place.delete_if("a/b", b"3")
    place.append("r/lines", b"x\n")
    place.append("r/lines", b"y\n")
    place.replace("r/run", b"")
    assert place.read("r/lines") == b"x\ny\n"
    assert place.below("r").read("run") == b""
    place.delete_tree("a")
    place.delete_tree("a")
    place.delete("a/b")
    assert not place.exists("a/c/d")


def test_one_of_many_creates(place: Place) -> None:
    made: list[bool] = []
    threads = [threading.Thread(target=lambda n=n: made.append(place.create("x", b"%d" % n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 1


def test_what_is_committed_reads_back_and_a_second_writer_changes_nothing(place: Place) -> None:
    store = FeatureStore(place)
    store.initialise()
    store.initialise()
    data = np.arange(60, dtype=np.float16).reshape(20, 3)
    with store.stage("a.svs", "a.svs", SET, "f" * 64) as staged:
        staged.put("features", data)
        assert commit(store, data)
        assert not staged.commit({"slide_id": "a.svs", "fingerprint": "f" * 64, "tiles": 20}, {})
    record = store.records(SET)["a.svs"]
    np.testing.assert_array_equal(store.read(record, "features"), data)
    store.verify(record)
    with pytest.raises(RuntimeError), store.stage("b.svs", "b.svs", SET, "e" * 64) as staged:
        staged.put("features", data)
        raise RuntimeError
    left = [where for where in store.place.names("data.zarr/b.svs") if where != "zarr.json"]
    assert left == [], "what was not committed is gone"
    assert len([name for name in store.place.names("data.zarr/a.svs") if name != "zarr.json"]) == 1
    lease = take_lease(place, "s/a", 60.0)
    assert lease is not None
    assert take_lease(place, "s/a", 60.0) is None
    lease.release()
    assert place.names("leases/s") == []


def test_a_bucket_with_other_things_is_no_store(bucket: str, tmp_path: Path) -> None:
    place = place_of(f"{bucket}/{tmp_path.name}")
    place.create("thesis.docx", b"")
    with pytest.raises(UsageError, match="holds other things"):
        FeatureStore(place).initialise()
    with pytest.raises(UsageError, match="a store is needed"):
        open_store(f"{bucket}/{tmp_path.name}/nothing")


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(place_of(f"file://{tmp_path}"), LocalPlace)
    assert isinstance(place_of(str(tmp_path)), LocalPlace)
    with pytest.raises(UsageError, match="nosuch://x"):
        place_of("nosuch://x")
    monkeypatch.setattr("fsspec.core.url_to_fs", raise_import_error)
    with pytest.raises(MissingExtraError, match=r"pathotune_pipeline\[s3\]"):
        place_of("s3://bucket/x")


def raise_import_error(*_: object, **__: object) -> None:
    raise ImportError("s3fs")


def contents(store: FeatureStore) -> dict[str, str]:
    """Checksum of every committed array, each compared with its data first."""
    found = {}
    for name in store.sets():
        for slide, record in store.records(name).items():
            store.verify(record)
            found |= {f"{slide}/{name}/{array}": digest for array, digest in record.facts["checksums"].items()}
    return found


@pytest.fixture(scope="module")
def on_disk(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = FeatureStore(tmp_path_factory.mktemp("disk") / "store")
    extract(read_manifest(small_archive / "case-1"), SPEC, store, SerialExecutor())
    return contents(store)


def begin(archive: Path, address: str, **environment: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "pathotune_pipeline.cli", "extract", "--slides", str(archive), "--store", address,
        "--tile-px", "128", "--executor", "serial", "--json",
    ]  # fmt: skip
    env = {**os.environ, **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["memory", pytest.param("s3", marks=pytest.mark.slow)])
def test_an_extraction_into_objects_gives_the_bits_it_gives_on_a_disk(
    request: pytest.FixtureRequest, small_archive: Path, tmp_path: Path, on_disk: dict[str, str], kind: str
) -> None:
    root = "memory:/" if kind == "memory" else request.getfixturevalue("bucket")
    store = FeatureStore(f"{root}/{tmp_path.name}")
    manifest = read_manifest(small_archive / "case-1")
    assert extract(manifest, SPEC, store, SerialExecutor()).counts()["computed"] == 2
    assert contents(store) == on_disk
    assert verify_store(store) == []
    assert extract(manifest, SPEC, store, SerialExecutor()).counts()["computed"] == 0
    assert [len(run.outcomes) for run in read_runs(store.runs)] == [2, 2]
    other = extract(manifest, ExtractSpec.parse({"tiles": {"tile_px": 256}}), store, SerialExecutor())
    delete_rubbish(store, find_rubbish(store, [store.find_set(other.features)]))
    assert [str(name) for name in store.sets("features")] == [f"features-{other.features}"]
    assert verify_store(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["store.staged:2", "store.placed:3", "store.committed:2", "store.staged:6"])
def test_a_kill_then_a_second_run_gives_the_same_bits_in_a_bucket(
    bucket: str, small_archive: Path, tmp_path: Path, on_disk: dict[str, str], place: str
) -> None:
    address = f"{bucket}/{tmp_path.name}"
    killed = begin(small_archive / "case-1", address, PATHOTUNE_FAILPOINT=place)
    _, stderr = killed.communicate(timeout=300)
    assert killed.returncode == -9, stderr
    assert contents(open_store(address)).items() <= on_disk.items()
    both = [begin(small_archive / "case-1", address) for _ in range(2)]
    told = []
    for process in both:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        told.append(json.loads(stdout)["counts"])
    assert [counts["committed"] for counts in told] == [2, 2]
    assert contents(open_store(address)) == on_disk
    store = open_store(address)
    assert not [found for found in verify_store(store) if found.kind == "fault"]
    delete_rubbish(store, find_rubbish(store))
    assert verify_store(store) == []
    assert contents(store) == on_disk
