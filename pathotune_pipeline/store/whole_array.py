"""A small array as Zarr v3 has it, in one chunk, written as two files; and the group that it lies in.

What `zarr.Group.create_array` does takes a dozen steps through its event loop; of a slide with a few hundred tiles, that
was a third of what the slide cost. What is written is what Zarr writes: tests compare chunks byte for byte, and metadata as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numcodecs.zstd import compress

from pathotune_pipeline.store.place import Place

DOTTED_KEYS = {"name": "default", "separator": "."}
"""Chunk `c.0.0` beside `zarr.json`, not three folders deep: fewer inodes."""
ZSTD_LEVEL = 5


def write_whole(place: Place, folder: str, data: np.ndarray) -> None:
    """Write an array where there is none, zstd-compressed, its chunk before its metadata.

    Args:
        place: where the store lies.
        folder: the array's, below a group that is there.
        data: of whole numbers, floats or bools, of one axis or more.
    """
    data = np.ascontiguousarray(data, data.dtype.newbyteorder("<"))
    with place.writing():
        if data.size:
            chunk = ".".join(["c", *["0"] * data.ndim])
            place.replace(f"{folder}/{chunk}", compress(data, ZSTD_LEVEL), durable=False)
        place.replace(f"{folder}/zarr.json", json.dumps(_metadata(data), indent=2).encode(), durable=False)


def write_group(place: Place, folder: str, attributes: Mapping[str, Any]) -> None:
    """Write a group's metadata, which makes a folder of arrays a group."""
    metadata = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    with place.writing():
        place.replace(f"{folder}/zarr.json", json.dumps(metadata, indent=2).encode(), durable=False)


def _metadata(data: np.ndarray) -> dict[str, object]:
    """The array's `zarr.json`, with Zarr's own fill values and codecs."""
    endian = {"configuration": {"endian": "little"}} if data.dtype.itemsize > 1 else {}
    return {
        "shape": list(data.shape),
        "data_type": data.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, side) for side in data.shape]}},
        "chunk_key_encoding": {"name": DOTTED_KEYS["name"], "configuration": {"separator": DOTTED_KEYS["separator"]}},
        "fill_value": data.dtype.type(0).item(),
        "codecs": [
            {"name": "bytes", **endian},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        ],
        "attributes": {},
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
