"""What an export writes, name by name, type by type, number by number."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.exchange.parcel import OWN, Parcel, load_parcel
from pathotune_pipeline.exchange.send import ExportResult, ExportTarget, Sent, export_features
from pathotune_pipeline.store import FeatureStore, SetName
from pathotune_pipeline.store.reviews import Review, add_review

ODD, EVEN, BLANK = "A%2Fs0.tif", "B%2Fs1.tif", "C%2Fblank.tif"
FOLDER = "20x_128px_32px_overlap"


def send(store: FeatureStore, name: SetName, to: str, out: Path, **more: Any) -> ExportResult:
    slides = more.pop("slides", None)
    return export_features(store, name, ExportTarget(to, out, **more), slides=slides)


def statuses(result: ExportResult) -> dict[str, str]:
    return {sent.slide_id: sent.status for sent in result.slides}


def parcel_of(store: FeatureStore, name: SetName, slide: str) -> Parcel:
    return load_parcel(store, store.records(name)[slide])


def test_trident_job_directory(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    result = send(made, features_set, "trident", tmp_path / "job")
    assert statuses(result) == {ODD: "written", EVEN: "written", BLANK: "written"}
    names = {str(path.relative_to(tmp_path / "job")) for path in (tmp_path / "job").rglob("*") if path.is_file()}
    slides = ("s0", "s1", "blank")
    assert names == {
        "_config_segmentation.json",
        f"{FOLDER}/_config_coords.json",
        f"{FOLDER}/_config_feats_stain-texture.json",
        *(f"thumbnails/{slide}.jpg" for slide in slides),
        *(f"contours_geojson/{slide}.geojson" for slide in slides),
        *(f"{FOLDER}/patches/{slide}_patches.h5" for slide in slides),
        *(f"{FOLDER}/features_stain-texture/{slide}.h5" for slide in slides),
    }
    config = json.loads((tmp_path / "job" / FOLDER / "_config_coords.json").read_text())
    assert (config["target_magnification"], config["patch_size"], config["overlap"]) == (20.0, 128, 32)


@pytest.mark.parametrize(
    ("slide", "name", "level0", "reach", "size"),
    [(EVEN, "s1", 20, 128.0, (1536, 1536)), (ODD, "s0", 10 / 0.2527, 253.0, (1536, 1400))],
)
def test_trident_attributes_and_types(
    made: FeatureStore,
    features_set: SetName,
    tmp_path: Path,
    slide: str,
    name: str,
    level0: float,
    reach: float,
    size: tuple[int, int],
) -> None:
    send(made, features_set, "trident", tmp_path, encoder="uni_v1", slides=[slide])
    parcel = parcel_of(made, features_set, slide)
    with h5py.File(tmp_path / FOLDER / "patches" / f"{name}_patches.h5") as patches:
        assert list(patches) == ["coords"]
        assert not patches.attrs
        coords = patches["coords"]
        assert (coords.dtype, coords.chunks, coords.maxshape) == (np.int64, (1, 2), (None, 2))
        assert coords.compression is None
        told = dict(coords.attrs)
        np.testing.assert_array_equal(coords[()], parcel.grid.coords)
    assert {*told} == {
        "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name",
        "savetodir", "level0_width", "level0_height", OWN,
    }  # fmt: skip
    assert told["patch_size"] == 128
    assert isinstance(told["patch_size"], np.int64)
    assert told["patch_size_level0"] == reach
    assert isinstance(told["patch_size_level0"], np.float64)
    assert told["level0_magnification"] == pytest.approx(level0, rel=1e-11)
    assert told["target_magnification"] == 20.0
    assert isinstance(told["target_magnification"], np.float64)
    assert (told["overlap"], told["name"], told["savetodir"]) == (32, name, FOLDER)
    assert (told["level0_width"], told["level0_height"]) == size
    # The field that TRIDENT reads is the one that was read.
    field = told["patch_size"] * told["level0_magnification"] / told["target_magnification"]
    assert field == pytest.approx(parcel.grid.extent_level0[0], rel=1e-10)
    with h5py.File(tmp_path / FOLDER / "features_uni_v1" / f"{name}.h5") as file:
        assert sorted(file) == ["coords", "features"]
        features = file["features"]
        assert (features.dtype, features.chunks, features.maxshape) == (np.float16, (1, 171), (None, 171))
        assert dict(features.attrs) == {"name": name, "savetodir": f"{FOLDER}/features_uni_v1", "encoder": "uni_v1"}
        assert dict(file["coords"].attrs) == told
        np.testing.assert_array_equal(features[()], parcel.features)


def test_tiles_that_could_not_be_read_are_left_out(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    result = send(made, features_set, "trident", tmp_path, slides=[EVEN])
    record = made.records(features_set)[EVEN]
    valid = made.read(record, "valid")
    assert int((~valid).sum()) == 3
    [sent] = result.slides
    assert (sent.tiles, sent.invalid_tiles) == (int(valid.sum()), 3)
    with h5py.File(tmp_path / FOLDER / "features_stain-texture" / "s1.h5") as file:
        np.testing.assert_array_equal(file["features"][()], made.read(record, "features")[valid])
        np.testing.assert_array_equal(file["coords"][()], made.read(record.made_from("tiles"), "coords")[valid])


def test_trident_contours_are_level0_polygons(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    send(made, features_set, "trident", tmp_path)
    document = json.loads((tmp_path / "contours_geojson" / "s0.geojson").read_text())
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::3857"
    assert [feature["properties"] for feature in document["features"]] == [
        {"tissue_id": number} for number in range(len(document["features"]))
    ]
    outer = np.array([point for feature in document["features"] for point in feature["geometry"]["coordinates"][0]])
    assert (outer >= 0).all()
    assert outer[:, 0].max() > 768  # level-0 px: neither mask px nor um
    assert (outer <= (1536, 1400)).all()


def test_a_slide_without_tiles(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    send(made, features_set, "trident", tmp_path / "job", slides=[BLANK])
    with h5py.File(tmp_path / "job" / FOLDER / "features_stain-texture" / "blank.h5") as file:
        assert file["features"].shape == (0, 171)
        assert file["coords"].shape == (0, 2)
    for to in ("clam", "stamp", "pt", "anndata"):
        result = send(made, features_set, to, tmp_path / to, slides=[BLANK])
        assert statuses(result) == {BLANK: "empty"}
        assert "no tissue" in result.slides[0].reason
        assert not list((tmp_path / to).iterdir())


def test_clam_files(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    send(made, features_set, "clam", tmp_path)
    parcel = parcel_of(made, features_set, ODD)
    with h5py.File(tmp_path / "patches" / "s0.h5") as file:
        coords = file["coords"]
        assert (coords.dtype, coords.chunks, coords.maxshape) == (np.int64, (32, 2), (None, 2))
        places, told = coords[()], dict(coords.attrs)
    assert {*told} == {
        "patch_size", "patch_level", "downsample", "downsampled_level_dim", "level_dim", "name", "save_path", OWN
    }  # fmt: skip
    # 128 px of 0.5 um are 126.6 px of level 1, which has 2 x 0.2527 um: what is read is 127 px or 126.
    assert told["patch_level"] == 1
    assert told["patch_size"] == parcel.grid.read_size_px[0]
    np.testing.assert_array_equal(told["downsample"], [2.0, 2.0])
    np.testing.assert_array_equal(told["level_dim"], [768, 700])
    np.testing.assert_array_equal(places, sorted(parcel.grid.coords.tolist()))  # by columns
    with h5py.File(tmp_path / "h5_files" / "s0.h5") as file:
        assert not file["features"].attrs
        assert not file["coords"].attrs
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(file["coords"][()], places)
        rows = file["features"][()]
    by_place = {tuple(place): row for place, row in zip(parcel.grid.coords.tolist(), parcel.features, strict=True)}
    np.testing.assert_array_equal(rows, np.array([by_place[tuple(place)] for place in places.tolist()], np.float32))
    import torch

    tensor = torch.load(tmp_path / "pt_files" / "s0.pt", weights_only=True)
    np.testing.assert_array_equal(tensor.numpy(), rows)
    with (tmp_path / "process_list_autogen.csv").open() as text:
        listed = list(csv.DictReader(text))
    assert [(row["slide_id"], row["process"], row["status"]) for row in listed] == [
        ("s0.tif", "0", "processed"),
        ("s1.tif", "0", "processed"),
    ]
    assert len(listed[0]) == 17


def test_stamp_files(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    send(made, features_set, "stamp", tmp_path, encoder="uni")
    parcel = parcel_of(made, features_set, ODD)
    with h5py.File(tmp_path / "s0.h5") as file:
        assert sorted(file) == ["coords", "feats"]
        assert (file["feats"].dtype, file["coords"].dtype) == (np.float16, np.float32)
        np.testing.assert_allclose(file["coords"][()], parcel.grid.coords * 0.2527, rtol=1e-7)
        np.testing.assert_array_equal(file["feats"][()], parcel.features)
        told = dict(file.attrs)
    del told[OWN]
    assert told.pop("code_hash")
    assert told == {
        "stamp_version": "2.5.0", "extractor": "uni", "unit": "um", "tile_size_um": 64.0, "tile_size_px": 128,
        "feat_type": "tile",
    }  # fmt: skip


def test_plain_tensors(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    import torch

    send(made, features_set, "pt", tmp_path)
    parcel = parcel_of(made, features_set, EVEN)
    tensor = torch.load(tmp_path / "s1.pt", weights_only=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), parcel.features)
    np.testing.assert_array_equal(np.load(tmp_path / "s1.coords.npy"), parcel.grid.coords)
    assert {path.name for path in tmp_path.iterdir()} == {"s0.pt", "s1.pt", "s0.coords.npy", "s1.coords.npy"}


@pytest.mark.parametrize("to", ["trident", "clam", "stamp", "anndata", "h5ad", "pt"])
def test_the_same_export_again_changes_nothing(
    made: FeatureStore, features_set: SetName, tmp_path: Path, to: str
) -> None:
    def stamps() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}

    send(made, features_set, to, tmp_path)
    before = stamps()
    assert {*statuses(send(made, features_set, to, tmp_path)).values()} <= {"unchanged", "empty"}
    assert {path: stamp for path, stamp in stamps().items() if path.is_file()} == {
        path: stamp for path, stamp in before.items() if path.is_file()
    }


def test_what_differs_is_replaced_only_when_asked(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    send(made, features_set, "clam", tmp_path)
    right = (tmp_path / "pt_files" / "s0.pt").read_bytes()
    (tmp_path / "pt_files" / "s0.pt").write_bytes(b"someone else's")
    (tmp_path / "h5_files" / "s0.h5").unlink()
    result = send(made, features_set, "clam", tmp_path)
    assert statuses(result) == {ODD: "failed", EVEN: "unchanged", BLANK: "empty"}
    assert "--overwrite" in result.slides[0].reason
    assert not (tmp_path / "h5_files" / "s0.h5").exists()  # none of a slide's files, where one may not be written
    assert (tmp_path / "pt_files" / "s0.pt").read_bytes() == b"someone else's"
    assert statuses(send(made, features_set, "clam", tmp_path, overwrite=True))[ODD] == "written"
    assert (tmp_path / "pt_files" / "s0.pt").read_bytes() == right


def test_slides_that_come_later_join_the_list(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    (tmp_path / "process_list_autogen.csv").write_text("slide_id,process,status,seg_level\nold.svs,0,processed,3\n")
    send(made, features_set, "clam", tmp_path, slides=[ODD])
    send(made, features_set, "clam", tmp_path, slides=[EVEN])
    with (tmp_path / "process_list_autogen.csv").open() as text:
        listed = {row["slide_id"]: row["seg_level"] for row in csv.DictReader(text)}
    assert listed == {"old.svs": "3", "s0.tif": "", "s1.tif": ""}


def test_what_reviewers_rejected_is_left_out_and_counted(
    made: FeatureStore, features_set: SetName, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.root, tmp_path / "s")
    store = FeatureStore(tmp_path / "s")
    add_review(store, EVEN, Review(EVEN, "reject", "A. Reader"))
    result = send(store, features_set, "pt", tmp_path / "out")
    assert (list(statuses(result)), result.rejected) == ([ODD, BLANK], [EVEN])
    assert not list((tmp_path / "out").rglob("*s1*"))
    words = ["export", "--to", "stamp", "--store", str(store.root), "--features", "stain-texture", "--out"]
    assert main([*words, str(tmp_path / "told"), "--slide", EVEN]) == 0
    assert f"1 in review, left out: {EVEN}" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "told"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rejected"], told["counts"]["rejected"]) == ([EVEN], 1)
    add_review(store, EVEN, Review(EVEN, "accept", "B. Reader"))
    again = send(store, features_set, "pt", tmp_path / "out")
    assert (statuses(again)[EVEN], again.rejected) == ("written", [])


def test_configurations_of_tridents_own_stay(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    (tmp_path / "_config_segmentation.json").write_text('{"segmenter": "hest"}')
    send(made, features_set, "trident", tmp_path)
    assert json.loads((tmp_path / "_config_segmentation.json").read_text()) == {"segmenter": "hest"}


def test_names_that_clash_are_told_before_anything_is_written(
    made: FeatureStore, features_set: SetName, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path / "s")
    shutil.copytree(made.root, store.root)
    for path in (store.root / "commits").rglob(f"{EVEN}@*.json"):
        twin = json.loads(path.read_text())
        twin["slide_id"] = "Z%2FS1.svs"
        path.with_name(path.name.replace(EVEN, "Z%2FS1.svs")).write_text(json.dumps(twin))
    with pytest.raises(UsageError, match=r"'s1' of B%2Fs1.tif and Z%2FS1.svs.*--names id"):
        send(store, features_set, "stamp", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = send(store, features_set, "stamp", tmp_path / "out", names="id")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "A%2Fs0.tif.h5", "B%2Fs1.tif.h5", "Z%2FS1.svs.h5"
    }  # fmt: skip
    assert statuses(result)["Z%2FS1.svs"] == "written"


def test_damaged_data_fail_alone(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    shutil.copytree(made.root, store.root)
    group = store.records(features_set)[ODD].group
    (store.data / group / "features" / "c.0.0").write_bytes(b"x")
    told: list[Sent] = []
    target = ExportTarget("stamp", tmp_path / "out")
    result = export_features(store, features_set, target, on_slide=told.append)
    assert statuses(result) == {ODD: "failed", EVEN: "written", BLANK: "empty"}
    assert told == result.slides
    assert "cannot be read" in result.slides[0].reason


def test_wrong_calls(made: FeatureStore, features_set: SetName, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'trident'"):
        send(made, features_set, "tridnt", tmp_path / "o")
    with pytest.raises(UsageError, match="the set holds no such slide"):
        send(made, features_set, "stamp", tmp_path / "o", slides=["A%2Fs9.tif"])
    with pytest.raises(UsageError, match="this is a store"):
        send(made, features_set, "stamp", made.root)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write there"):
        send(made, features_set, "stamp", tmp_path / "file" / "o")
