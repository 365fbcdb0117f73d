"""SpatialData as LazySlide lays it out, read by zarr, pyarrow and anndata alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pathotune_pipeline.exchange.parcel import Parcel, load_parcel
from pathotune_pipeline.exchange.send import ExportTarget, export_features
from pathotune_pipeline.exchange.spatial import polygon_wkb
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.store import FeatureStore, SetName
from pathotune_pipeline.tissue.outline import trace
from pathotune_pipeline.tissue.pieces import piece_of_boxes

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # anndata's own use of pandas
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ODD = "A%2Fs0.tif"


@pytest.fixture(scope="module")
def written(made: FeatureStore, features_set: SetName, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("spatial")
    result = export_features(made, features_set, ExportTarget("anndata", out, encoder="uni"), slides=[ODD])
    assert [sent.status for sent in result.slides] == ["written"]
    return out / "s0.zarr"


@pytest.fixture(scope="module")
def parcel(made: FeatureStore, features_set: SetName) -> Parcel:
    return load_parcel(made, made.records(features_set)[ODD])


def corners(wkb: bytes) -> list[np.ndarray]:
    """The rings of a polygon in well-known binary."""
    order, kind, count = struct.unpack_from("<BII", wkb)
    assert (order, kind) == (1, 3)
    rings, place = [], 9
    for _ in range(count):
        (points,) = struct.unpack_from("<I", wkb, place)
        rings.append(np.frombuffer(wkb, "<f8", 2 * points, place + 4).reshape(-1, 2))
        place += 4 + 16 * points
    assert place == len(wkb)
    return rings


def shapes(root: Path, name: str) -> tuple[Any, dict[str, Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(root / "shapes" / name / "shapes.parquet")
    return table, json.loads(table.schema.metadata[b"geo"])


def test_the_store(written: Path, parcel: Parcel) -> None:
    root = zarr.open_group(written, mode="r")
    assert sorted(root.group_keys()) == ["shapes", "tables"]
    assert root.metadata.zarr_format == 3
    told: Any = dict(root.attrs)
    assert told["spatialdata_attrs"]["version"] == "0.2"
    properties = told["slide_properties"]
    assert {*properties} == {
        "shape", "n_level", "level_shape", "level_downsample", "mpp", "magnification", "bounds", "scene", "n_scenes",
        "scene_names", "raw",
    }  # fmt: skip
    assert (properties["shape"], properties["n_level"]) == ([1400, 1536], 3)
    assert properties["mpp"] == pytest.approx(0.2527)
    assert properties["level_shape"] == [[1400, 1536], [700, 768], [350, 384]]
    assert told["tile_spec"] == {
        "tiles": {
            "height": 128, "width": 128, "stride_height": 96, "stride_width": 96, "mpp": 0.5, "ops_level": 1,
            "ops_downsample": parcel.grid.shrink, "base_level": 0,
            "base_downsample": pytest.approx(0.5 / 0.2527), "tissue_name": "tissues",
        }
    }  # fmt: skip


def test_the_shapes(written: Path, parcel: Parcel) -> None:
    root = zarr.open_group(written, mode="r")
    for name in ("tissues", "tiles"):
        attrs: Any = dict(root[f"shapes/{name}"].attrs)
        assert attrs["encoding-type"] == "ngff:shapes"
        assert attrs["axes"] == ["x", "y"]
        assert attrs["spatialdata_attrs"] == {"version": "0.3"}
        [transformation] = attrs["coordinateTransformations"]
        assert (transformation["type"], transformation["output"]["name"]) == ("identity", "global")
    table, geo = shapes(written, "tiles")
    assert table.column_names == ["tile_id", "x", "y", "tissue_id", "geometry"]
    assert [str(table.schema.field(name).type) for name in table.column_names] == ["int64"] * 4 + ["binary"]
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    np.testing.assert_array_equal(np.column_stack([table["x"], table["y"]]), parcel.grid.coords)
    np.testing.assert_array_equal(table["tile_id"], np.arange(len(parcel)))
    for wkb, place in zip(table["geometry"].to_pylist(), parcel.grid.coords, strict=True):
        [ring] = corners(wkb)
        assert (ring[0] == ring[-1]).all()
        np.testing.assert_array_equal(ring.min(axis=0), place)
        np.testing.assert_array_equal(ring.max(axis=0), place + 253)  # 253.26 px, rounded down as LazySlide does
    table, _ = shapes(written, "tissues")
    assert table.column_names == ["tissue_id", "geometry"]
    for wkb, rings in zip(table["geometry"].to_pylist(), parcel.outlines, strict=True):
        for found, ring in zip(corners(wkb), rings, strict=True):
            np.testing.assert_array_equal(found, ring)


def test_the_table(written: Path, parcel: Parcel) -> None:
    import anndata

    attrs: Any = dict(zarr.open_group(written / "tables" / "uni_tiles", mode="r").attrs)
    assert attrs == {
        "encoding-type": "anndata", "encoding-version": "0.1.0", "spatialdata-encoding-type": "ngff:regions_table",
        "region": "tiles", "region_key": "library_id", "instance_key": "tile_id", "version": "0.2",
    }  # fmt: skip
    found = anndata.io.read_elem(zarr.open_group(written, mode="r")["tables/uni_tiles"])
    assert found.X.dtype == np.float32
    np.testing.assert_array_equal(found.X, parcel.features)
    assert list(found.obs.columns) == ["tile_id", "library_id"]
    np.testing.assert_array_equal(found.obs["tile_id"], np.arange(len(parcel)))
    assert list(found.obs["library_id"].cat.categories) == ["tiles"]
    assert list(found.obs_names[:3]) == ["0", "1", "2"]
    assert {key: str(value) for key, value in found.uns["spatialdata_attrs"].items()} == {
        "region": "tiles", "region_key": "library_id", "instance_key": "tile_id"
    }  # fmt: skip


def test_a_table_alone(made: FeatureStore, features_set: SetName, tmp_path: Path, parcel: Parcel) -> None:
    import anndata

    export_features(made, features_set, ExportTarget("h5ad", tmp_path), slides=[ODD])
    found = anndata.io.read_h5ad(tmp_path / "s0.h5ad")
    np.testing.assert_array_equal(found.X, parcel.features)
    np.testing.assert_array_equal(found.obs[["x", "y"]], parcel.grid.coords)
    np.testing.assert_allclose(found.obsm["spatial"], parcel.grid.coords + 0.5 * 128 * 0.5 / 0.2527)
    assert (found.uns["slide_id"], float(found.uns["mpp"]), int(found.uns["tile_px"])) == (ODD, 0.5, 128)


def test_which_piece_a_tile_belongs_to() -> None:
    """Pieces are numbered as the outlines are, and most of a tile decides."""
    mask = np.zeros((40, 60), bool)
    mask[2:10, 40:58] = True
    mask[20:38, 2:30] = True
    mask[15:19, 28:60] = True
    outlines = trace(mask, (1.0, 1.0))
    boxes = np.array([[40, 0, 10, 10], [5, 22, 10, 10], [25, 14, 8, 10], [0, 0, 10, 10], [55, 35, 10, 10]], float)
    found = piece_of_boxes(mask, boxes * 8, Size(480, 320))
    assert len(outlines) == 3
    lowest = [rings[0][:, 1].min() for rings in outlines]
    assert lowest == [2, 15, 20]
    assert found.tolist() == [0, 2, 1, -1, -1]


def test_well_known_binary_of_a_square_with_a_hole() -> None:
    outer, inner = np.array([[0, 0], [4, 0], [4, 4], [0, 0]], float), np.array([[1, 1], [2, 1], [2, 2], [1, 1]], float)
    first, second = corners(polygon_wkb([outer, inner]))
    np.testing.assert_array_equal(first, outer)
    np.testing.assert_array_equal(second, inner)
