"""How tissue masks and tile grids are laid into a store and read back. Arrays and names, no pixels of the slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tissue.geojson import geojson_text
from pathotune_pipeline.tissue.mask import TissueMask
from pathotune_pipeline.tissue.quality import Quality

JPEG_QUALITY = 85


def tissue_arrays(mask: TissueMask) -> dict[str, np.ndarray]:
    """The arrays of a tissue group: `mask` uint8 [h, w], `geojson` and `thumbnail_jpeg` as bytes in uint8 [n]."""
    encoded, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(mask.thumbnail, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not encoded:
        raise CorruptDataError("OpenCV could not encode the thumbnail. Check its installation with `pathotune doctor`.")
    geojson = geojson_text(mask).encode()
    return {
        "mask": mask.mask.astype(np.uint8),
        "geojson": np.frombuffer(geojson, dtype=np.uint8),
        "thumbnail_jpeg": jpeg.reshape(-1),
    }


def tissue_facts(mask: TissueMask) -> dict[str, Any]:
    """What a tissue group says of itself, in plain values."""
    return {
        "mask_mpp_x": mask.mpp_x,
        "mask_mpp_y": mask.mpp_y,
        "level0_mpp_x": mask.level0_mpp.x,
        "level0_mpp_y": mask.level0_mpp.y,
        "level0_width": mask.level0_size.width,
        "level0_height": mask.level0_size.height,
        "area_um2": mask.area_um2,
        "share": mask.share,
        "quality": None if mask.quality is None else mask.quality.as_dict(),
    }


def load_tissue(store: FeatureStore, record: CommitRecord) -> TissueMask:
    """A committed tissue mask.

    Raises:
        CorruptDataError: it cannot be read.
    """
    attrs = dict(store.group(record).attrs)
    quality: Any = attrs.get("quality")
    thumbnail = cv2.imdecode(store.read(record, "thumbnail_jpeg"), cv2.IMREAD_COLOR)
    if thumbnail is None:
        raise CorruptDataError(f"{record.group}: its thumbnail is no JPEG. Delete its record and extract again.")
    return TissueMask(
        mask=store.read(record, "mask").astype(bool),
        mpp_x=float(attrs["mask_mpp_x"]),
        mpp_y=float(attrs["mask_mpp_y"]),
        level0_mpp=Mpp(float(attrs["level0_mpp_x"]), float(attrs["level0_mpp_y"])),
        level0_size=Size(int(attrs["level0_width"]), int(attrs["level0_height"])),
        thumbnail=cv2.cvtColor(thumbnail, cv2.COLOR_BGR2RGB),
        quality=Quality.from_dict(quality) if quality else None,
    )


def grid_facts(grid: TileGrid) -> dict[str, Any]:
    """A grid's geometry in plain values: everything but the arrays."""
    facts = asdict(grid)
    del facts["coords"], facts["tissue_fraction"]
    return facts


def load_grid(store: FeatureStore, record: CommitRecord) -> TileGrid:
    """A committed tile grid.

    Raises:
        CorruptDataError: it cannot be read.
    """
    geometry: Any = store.group(record).attrs["geometry"]
    return grid_of_facts(geometry, store.read(record, "coords"), store.read(record, "tissue_fraction"))


def grid_of_facts(facts: Mapping[str, Any], coords: np.ndarray, tissue_fraction: np.ndarray) -> TileGrid:
    """A grid from its geometry in plain values, as `grid_facts` gives it, and its arrays."""
    plain: dict[str, Any] = {name: _tuples(value) for name, value in facts.items()}
    return TileGrid(coords=coords, tissue_fraction=tissue_fraction, **plain)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value
