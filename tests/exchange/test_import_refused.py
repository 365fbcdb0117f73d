"""Everything that can be wrong with another tool's files: each fails alone, with its reason, and nothing is committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.exchange.parcel import OWN
from pathotune_pipeline.exchange.send import ExportTarget, export_features
from pathotune_pipeline.store import FeatureStore


def spoilt(kind: str, rivals: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    features, coords = rivals.features(20), rivals.coords(5, 4, 512)
    match kind:
        case "nan":
            features[3, 2] = np.nan
        case "inf":
            features[3, 2] = np.inf
        case "rows":
            features = features[:-1]
        case "slide":
            features = features[0]
        case "integers":
            features = features.astype(np.int32)
        case "four":
            features = features[None, None]
        case "twice":
            coords[4] = coords[3]
        case "outside":
            coords[:, 0] += 9000
        case "parts":
            return features, coords + 0.5, {}
        case "columns":
            return features, np.zeros((20, 3), np.int64), {}
        case "no size":
            return features, coords, {"patch_size": None}
        case "zero":
            return features, coords, {"target_magnification": 0.0}
        case "word":
            return features, coords, {"level0_magnification": "None"}
        case "overlap":
            return features, coords, {"overlap": 256}
    return features, coords, {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "1 of its 20 tiles have features that are not finite"),
        ("inf", "not finite"),
        ("rows", "19 rows of features and 20 of coords"),
        ("slide", "one row a tile"),
        ("integers", "floating numbers are needed"),
        ("four", "one row a tile"),
        ("twice", "1 of its 20 tiles lie where another one lies"),
        ("outside", "tiles lie outside the slide of 4096 x 3000 px"),
        ("parts", "no whole numbers"),
        ("columns", "[N, 2], or [N, 5]"),
        ("no size", "no attribute patch_size"),
        ("zero", "target_magnification is 0.0"),
        ("word", "level0_magnification is 'None'"),
        ("overlap", "overlap is 256"),
    ],
)
def test_a_bad_file_fails_alone(store: FeatureStore, rivals: Any, kind: str, message: str) -> None:
    features, coords, changes = spoilt(kind, rivals)
    rivals.trident("bad", features, coords, **changes)
    job = rivals.trident("good", rivals.features(20), rivals.coords(5, 4, 512))
    result = rivals.bring(store, "trident", job, mpp=0.25)
    bad, good = result.outcomes
    assert (bad.slide_id, bad.status, good.status) == ("bad", "failed", "committed")
    assert message in bad.reason
    [name] = result.features
    assert list(store.records(store.find_set(name))) == ["good"]
    assert not (store.data / "bad").exists()


@pytest.mark.parametrize("length", [0, 100, 900])
def test_a_cut_file_fails_alone(store: FeatureStore, rivals: Any, length: int) -> None:
    rivals.trident("good", rivals.features(20), rivals.coords(5, 4, 512))
    job = rivals.trident("cut", rivals.features(20), rivals.coords(5, 4, 512))
    path = job / "20x_256px_0px_overlap" / "features_uni_v1" / "cut.h5"
    path.write_bytes(path.read_bytes()[:length])
    cut, good = rivals.bring(store, "trident", job, mpp=0.25).outcomes
    assert (cut.status, good.status) == ("failed", "committed")
    assert "cannot be read" in cut.reason
    assert str(job) not in cut.reason


def test_features_and_patches_that_disagree(store: FeatureStore, rivals: Any) -> None:
    features, coords = rivals.features(4), rivals.coords(2, 2, 1024)
    root = rivals.clam("a", features, coords)
    other = rivals.clam("b", features, coords)
    for name, places in (("a", coords[::-1]), ("b", coords[:3])):
        with h5py.File(other / "patches" / f"{name}.h5", "r+") as file:
            told = dict(file["coords"].attrs)
            del file["coords"]
            file["coords"] = places
            file["coords"].attrs.update(told)
    first, second = rivals.bring(store, "clam", root, mpp=0.25, encoder="uni").outcomes
    assert "in another order" in first.reason
    assert "3 tiles, its features 4 rows" in second.reason
    assert not store.sets()


def test_two_files_of_one_slide(made: FeatureStore, store: FeatureStore, tmp_path: Path, rivals: Any) -> None:
    [features_set] = made.sets("features")
    export_features(made, features_set, ExportTarget("stamp", tmp_path / "out"))
    (tmp_path / "out" / "copy.h5").write_bytes((tmp_path / "out" / "s0.h5").read_bytes())
    first, second = rivals.bring(store, "stamp", tmp_path / "out").outcomes
    assert (first.slide_id, first.status) == ("A%2Fs0.tif", "failed")
    assert "2 files say they are of this slide" in first.reason
    assert second.status == "committed"


def test_another_encoder_than_the_file_says(store: FeatureStore, rivals: Any) -> None:
    folder = rivals.stamp("a", rivals.features(4), rivals.coords(2, 2, 256))
    [outcome] = rivals.bring(store, "stamp", folder, mpp=0.5, encoder="uni").outcomes
    assert "ctranspath, and --encoder uni" in outcome.reason


@pytest.mark.parametrize(("tool", "name"), [("trident", "job"), ("clam", "clam"), ("stamp", "feats")])
def test_folders_that_hold_nothing(store: FeatureStore, tmp_path: Path, rivals: Any, tool: str, name: str) -> None:
    with pytest.raises(UsageError, match="a folder is needed, nothing was found"):
        rivals.bring(store, tool, tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="was found"):
        rivals.bring(store, tool, tmp_path / name)


def hostile(kind: str, path: Path, secret: Path) -> None:
    """Turn a file into one that claims terabytes, or leads to another file."""
    with h5py.File(path, "r+") as file:
        told = dict(file["coords"].attrs)
        name = "coords" if "coords" in kind else "features"
        del file[name]
        shape = (20, 2) if name == "coords" else (20, 6)
        match kind:
            case "claims":
                file.create_dataset("features", (1 << 40, 6), "f4", chunks=(1024, 6))
            case "packed":
                made = file.create_dataset("features", (1 << 22, 6), "f4", chunks=(1 << 16, 6), compression="gzip")
                made[...] = np.zeros((1 << 22, 6), np.float32)
            case "claims coords":
                file.create_dataset("coords", (1 << 40, 2), "i8", chunks=(1024, 2))
            case "raw" | "raw coords":
                kept = "i8" if name == "coords" else "f4"
                file.create_dataset(name, shape, kept, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
            case "link":
                file["features"] = h5py.ExternalLink(str(secret), "features")
            case "link by way of a group":
                file["other"] = h5py.ExternalLink(str(secret), "/")
                file["features"] = h5py.SoftLink("/other/features")
            case "virtual":
                layout = h5py.VirtualLayout(shape, "f4")
                layout[:] = h5py.VirtualSource(str(secret), "features", shape)
                file.create_virtual_dataset("features", layout)
            case "objects":
                file.create_dataset("features", (20, 6), h5py.vlen_dtype(np.float32))
        file[name].attrs.update(told if name == "coords" else {})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("claims", "its features claim 26388.3 GB in 0.0 MB and are not unpacked"),
        ("packed", "are not unpacked"),
        ("claims coords", "its coords claim 17592.2 GB"),
        ("raw", "its features lie in other files"),
        ("raw coords", "its coords lie in other files"),
        ("link", "its features lies in another file, to which a link leads"),
        ("link by way of a group", "its features lies in another file, to which a link leads"),
        ("virtual", "its features lie in other files"),
        ("objects", "numbers are needed"),
    ],
)
def test_a_hostile_file_fails_alone(store: FeatureStore, rivals: Any, tmp_path: Path, kind: str, message: str) -> None:
    """What would fill memory is not unpacked, and no other file of the disk is read."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["features"] = rivals.features(20)
    job = rivals.trident("bad", rivals.features(20), rivals.coords(5, 4, 512))
    hostile(kind, job / "20x_256px_0px_overlap" / "features_uni_v1" / "bad.h5", secret)
    rivals.trident("good", rivals.features(20), rivals.coords(5, 4, 512))
    bad, good = rivals.bring(store, "trident", job, mpp=0.25).outcomes
    assert (bad.slide_id, bad.status, good.status) == ("bad", "failed", "committed"), bad
    assert message in bad.reason
    assert str(tmp_path) not in bad.reason


@pytest.mark.parametrize("claimed", ["../../../evil", "/evil", "..", "a/b", ""])
def test_an_id_that_leads_out_of_the_store(
    made: FeatureStore, store: FeatureStore, tmp_path: Path, rivals: Any, claimed: str
) -> None:
    """Exports of ours tell a slide's id in an attribute: others may have written there what they like."""
    [features_set] = made.sets("features")
    out = tmp_path / "out"
    export_features(made, features_set, ExportTarget("stamp", out))
    with h5py.File(out / "s0.h5", "r+") as file:
        holder = file if OWN in file.attrs else file["feats"]
        facts = json.loads(str(holder.attrs[OWN]))
        holder.attrs[OWN] = json.dumps({**facts, "slide_id": claimed})
    before = {path for path in tmp_path.rglob("*") if store.root not in path.parents}
    outcomes = rivals.bring(store, "stamp", out).outcomes
    assert sorted((each.slide_id, each.status) for each in outcomes) == [("B%2Fs1.tif", "committed"), ("s0", "failed")]
    assert "its slide_id is a path" in next(each.reason for each in outcomes if each.status == "failed")
    assert {path for path in tmp_path.rglob("*") if store.root not in path.parents} == before
    assert not list(tmp_path.rglob("*evil*"))
