"""A SpatialData store as LazySlide lays it out, and the table in it alone as `.h5ad`.

    <slide>.zarr/                     Zarr v3; attributes tile_spec, slide_properties
      shapes/tissues/                 tissue_id, geometry
      shapes/tiles/                   tile_id, x, y, tissue_id, geometry
      tables/<encoder>_tiles/         AnnData: X [N, D] float32; obs tile_id, library_id

Shapes are GeoParquet in level-0 pixels.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zarr

from pathotune_pipeline.errors import MissingExtraError
from pathotune_pipeline.exchange.layout import Named, Told
from pathotune_pipeline.exchange.outbox import Write
from pathotune_pipeline.exchange.parcel import OWN, Parcel
from pathotune_pipeline.exchange.trident import FLOOR_SLACK_PX
from pathotune_pipeline.tissue.pieces import piece_of_boxes
from pathotune_pipeline.version import VERSION

TISSUES, TILES = "tissues", "tiles"
CONTAINER_FORMAT, SHAPES_FORMAT, TABLE_FORMAT = "0.2", "0.3", "0.2"
"""SpatialData's format numbers for Zarr v3."""


class SpatialLayout:
    """One `<slide>.zarr` a slide; none for a slide without tiles."""

    writes_empty = False

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        _anndata(), _pyarrow()

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """The store of one slide."""

        def write(path: Path) -> None:
            self._write(path, parcel)

        return {f"{named.name}.zarr": write}

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """None."""
        return {}

    def _write(self, path: Path, parcel: Parcel) -> None:
        root = zarr.open_group(path, mode="w-", zarr_format=3)
        root.attrs.update(
            {
                "spatialdata_attrs": {
                    "version": CONTAINER_FORMAT,
                    "spatialdata_software_version": f"pathotune_pipeline {VERSION}",
                },
                "slide_properties": slide_properties(parcel),
                "tile_spec": {TILES: tile_spec(parcel)},
                OWN: json.loads(parcel.own_facts()),
            }
        )
        shapes = root.create_group("shapes")
        tissues = [[np.asarray(ring, np.float64) for ring in rings] for rings in parcel.outlines]
        _write_shapes(shapes, path, TISSUES, {"tissue_id": np.arange(len(tissues), dtype=np.int64)}, tissues)
        pieces = piece_of_boxes(parcel.mask, parcel.grid.boxes, parcel.level0_size)
        columns = {
            "tile_id": np.arange(len(parcel), dtype=np.int64),
            "x": parcel.grid.coords[:, 0],
            "y": parcel.grid.coords[:, 1],
            "tissue_id": pieces,
        }
        _write_shapes(shapes, path, TILES, columns, tile_boxes(parcel))
        tables = root.create_group("tables")
        name = f"{self.encoder}_{TILES}"
        with _quiet_anndata() as library:
            library.io.write_elem(tables, name, table(parcel))
        tables[name].attrs.update(
            {
                "spatialdata-encoding-type": "ngff:regions_table",
                "region": TILES,
                "region_key": "library_id",
                "instance_key": "tile_id",
                "version": TABLE_FORMAT,
            }
        )


class TableLayout:
    """One `<slide>.h5ad` a slide; none for a slide without tiles."""

    writes_empty = False

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        _anndata()

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """The table of one slide; with no shapes beside it, it holds places itself."""

        def write(path: Path) -> None:
            with _quiet_anndata():
                found = table(parcel)
                found.obs["x"], found.obs["y"] = parcel.grid.coords[:, 0], parcel.grid.coords[:, 1]
                found.obsm["spatial"] = parcel.grid.coords + np.asarray(parcel.grid.extent_level0) / 2
                found.uns["encoder"] = self.encoder
                found.uns["slide_id"] = parcel.slide_id
                found.uns["mpp"], found.uns["tile_px"] = parcel.grid.mpp, parcel.grid.tile_px
                found.uns[OWN] = parcel.own_facts()
                found.write_h5ad(path)

        return {f"{named.name}.h5ad": write}

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """None."""
        return {}


def table(parcel: Parcel) -> Any:
    """Features as the AnnData that LazySlide makes: `X` float32, `obs` with tile_id and library_id.

    Raises:
        MissingExtraError: anndata is not installed.
    """
    import pandas as pd

    tile_id = np.arange(len(parcel), dtype=np.int64)
    obs = pd.DataFrame(
        {"tile_id": tile_id, "library_id": pd.Categorical([TILES] * len(parcel))}, index=tile_id.astype(str)
    )
    var = pd.DataFrame(index=np.arange(parcel.dim).astype(str))
    made = _anndata().AnnData(X=parcel.features.astype(np.float32), obs=obs, var=var)
    made.uns["spatialdata_attrs"] = {"region": TILES, "region_key": "library_id", "instance_key": "tile_id"}
    return made


