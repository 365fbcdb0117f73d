"""CLAM's files: `patches/<slide>.h5`, `h5_files/<slide>.h5`, `pt_files/<slide>.pt`, and the list of slides.

CLAM cuts a patch of `patch_size` pixels at `patch_level` and resizes it to what the encoder sees. Ours are read from a
level and resized to an exact scale too; so the level and the size in its pixels that our tiles are read with are what
CLAM has to read to see the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.exchange.hdf5 import Dataset, write_file
from pathotune_pipeline.exchange.layout import Named, Told, text_file
from pathotune_pipeline.exchange.outbox import Write
from pathotune_pipeline.exchange.parcel import OWN, Parcel
from pathotune_pipeline.exchange.tensors import write_tensor

CHUNK_ROWS = 32
LIST = "process_list_autogen.csv"
LIST_COLUMNS = (
    "slide_id", "process", "status", "seg_level", "sthresh", "mthresh", "close", "use_otsu", "keep_ids", "exclude_ids",
    "a_t", "a_h", "max_n_holes", "vis_level", "line_thickness", "use_padding", "contour_fn",
)  # fmt: skip


class ClamLayout:
    """Files that CLAM's two scripts leave behind. Slides without tiles have none, as with CLAM."""

    writes_empty = False

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder

    def slide_files(self, parcel: Parcel, named: Named) -> Mapping[str, Write]:
        """Patches and features of one slide, by columns from left to right as CLAM lists them."""
        order = np.lexsort((parcel.grid.coords[:, 1], parcel.grid.coords[:, 0]))
        coords, features = parcel.grid.coords[order], parcel.features[order].astype(np.float32)
        attributes = {**coords_attributes(parcel), "name": named.name, "save_path": "patches"}

        def write_patches(path: Path) -> None:
            write_file(path, {"coords": Dataset(coords, {**attributes, OWN: parcel.own_facts()}, CHUNK_ROWS)})

        def write_features(path: Path) -> None:
            places = coords.astype(np.int32)
            write_file(path, {"features": Dataset(features, {}, CHUNK_ROWS), "coords": Dataset(places, {}, CHUNK_ROWS)})

        def write_tensor_file(path: Path) -> None:
            write_tensor(path, features)

        return {
            f"patches/{named.name}.h5": write_patches,
            f"pt_files/{named.name}.pt": write_tensor_file,
            f"h5_files/{named.name}.h5": write_features,
        }

    def closing_files(self, told: Sequence[Told], out: Path) -> Mapping[str, Write]:
        """The list of slides, with nothing left to process; the columns of CLAM's own segmentation are empty.

        Slides that an older list names stay in it.
        """
        rows = {each.named.file: {"slide_id": each.named.file, "process": "0", "status": "processed"} for each in told}
        if (out / LIST).is_file():
            older = read_table(out / LIST)
            if "slide_id" in older.columns:
                rows = {**{row["slide_id"]: row for row in older.rows}, **rows}
        text = io.StringIO()
        writer = csv.DictWriter(text, LIST_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, row in sorted(rows.items()))
        return {LIST: text_file(text.getvalue())}


def coords_attributes(parcel: Parcel) -> dict[str, Any]:
    """The attributes that CLAM writes on `coords` of a patch file, but for name and folder.

    `patch_size` is in pixels of `patch_level`, of which `level_dim` is the size; `downsample` is level-0 pixels per
    pixel of that level along x and y. Of slides that were imported from CLAM they are those that its files had.
    """
    grid, level0, source = parcel.grid, parcel.level0_size, parcel.source
    if {"patch_size", "patch_level", "downsample", "level_dim"} <= set(source):  # as CLAM had it
        dims = np.array(source["level_dim"], np.int64)
        return {
            "patch_size": int(source["patch_size"]),
            "patch_level": int(source["patch_level"]),
            "downsample": np.array(source["downsample"], float),
            "downsampled_level_dim": np.array(source.get("downsampled_level_dim", dims), np.int64),
            "level_dim": dims,
            "name": "",
            "save_path": "",
        }
    known = grid.level < len(parcel.levels)
    level = parcel.levels[grid.level].size if known else level0
    downsample = np.array([level0.width / level.width, level0.height / level.height])
    sides = np.asarray(grid.read_size_px, float) if known else np.asarray(grid.extent_level0)
    return {
        "patch_size": round(float(np.sqrt(sides[0] * sides[1]))),
        "patch_level": grid.level if known else 0,
        "downsample": downsample,
        "downsampled_level_dim": np.array([level.width, level.height], np.int64),
        "level_dim": np.array([level.width, level.height], np.int64),
        "name": "",
        "save_path": "",
    }
