"""TRIDENT's job directory.

`<mag:%g>x_<patch>px_<overlap>px_overlap/` holds `patches/<slide>_patches.h5` and `features_<encoder>/<slide>.h5`; beside
it lie `contours_geojson/` and `thumbnails/`. All attributes sit on the datasets.

TRIDENT derives what a patch covers from `patch_size * level0_magnification / target_magnification`. Ours is an exact
scale, so both magnifications are written as 10 / (um/px), whole or not: their quotient, and with it the field that
TRIDENT would read, is exactly the tile's. A magnification rounded to 20 or 40 would move it by up to 40 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.exchange.hdf5 import Dataset, write_file
from pathotune_pipeline.exchange.layout import Named, Told, bytes_file, json_file, whole
from pathotune_pipeline.exchange.outbox import Write
from pathotune_pipeline.exchange.parcel import OWN, Parcel
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.version import VERSION

MAKER = "pathotune_pipeline"
FLOOR_SLACK_PX = 1e-6
"""A product that is a whole number but for rounding is not floored to the next lower one."""
CRS = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}
"""Written by TRIDENT into every GeoJSON; coordinates are level-0 pixels all the same."""


class TridentLayout:
    """Files of a TRIDENT job directory.

    Attributes:
        encoder: name that stands in `features_<encoder>`.
    """

    writes_empty = True

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        self._geometries: dict[str, dict[str, Any]] = {}

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """Thumbnail, contours, patches and features of one slide."""
        geometry = coords_attributes(parcel)
        folder = f"{geometry['target_magnification']:g}x_{geometry['patch_size']}px_{geometry['overlap']}px_overlap"
        self._geometries[folder] = {name: geometry[name] for name in ("target_magnification", "patch_size", "overlap")}
        attributes = {**geometry, "name": named.name, "savetodir": folder}
        coords = Dataset(parcel.grid.coords, {**attributes, OWN: parcel.own_facts()})
        made_by = {"name": named.name, "savetodir": f"{folder}/features_{self.encoder}", "encoder": self.encoder}
        features = Dataset(_rows(parcel), made_by)

        def write_patches(path: Path) -> None:
            write_file(path, {"coords": coords})

        def write_features(path: Path) -> None:
            write_file(path, {"features": features, "coords": coords})

        return {
            f"thumbnails/{named.name}.jpg": bytes_file(parcel.thumbnail_jpeg),
            f"contours_geojson/{named.name}.geojson": json_file(contours(parcel)),
            f"{folder}/patches/{named.name}_patches.h5": write_patches,
            f"{folder}/features_{self.encoder}/{named.name}.h5": write_features,
        }

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """The configurations, but for those that TRIDENT itself left there."""
        settings: dict[str, dict[str, Any]] = {"_config_segmentation.json": {"segmenter": "pathotune"}}
        for folder, geometry in sorted(self._geometries.items()):
            settings[f"{folder}/_config_coords.json"] = {**geometry, "saveto": folder}
            made = {"coords_dir": folder, "patch_encoder": self.encoder, "saveas": "h5"}
            settings[f"{folder}/_config_feats_{self.encoder}.json"] = made
        return {
            name: json_file({**values, "made_by": f"{MAKER} {VERSION}"})
            for name, values in settings.items()
            if not (out / name).exists() or MAKER in str((parse_json((out / name).read_bytes()) or {}).get("made_by"))
        }


def coords_attributes(parcel: Parcel) -> dict[str, Any]:
    """The attributes that TRIDENT writes on `coords`, but for name and folder, in its order and types.

    Of slides that were imported from TRIDENT they are those that its files had.
    """
    source = parcel.source
    if {"patch_size", "level0_magnification", "target_magnification"} <= set(source):
        patch_size = int(source["patch_size"])
        level0, target = float(source["level0_magnification"]), float(source["target_magnification"])
        overlap = int(source.get("overlap", 0))
    else:
        patch_size, overlap = parcel.grid.tile_px, parcel.overlap_px
        extent = float(np.sqrt(parcel.grid.extent_level0[0] * parcel.grid.extent_level0[1]))
        target = float(f"{10.0 / parcel.grid.mpp:.12g}")
        level0 = float(f"{target * extent / patch_size:.12g}")
    return {
        "patch_size": patch_size,
        "patch_size_level0": float(np.floor(patch_size * level0 / target + FLOOR_SLACK_PX)),
        "level0_magnification": whole(level0),
        "target_magnification": target,
        "overlap": overlap,
        "name": "",
        "savetodir": "",
        "level0_width": parcel.level0_size.width,
        "level0_height": parcel.level0_size.height,
    }


def contours(parcel: Parcel) -> dict[str, Any]:
    """Tissue as TRIDENT's GeoJSON: level-0 pixels, one polygon a piece, with its `tissue_id`."""
    features = [
        {"type": "Feature", "properties": {"tissue_id": number}, "geometry": {"type": "Polygon", "coordinates": rings}}
        for number, rings in enumerate(parcel.outlines)
    ]
    return {"type": "FeatureCollection", "crs": CRS, "features": features}


def _rows(parcel: Parcel) -> np.ndarray:
    # Where not even the dimension is known, TRIDENT writes (0,) float32.
    return parcel.features if parcel.dim else np.zeros(0, np.float32)
