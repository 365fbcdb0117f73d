"""Files as TRIDENT, CLAM, STAMP and AtlasPatch write them, made by hand, into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.exchange import ImportResult
from pathotune_pipeline.exchange.parcel import Parcel, load_parcel
from pathotune_pipeline.exchange.send import ExportTarget, export_features
from pathotune_pipeline.store import FeatureStore
from pathotune_pipeline.testing.slides import write_slide


def parcels(store: FeatureStore, result: ImportResult) -> dict[str, Parcel]:
    found = {}
    for name in result.features:
        for slide, record in store.records(store.find_set(name)).items():
            found[slide] = load_parcel(store, record)
    return found


def only(store: FeatureStore, result: ImportResult) -> Parcel:
    assert [(each.status, each.reason) for each in result.outcomes] == [("committed", "")]
    [parcel] = parcels(store, result).values()
    return parcel


# --- each tool's own files -----------------------------------------------------------------------------------------


def test_trident(store: FeatureStore, rivals: Any) -> None:
    coords, features = rivals.coords(5, 4, 512), rivals.features(20)
    job = rivals.trident("TCGA-01.2", features, coords)
    result = rivals.bring(store, "trident", job, mpp=0.2527)
    assert result.features[0].startswith("trident.uni_v1-256px-20x-")
    parcel = only(store, result)
    assert parcel.slide_id == "TCGA-01.2"
    assert parcel.features.dtype == np.float32  # float16 would not hold them
    np.testing.assert_array_equal(parcel.features, features)
    np.testing.assert_array_equal(parcel.grid.coords, coords)
    assert parcel.grid.extent_level0 == parcel.grid.stride_level0 == (512.0, 512.0)
    assert parcel.grid.tile_px == 256
    assert parcel.grid.mpp == pytest.approx(2 * 0.2527)  # what was cut, not the 0.5 that 20x promises
    assert (parcel.level0_size.width, parcel.level0_size.height) == (4096, 3000)


def test_trident_with_overlap_and_rows_in_any_order(store: FeatureStore, rivals: Any) -> None:
    coords, features = rivals.coords(5, 4, 384), rivals.features(20)
    shuffled = np.random.default_rng(1).permutation(20)
    job = rivals.trident("a", features[shuffled], coords[shuffled], overlap=64)
    parcel = only(store, rivals.bring(store, "trident", job, mpp=0.25))
    np.testing.assert_array_equal(parcel.grid.coords, coords)
    np.testing.assert_array_equal(parcel.features, features)
    assert parcel.grid.stride_level0 == (384.0, 384.0)
    assert parcel.overlap_px == 64


def test_trident_goes_out_as_it_came_in(store: FeatureStore, rivals: Any, tmp_path: Path) -> None:
    job = rivals.trident("a", rivals.features(20), rivals.coords(5, 4, 512))
    result = rivals.bring(store, "trident", job, mpp=0.2527)
    export_features(store, store.find_set(result.features[0]), ExportTarget("trident", tmp_path / "out"))
    before = job / "20x_256px_0px_overlap" / "features_uni_v1" / "a.h5"
    after = tmp_path / "out" / "20x_256px_0px_overlap" / "features_uni_v1" / "a.h5"
    with h5py.File(before) as one, h5py.File(after) as two:
        np.testing.assert_array_equal(one["features"][()], two["features"][()])
        np.testing.assert_array_equal(one["coords"][()], two["coords"][()])
        for key, value in one["coords"].attrs.items():
            if key != "savetodir":
                assert two["coords"].attrs[key] == value
                assert type(two["coords"].attrs[key]) is type(value)


def test_trident_contours_are_the_tissue(store: FeatureStore, rivals: Any) -> None:
    job = rivals.trident("a", rivals.features(4), rivals.coords(2, 2, 512))
    (job / "contours_geojson").mkdir()
    ring = "[[0,0],[2048,0],[2048,1500],[0,1500],[0,0]]"
    (job / "contours_geojson" / "a.geojson").write_text(
        '{"type":"FeatureCollection","crs":{"type":"name","properties":{"name":"urn:ogc:def:crs:EPSG::3857"}},"features":'
        '[{"type":"Feature","properties":{"tissue_id":0},"geometry":{"type":"Polygon","coordinates":[' + ring + "]}}]}"
    )
    parcel = only(store, rivals.bring(store, "trident", job, mpp=0.25))
    assert parcel.mask.mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(parcel.grid.tissue_fraction, 1.0)


def test_trident_magnification_is_believed_only_when_asked(store: FeatureStore, rivals: Any) -> None:
    job = rivals.trident("a", rivals.features(4), rivals.coords(2, 2, 512))
    [outcome] = rivals.bring(store, "trident", job).outcomes
    assert outcome.status == "failed"
    assert "--nominal-mpp" in outcome.reason
    assert "manifest" in outcome.reason
    assert only(store, rivals.bring(store, "trident", job, nominal_mpp=True)).level0_mpp.x == 0.25


def test_trident_with_several_encoders_and_scales(store: FeatureStore, rivals: Any) -> None:
    for sub in ("features_uni_v1", "patch_features_conch_v1"):
        for folder in ("20x_256px_0px_overlap", "10x_256px_0px_overlap"):
            job = rivals.trident("a", rivals.features(4), rivals.coords(2, 2, 512), folder=folder, sub=sub)
    with pytest.raises(UsageError, match=r"4 folders of features could be meant.*--encoder"):
        rivals.bring(store, "trident", job, mpp=0.25)
    with pytest.raises(UsageError, match="2 folders"):
        rivals.bring(store, "trident", job, mpp=0.25, encoder="uni_v1")
    chosen = {"coords": Path("20x_256px_0px_overlap")}
    with pytest.raises(UsageError, match="Encoders found: conch_v1, uni_v1"):
        rivals.bring(store, "trident", job, chosen, mpp=0.25, encoder="uni_v9")
    result = rivals.bring(store, "trident", job, chosen, mpp=0.25, encoder="conch_v1")
    assert result.features[0].startswith("trident.conch_v1-")
    for folder in (
        job / "20x_256px_0px_overlap" / "features_uni_v1",
        job / "10x_256px_0px_overlap" / "features_uni_v1",
    ):
        assert rivals.bring(store, "trident", folder, mpp=0.25).features[0].startswith("trident.uni_v1-")


def test_trident_shapes_of_other_versions(store: FeatureStore, rivals: Any) -> None:
    coords, features = rivals.coords(5, 4, 512), rivals.features(20)
    rivals.trident("batched", features[None], coords)
    rivals.trident("empty", np.zeros((0, 6), np.float32), np.zeros((0, 2), np.int64))
    job = rivals.trident("unknown", np.zeros(0, np.float32), np.zeros((0, 2), np.int64))
    result = rivals.bring(store, "trident", job, mpp=0.25)
    assert {each.slide_id: each.status for each in result.outcomes} == {
        "batched": "committed", "empty": "empty", "unknown": "empty"
    }  # fmt: skip
    found = parcels(store, result)
    np.testing.assert_array_equal(found["batched"].features, features)
    assert found["empty"].features.shape == (0, 6)
    assert found["unknown"].features.shape == (0, 0)


def test_atlaspatch(store: FeatureStore, tmp_path: Path, rivals: Any) -> None:
    """Attributes on the file, five columns of coords, features by encoder."""
    coords, features = rivals.coords(5, 4, 512), rivals.features(20)
    (tmp_path / "patches").mkdir()
    with h5py.File(tmp_path / "patches" / "a.h5", "w") as file:
        wide = np.column_stack([coords, np.full((20, 2), 512), np.zeros(20)]).astype(np.int32)
        file["coords"] = wide
        file["features/uni_v2"] = features
        file["features/resnet50"] = features[:, :3]
        file.attrs.update(
            {
                "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20,
                "overlap": 0, "level0_width": 4096, "level0_height": 3000,
            }
        )  # fmt: skip
    [outcome] = rivals.bring(store, "trident", tmp_path / "patches", mpp=0.25, encoder="uni_v3").outcomes
    assert "resnet50, uni_v2" in outcome.reason
    result = rivals.bring(store, "trident", tmp_path / "patches", mpp=0.25, encoder="uni_v2")
    assert result.features[0].startswith("trident.uni_v2-")
    parcel = only(store, result)
    np.testing.assert_array_equal(parcel.features, features)
    np.testing.assert_array_equal(parcel.grid.coords, coords)


def test_clam(store: FeatureStore, rivals: Any) -> None:
    """By columns, at level 1: 256 px there are 1024 px of level 0."""
    coords, features = rivals.coords(5, 4, 1024), rivals.features(20)
    by_columns = np.lexsort((coords[:, 1], coords[:, 0]))
    root = rivals.clam("a", features[by_columns], coords[by_columns])
    result = rivals.bring(store, "clam", root, mpp=0.25, encoder="resnet50_trunc")
    assert result.features[0].startswith("clam.resnet50_trunc-256px-level1-")
    parcel = only(store, result)
    np.testing.assert_array_equal(parcel.grid.coords, coords)
    np.testing.assert_array_equal(parcel.features, features)
    assert parcel.grid.extent_level0 == (1024.0, 1024.0)
    assert (parcel.grid.level, parcel.grid.read_size_px, parcel.grid.mpp) == (1, (256, 256), 1.0)
    assert (parcel.level0_size.width, parcel.level0_size.height) == (8000, 6000)


def test_clam_says_neither_encoder_nor_mpp(store: FeatureStore, rivals: Any) -> None:
    root = rivals.clam("a", rivals.features(4), rivals.coords(2, 2, 1024))
    with pytest.raises(UsageError, match="--encoder"):
        rivals.bring(store, "clam", root, mpp=0.25)
    [outcome] = rivals.bring(store, "clam", root, encoder="uni_v1").outcomes
    assert "--mpp 0.25" in outcome.reason
    (root / "patches").rename(root.parent / "elsewhere")
    [outcome] = rivals.bring(store, "clam", root, encoder="uni_v1", mpp=0.25).outcomes
    assert "--coords" in outcome.reason
    chosen = {"coords": root.parent / "elsewhere"}
    assert only(store, rivals.bring(store, "clam", root, chosen, encoder="uni_v1", mpp=0.25)).grid.tile_px == 256


def test_clam_of_old_with_custom_downsample(store: FeatureStore, rivals: Any) -> None:
    root = rivals.clam("a", rivals.features(4), rivals.coords(2, 2, 2048), custom_downsample=2, downsample=[4.0, 4.0])
    parcel = only(store, rivals.bring(store, "clam", root, encoder="uni_v1", mpp=0.25))
    assert parcel.grid.extent_level0 == (2048.0, 2048.0)


def test_stamp(store: FeatureStore, rivals: Any) -> None:
    """STAMP lays its grid in um, so places are no whole pixels: the nearest are taken, and by how much is recorded."""
    steps, feats = rivals.coords(5, 4, 1), rivals.features(20).astype(np.float16)
    folder = rivals.stamp("sub/P1", feats, steps * 256.0)
    result = rivals.bring(store, "stamp", folder, mpp=0.2527)
    assert result.features[0].startswith("stamp.ctranspath-224px-256um-")
    parcel = only(store, result)
    assert parcel.slide_id == "sub%2FP1"
    assert parcel.features.dtype == np.float16
    np.testing.assert_array_equal(parcel.features, feats)
    np.testing.assert_array_equal(parcel.grid.coords, np.rint(steps * 256.0 / 0.2527).astype(np.int64))
    assert parcel.grid.extent_level0[0] == pytest.approx(256 / 0.2527)
    assert parcel.grid.mpp == pytest.approx(256 / 224)
    moved = store.group(parcel.record.made_from("tiles")).attrs["moved_px"]
    assert 0.1 < float(str(moved)) <= 0.5


def test_stamp_of_old(store: FeatureStore, rivals: Any) -> None:
    """`tile_size` for `tile_size_um`; and before that nothing at all, so that the user has to say it."""
    steps, feats = rivals.coords(5, 4, 1), rivals.features(20)
    rivals.stamp("a", feats, steps * 256.0, tile_size_um=None, tile_size=256)
    bare = dict.fromkeys(("stamp_version", "unit", "tile_size_um", "tile_size_px", "code_hash", "feat_type"))
    folder = rivals.stamp("b", feats, steps * 512, **bare)
    result = rivals.bring(store, "stamp", folder, mpp=0.5)
    assert result.outcomes[0].status == "committed"
    assert "does not say" in result.outcomes[1].reason
    for told, missing in (
        ({}, "--tile-um"),
        ({"tile_um": 256.0}, "--tile-px"),
        ({"tile_um": 256.0, "tile_px": 224}, "--unit"),
    ):
        outcome = rivals.bring(store, "stamp", folder, mpp=0.5, **told).outcomes[1]
        assert outcome.status == "failed"
        assert missing in outcome.reason
    result = rivals.bring(store, "stamp", folder, mpp=0.5, tile_um=256.0, tile_px=224, unit="px")
    assert [each.status for each in result.outcomes] == ["committed", "committed"]
    np.testing.assert_array_equal(parcels(store, result)["b"].grid.coords, steps * 512)
    assert parcels(store, result)["b"].grid.extent_level0 == (512.0, 512.0)


def test_a_real_bag_of_stamps(store: FeatureStore, shared: Path, tmp_path: Path, rivals: Any) -> None:
    """A file of STAMP's first version: no attribute says anything."""
    bag = shared / "data" / "mil" / "stamp-bag-tcga-ad-6964.h5"
    if not bag.is_file():
        pytest.skip("the bag is absent")
    (tmp_path / "feats").mkdir()
    (tmp_path / "feats" / "TCGA-AD-6964.h5").write_bytes(bag.read_bytes())
    told = {"mpp": 0.5, "unit": "px", "tile_um": 256.0, "tile_px": 224, "encoder": "retccl"}
    parcel = only(store, rivals.bring(store, "stamp", tmp_path / "feats", **told))
    with h5py.File(bag) as file:
        feats, coords = file["feats"][()], file["coords"][()]
    assert parcel.features.shape == (777, 512)
    order = np.lexsort((coords[:, 0], coords[:, 1]))
    np.testing.assert_array_equal(parcel.features, feats[order])
    np.testing.assert_array_equal(parcel.grid.coords, coords[order])


