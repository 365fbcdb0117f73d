"""Everything that can be wrong with another tool's files: each fails alone, with its reason, and nothing is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
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
