from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from pathotune_pipeline.store.place import LocalPlace
from pathotune_pipeline.store.whole_array import DOTTED_KEYS, ZSTD_LEVEL, write_whole

ARRAYS = {
    "bytes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "flags": np.array([True, False, True]),
    "places": np.arange(-6, 6, dtype=np.int64).reshape(6, 2),
    "half": np.linspace(0, 1, 8, dtype=np.float16).reshape(2, 2, 2),
    "double": np.array([0.0, np.pi, np.nan]),
    "big-endian": np.arange(5, dtype=">i4"),
    "strided": np.arange(20, dtype=np.int32).reshape(4, 5)[:, ::2],
    "empty": np.zeros((0, 2), np.int64),
    "large": np.random.default_rng(0).integers(0, 9, (500, 300), dtype=np.uint8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_is_written_is_what_zarr_writes(tmp_path: Path, name: str) -> None:
    data = ARRAYS[name]
    group = zarr.open_group(tmp_path / "zarr", mode="w", zarr_format=3)
    group.create_array(
        name,
        data=np.ascontiguousarray(data, data.dtype.newbyteorder("<")),
        chunks=tuple(max(1, side) for side in data.shape),
        compressors=zarr.codecs.ZstdCodec(level=ZSTD_LEVEL),
        chunk_key_encoding=DOTTED_KEYS,
    )
    zarr.open_group(tmp_path / "ours", mode="w", zarr_format=3)
    write_whole(LocalPlace(tmp_path), f"ours/{name}", data)
    files = [sorted((tmp_path / side / name).iterdir()) for side in ("ours", "zarr")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    for ours, theirs in zip(*files, strict=True):
        if ours.name == "zarr.json":
            assert json.loads(ours.read_bytes()) == json.loads(theirs.read_bytes())
        else:
            assert ours.read_bytes() == theirs.read_bytes()
    read = zarr.open_group(tmp_path / "ours", mode="r")[name]
    assert isinstance(read, zarr.Array)
    np.testing.assert_array_equal(read[...], data)


def test_an_array_of_zeros_has_its_chunk(tmp_path: Path) -> None:
    """Zarr leaves such a chunk away, and then a lost one is not told from it."""
    write_whole(LocalPlace(tmp_path), "zeros", np.zeros(4, np.uint8))
    assert (tmp_path / "zeros" / "c.0").exists()
