from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.store.place import LocalPlace
from pathotune_pipeline.store.read_back import read_back
from pathotune_pipeline.store.whole_array import write_group, write_whole
from pathotune_pipeline.store.write import StagedGroup, checksum, group_checksums

ARRAYS = {
    "bytes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "flags": np.array([True, False, True]),
    "places": np.arange(-6, 6, dtype=np.int64).reshape(6, 2),
    "half": np.linspace(0, 1, 8, dtype=np.float16).reshape(2, 2, 2),
    "empty": np.zeros((0, 2), np.int64),
    "narrow": np.zeros((3, 0), np.float32),
}
ROWS = np.random.default_rng(0).standard_normal((70, 3)).astype(np.float16)
ROWS[32:64] = 0  # zarr leaves this chunk away


def staged(folder: Path) -> StagedGroup:
    """A group with arrays of both forms, not committed yet."""
    group = StagedGroup(LocalPlace(folder), "staging", "slide/features", "commits/record.json")
    for name, data in ARRAYS.items():
        group.put(name, data)
    group.create("rows", shape=ROWS.shape, dtype="float16", chunks=(32, 3))[...] = ROWS
    group.expect("rows", checksum(ROWS))
    return group


def the_folder(folder: Path) -> Path:
    (found,) = (folder / "staging").iterdir()
    return found


def test_files_are_read_as_zarr_reads_them(tmp_path: Path) -> None:
    staged(tmp_path)
    folder = the_folder(tmp_path)
    write_group(LocalPlace(tmp_path), str(folder.relative_to(tmp_path)), {"slide_id": "a"})
    assert not (folder / "rows" / "c.1.0").exists()
    found = read_back(LocalPlace(tmp_path), str(folder.relative_to(tmp_path)))
    assert found == {name: checksum(data) for name, data in {**ARRAYS, "rows": ROWS}.items()}
    assert found == group_checksums(folder)


def test_a_group_is_what_zarr_makes_of_it(tmp_path: Path) -> None:
    attributes = {"slide_id": "a", "checksums": {"mask": "00"}, "mpp": 0.5}
    zarr.open_group(tmp_path / "theirs", mode="w", zarr_format=3).update_attributes(attributes)
    write_group(LocalPlace(tmp_path), "ours", attributes)
    write_whole(LocalPlace(tmp_path), "ours/bytes", ARRAYS["bytes"])
    ours, theirs = (json.loads((tmp_path / side / "zarr.json").read_bytes()) for side in ("ours", "theirs"))
    assert ours == {key: value for key, value in theirs.items() if value is not None}
    group = zarr.open_group(tmp_path / "ours", mode="r")
    assert dict(group.attrs) == attributes
    assert [name for name, _ in group.arrays()] == ["bytes"]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[9] ^= 0x10  # not in the padding behind the last rows
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [_cut, _flip, Path.unlink])
@pytest.mark.parametrize("name", ["bytes/c.0.0", "bytes/zarr.json", "rows/c.0.0", "rows/c.2.0", "rows/zarr.json"])
def test_what_is_not_as_it_was_written_is_not_committed(
    tmp_path: Path, harm: Callable[[Path], None], name: str
) -> None:
    group = staged(tmp_path)
    harm(the_folder(tmp_path) / name)
    with group, pytest.raises(CorruptDataError, match="nothing was committed"):
        group.commit({}, {})
    assert not list(tmp_path.glob("commits/*"))
    assert not list(tmp_path.glob("staging/*"))
