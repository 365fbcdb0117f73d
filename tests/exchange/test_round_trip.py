"""Out and in again: features, places and geometry come back bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelRow
from pathotune_pipeline.exchange import ImportSpec, import_features
from pathotune_pipeline.exchange.bring import ImportSource
from pathotune_pipeline.exchange.geometry import Tool
from pathotune_pipeline.exchange.parcel import load_parcel
from pathotune_pipeline.exchange.send import ExportTarget, export_features
from pathotune_pipeline.exchange.stamp import to_px, to_um
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.store import FeatureStore, SetName

ODD, EVEN, BLANK = "A%2Fs0.tif", "B%2Fs1.tif", "C%2Fblank.tif"


@pytest.mark.parametrize("tool", ["trident", "clam", "stamp"])
@pytest.mark.parametrize("names", ["stem", "id"])
def test_there_and_back(
    made: FeatureStore, features_set: SetName, store: FeatureStore, tmp_path: Path, tool: Tool, names: str
) -> None:
    export_features(made, features_set, ExportTarget(tool, tmp_path / "out", names))  # type: ignore[arg-type]
    result = import_features(store, ImportSource(tool, tmp_path / "out"), ImportSpec())
    assert not result.passed_over
    slides = [ODD, EVEN, BLANK] if tool == "trident" else [ODD, EVEN]
    assert [(each.slide_id, each.status) for each in result.outcomes] == [
        (slide, "empty" if slide == BLANK else "committed") for slide in slides
    ]
    [name] = result.features
    assert name.startswith(f"{tool}.stain-texture-128px-0.5mpp-")
    found = store.find_set(name)
    for slide in slides:
        before = load_parcel(made, made.records(features_set)[slide])
        after = load_parcel(store, store.records(found)[slide])
        assert after.features.dtype == np.float16
        np.testing.assert_array_equal(after.features, before.features)
        np.testing.assert_array_equal(after.grid.coords, before.grid.coords)
        ours, theirs = asdict(before.grid), asdict(after.grid)
        for each in (ours, theirs):
            del each["coords"], each["tissue_fraction"]
        assert theirs == ours
        assert (after.level0_mpp, after.level0_size) == (before.level0_mpp, before.level0_size)
        assert after.encoder == "stain-texture"
        if tool == "trident":  # contours bring the tissue along
            np.testing.assert_array_equal(after.mask, before.mask)
            np.testing.assert_array_equal(after.grid.tissue_fraction, before.grid.tissue_fraction)
    for set_name in store.sets():
        for record in store.records(set_name).values():
            store.verify(record)


@pytest.mark.parametrize("tool", ["trident", "clam", "stamp"])
def test_out_in_and_out_again_are_the_same_files(
    made: FeatureStore, features_set: SetName, store: FeatureStore, tmp_path: Path, tool: Tool
) -> None:
    """But for the attribute with our own facts, which names the commit."""
    import h5py

    def contents(root: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in sorted(root.rglob("*.h5")):
            with h5py.File(path) as file:
                for node in (file, *file.values()):
                    told = {key: np.asarray(value).tolist() for key, value in node.attrs.items() if key != "pathotune"}
                    data = node[()].tolist() if isinstance(node, h5py.Dataset) else None
                    found[f"{path.relative_to(root)}:{node.name}"] = (told, data)
        return found

    export_features(made, features_set, ExportTarget(tool, tmp_path / "one"), slides=[EVEN])
    result = import_features(store, ImportSource(tool, tmp_path / "one"), ImportSpec())
    export_features(store, store.find_set(result.features[0]), ExportTarget(tool, tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "one")) >= 3


def test_bags_are_the_same(made: FeatureStore, features_set: SetName, store: FeatureStore, tmp_path: Path) -> None:
    labels = {slide: LabelRow("p", "x") for slide in (ODD, EVEN)}
    export_features(made, features_set, ExportTarget("clam", tmp_path / "out"))
    [name] = import_features(store, ImportSource("clam", tmp_path / "out"), ImportSpec()).features
    one, two = BagDataset(made, features_set, labels), BagDataset(store, store.find_set(name), labels)
    assert len(one) == len(two) == 2
    for index in range(2):
        np.testing.assert_array_equal(np.asarray(one[index].features), np.asarray(two[index].features))
        np.testing.assert_array_equal(np.asarray(one[index].coords), np.asarray(two[index].coords))


@settings(max_examples=300, deadline=None)
@given(
    mpp=st.floats(0.05, 10.0),
    places=st.lists(st.tuples(st.integers(0, (1 << 22) - 1), st.integers(0, (1 << 22) - 1)), min_size=1, max_size=20),
)
def test_um_in_float32_lead_back_to_every_pixel(mpp: float, places: list[tuple[int, int]]) -> None:
    coords = np.array(places, np.int64)
    scale = Mpp(mpp, mpp * 1.03)
    back, moved = to_px(to_um(coords, scale), scale)
    np.testing.assert_array_equal(back, coords)
    assert moved < 0.2501


def test_the_bound_is_the_types_own() -> None:
    """Where float32 is farthest off, at the top of a binade, a place of 2^22 px moves by just under a quarter px."""
    coords = np.arange((1 << 22) - 200_000, 1 << 22, dtype=np.int64).reshape(-1, 2)
    worst = 0.0
    for mpp in np.linspace(0.2, 0.53, 12):
        back, moved = to_px(to_um(coords, Mpp.square(float(mpp))), Mpp.square(float(mpp)))
        np.testing.assert_array_equal(back, coords)
        worst = max(worst, moved)
    assert 0.1 < worst <= 0.25 * (1 + 1e-6)