# --- slides, manifests, repetition ---------------------------------------------------------------------------------


def test_importing_again_does_nothing_and_a_change_counts(store: FeatureStore, rivals: Any) -> None:
    coords, features = rivals.coords(5, 4, 512), rivals.features(20)
    job = rivals.trident("a", features, coords)
    first = rivals.bring(store, "trident", job, mpp=0.25)
    again = rivals.bring(store, "trident", job, mpp=0.25)
    assert [each.new for each in (*first.outcomes, *again.outcomes)] == [True, False]
    rivals.trident("a", features + 1, coords)
    assert rivals.bring(store, "trident", job, mpp=0.25).outcomes[0].new
    np.testing.assert_array_equal(parcels(store, first)["a"].features, features + 1)
    rivals.trident("a", features, coords)
    assert not rivals.bring(store, "trident", job, mpp=0.25).outcomes[0].new
    np.testing.assert_array_equal(parcels(store, first)["a"].features, features)


def test_slides_that_are_there_give_ids_scales_and_pictures(store: FeatureStore, rivals: Any, tmp_path: Path) -> None:
    write_slide(tmp_path / "arch" / "c1" / "a.tif", size_px=(1536, 1400), seed=1, mpp=0.2527)
    write_slide(tmp_path / "arch" / "c2" / "b.ome.tif", size_px=(1536, 1536), seed=2, mpp=0.5)
    size = {"level0_width": 1536, "level0_height": 1400}
    rivals.trident("a", rivals.features(6), rivals.coords(3, 2, 512), **size)
    rivals.trident("b", rivals.features(6), rivals.coords(3, 2, 512), level0_width=9999, level0_height=1536)
    job = rivals.trident("stranger", rivals.features(6), rivals.coords(3, 2, 512), **size)
    result = rivals.bring(store, "trident", job, {"manifest": read_manifest(tmp_path / "arch")})
    first, second = result.outcomes
    assert (first.slide_id, first.status) == ("c1%2Fa.tif", "committed")
    assert (second.slide_id, second.status) == ("c2%2Fb.ome.tif", "failed")
    assert "of a slide of 9999 x 1536 px" in second.reason
    assert result.passed_over == [("stranger", "goes with no one slide of the manifest")]
    parcel = parcels(store, result)["c1%2Fa.tif"]
    assert parcel.level0_mpp.x == pytest.approx(0.2527, rel=1e-4)
    from pathotune_pipeline.archive.identity import content_hash

    assert first.identity == content_hash(tmp_path / "arch" / "c1" / "a.tif")
    thumbnail = np.frombuffer(parcel.thumbnail_jpeg, np.uint8)
    import cv2

    assert cv2.imdecode(thumbnail, cv2.IMREAD_COLOR).std() > 5  # the slide's own, not a white sheet


