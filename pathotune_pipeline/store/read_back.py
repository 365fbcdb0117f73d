"""Checksums of what a staged group holds, from its files.

Each slide's groups are read back before they are committed. Through zarr each array takes a dozen steps of its event
loop, which cost a small slide more than all else; what `StagedGroup` writes is of two plain forms, and `pathotune verify`
reads it through zarr.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numcodecs.zstd import decompress

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.place import Place


def read_back(place: Place, folder: str) -> dict[str, str]:
    """SHA-256 of the bytes of each array in a group, in C order.

    Args:
        place: where the store lies.
        folder: the group's. Its arrays have chunks of whole rows, uncompressed or with zstd, named as `c.0.0`.

    Raises:
        CorruptDataError: a file is absent or not what it should be.
    """
    names = sorted(name for name in place.names(folder) if name != "zarr.json")
    return {name: _checksum(place, f"{folder}/{name}") for name in names}


def _checksum(place: Place, folder: str) -> str:
    digest = hashlib.sha256()
    try:
        metadata = parse_json(place.read(f"{folder}/zarr.json"))
        shape, rows = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        packed = any(codec["name"] == "zstd" for codec in metadata["codecs"])
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(metadata["data_type"]).itemsize
        for start in range(0, shape[0], rows) if row_bytes else ():
            chunk = place.read(f"{folder}/{'.'.join(['c', str(start // rows), *['0'] * (len(shape) - 1)])}")
            if chunk is None:  # Zarr leaves away a chunk of zeros: the checksum tells whether this one was
                chunk = bytes(rows * row_bytes)
            elif packed:
                chunk = decompress(chunk)
            if len(chunk) != rows * row_bytes:
                raise ValueError(f"a chunk of {len(chunk)} bytes where {rows * row_bytes} are due")
            digest.update(memoryview(chunk)[: (shape[0] - start) * row_bytes])
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptDataError(f"{folder}: {type(error).__name__}: {error}") from error
    return digest.hexdigest()