def tile_spec(parcel: Parcel) -> dict[str, Any]:
    """LazySlide's `tile_spec`: tile and stride in pixels at `mpp`, the level that is read, and scales to it and level 0."""
    grid = parcel.grid
    stride = grid.tile_px - parcel.overlap_px
    return {
        "height": grid.tile_px,
        "width": grid.tile_px,
        "stride_height": stride,
        "stride_width": stride,
        "mpp": grid.mpp,
        "ops_level": grid.level,
        "ops_downsample": grid.shrink,
        "base_level": 0,
        "base_downsample": float(np.sqrt(np.prod(grid.extent_level0))) / grid.tile_px,
        "tissue_name": TISSUES,
    }


def slide_properties(parcel: Parcel) -> dict[str, Any]:
    """LazySlide's `slide_properties`; sizes are [height, width]. No vendor tag is in them."""
    size = parcel.level0_size
    return {
        "shape": [size.height, size.width],
        "n_level": len(parcel.levels),
        "level_shape": [[level.size.height, level.size.width] for level in parcel.levels],
        "level_downsample": [float(level.downsample) for level in parcel.levels],
        "mpp": parcel.level0_mpp.mean,
        "magnification": None,
        "bounds": [0, 0, size.width, size.height],
        "scene": 0,
        "n_scenes": 1,
        "scene_names": ["Image 0"],
        "raw": None,
    }


def tile_boxes(parcel: Parcel) -> list[list[np.ndarray]]:
    """Each tile as a polygon of one ring, whole level-0 pixels wide: LazySlide rounds a tile's side down."""
    spec = tile_spec(parcel)
    side = int(np.floor(spec["width"] * spec["base_downsample"] + FLOOR_SLACK_PX))
    corners = np.array([[side, 0], [side, side], [0, side], [0, 0], [side, 0]], np.float64)
    return [[corner + corners] for corner in parcel.grid.coords.astype(np.float64)]


def _write_shapes(
    shapes: zarr.Group, root: Path, name: str, columns: Mapping[str, np.ndarray], polygons: Sequence[list[np.ndarray]]
) -> None:
    axes = [{"name": axis, "type": "space", "unit": "unit"} for axis in ("x", "y")]
    identity = {"type": "identity", "input": {"name": "xy", "axes": axes}, "output": {"name": "global", "axes": axes}}
    attributes = {
        "encoding-type": "ngff:shapes",
        "axes": ["x", "y"],
        "coordinateTransformations": [identity],
        "spatialdata_attrs": {"version": SHAPES_FORMAT},
    }
    shapes.create_group(name, attributes=attributes)
    _write_geoparquet(root / "shapes" / name / "shapes.parquet", columns, polygons)


def _write_geoparquet(path: Path, columns: Mapping[str, np.ndarray], polygons: Sequence[list[np.ndarray]]) -> None:
    """GeoParquet 1.1: plain columns, and `geometry` as well-known binary without a coordinate system."""
    arrow, parquet = _pyarrow()
    geometry: dict[str, Any] = {"encoding": "WKB", "crs": None, "geometry_types": ["Polygon"] if polygons else []}
    if polygons:
        rings = np.concatenate([rings[0] for rings in polygons])
        geometry["bbox"] = [*rings.min(axis=0).tolist(), *rings.max(axis=0).tolist()]
    head = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    arrays = {name: arrow.array(values) for name, values in columns.items()}
    arrays["geometry"] = arrow.array([polygon_wkb(rings) for rings in polygons], type=arrow.binary())
    made = arrow.table(arrays).replace_schema_metadata({"geo": json.dumps(head)})
    parquet.write_table(made, path)


def polygon_wkb(rings: Sequence[np.ndarray]) -> bytes:
    """A polygon as little-endian well-known binary.

    Args:
        rings: closed, the outer one first; each float64 [K, 2].
    """
    parts = [struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), np.ascontiguousarray(ring, "<f8").tobytes()]
    return b"".join(parts)


@contextmanager
def _quiet_anndata() -> Iterator[ModuleType]:
    """The module, one chunk an array as its readers expect, and without warnings about its own use of pandas."""
    library = _anndata()
    with warnings.catch_warnings(), library.settings.override(auto_shard_zarr_v3=False):
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield library


def _anndata() -> ModuleType:
    try:
        import anndata
        import anndata.io
    except ImportError:
        raise MissingExtraError("anndata", "interchange", "Writing AnnData tables") from None
    module: ModuleType = anndata
    return module


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "interchange", "Writing GeoParquet shapes") from None
    return pyarrow, pyarrow.parquet