def test_a_manifest_without_slides_gives_cases_and_mpp(store: FeatureStore, rivals: Any, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,case_id,mpp,stain\ngone/a.svs,P1,0.25,HE\ngone/b.svs,P2,,HE\n")
    manifest = read_manifest(None, tmp_path / "m.csv")
    job = rivals.trident("a", rivals.features(4), rivals.coords(2, 2, 512))
    result = rivals.bring(store, "trident", job, {"manifest": manifest}, mpp=0.5)
    assert result.passed_over == [("gone%2Fb.svs", "has no file among the features")]
    parcel = only(store, result)
    assert (parcel.slide_id, parcel.level0_mpp.x) == ("gone%2Fa.svs", 0.25)
    assert parcel.record.facts["case_id"] == "P1"
    assert parcel.record.facts["context"] == {"stain": "HE"}
    (tmp_path / "n.csv").write_text("path\nx.svs\n")
    with pytest.raises(UsageError, match="none of its 1 files is named after one of the 1 slides"):
        rivals.bring(store, "trident", job, {"manifest": read_manifest(None, tmp_path / "n.csv")})


def test_pseudonyms(store: FeatureStore, rivals: Any, tmp_path: Path) -> None:
    from pathotune_pipeline.archive.identity import Pseudonymiser

    key = Pseudonymiser(b"0123456789abcdef0123")
    (tmp_path / "m.csv").write_text("path,case_id,mpp\nJaneDoe.svs,Doe,0.25\n")
    rivals.trident("Stranger", rivals.features(4), rivals.coords(2, 2, 512))
    job = rivals.trident("JaneDoe", rivals.features(4), rivals.coords(2, 2, 512))
    told = {"manifest": read_manifest(None, tmp_path / "m.csv"), "pseudonymiser": key}
    result = rivals.bring(store, "trident", job, told)
    assert [each.slide_id for each in result.outcomes] == [key.slide("JaneDoe.svs")]
    assert rivals.bring(store, "trident", job, {"pseudonymiser": key}, mpp=0.25).counts()["committed"] == 2
    for path in store.root.rglob("*"):
        assert "Doe" not in path.name
        if path.is_file():
            found = path.read_bytes()
            assert b"Doe" not in found
            assert b"Stranger" not in found
