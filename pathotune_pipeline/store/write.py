"""Commit or nothing: stage a group, verify it, place it, then create its record.

A group is written under `staging/`, read back and hashed, flushed, renamed into `data.zarr/<slide>/`, and becomes
visible to readers when its record appears under `commits/`. A process that dies on the way leaves either rubbish in
staging, or a placed group without a record, which the next writer of the same group compares and takes or replaces.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.store.files import create_file, sync_folder, sync_tree, to_json

DOTTED_KEYS = {"name": "default", "separator": "."}
"""Chunk `c.0.0` beside `zarr.json`, not three folders deep: fewer inodes."""


class StagedGroup:
    """A Zarr group that is being written and that nobody sees yet.

    A context manager: leaving it drops what was not committed.
    """

    def __init__(self, staging: Path, target: Path, record: Path) -> None:
        self._folder = staging / uuid.uuid4().hex
        self._target = target
        self._record = record
        self._folder.mkdir(parents=True)
        self._group = zarr.open_group(self._folder, mode="w", zarr_format=3)
        self._expected: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, name: str, data: np.ndarray) -> None:
        """Write a whole small array, zstd-compressed, one chunk."""
        data = np.ascontiguousarray(data)
        self._group.create_array(
            name,
            data=data,
            chunks=tuple(max(1, side) for side in data.shape),
            compressors=zarr.codecs.ZstdCodec(level=5),
            chunk_key_encoding=DOTTED_KEYS,
        )
        self._expected[name] = checksum(data)

    def create(self, name: str, *, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]) -> zarr.Array:
        """An uncompressed array to be filled by whole chunks."""
        return self._group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            compressors=None,
            fill_value=0,
            chunk_key_encoding=DOTTED_KEYS,
        )

    def expect(self, name: str, digest: str) -> None:
        """State the checksum that a created array must have when read back."""
        self._expected[name] = digest

    def commit(self, record: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
        """Verify, place, and record.

        Args:
            record: what the commit record says besides checksums.
            attributes: what the group itself says to a reader without our code.

        Returns:
            Whether this call made the commit; False where another writer's came first.

        Raises:
            CorruptDataError: what was read back is not what was written.
        """
        self._verify()
        self._group.attrs.update({**attributes, "checksums": self._expected})
        sync_tree(self._folder)
        failpoint("store.staged")
        checksums = self._place()
        failpoint("store.placed")
        self._record.parent.mkdir(parents=True, exist_ok=True)
        made = create_file(self._record, to_json({**record, "checksums": checksums, "committed_ns": time.time_ns()}))
        failpoint("store.committed")
        return made

    def _verify(self) -> None:
        found = group_checksums(self._folder)
        if found != self._expected:
            wrong = sorted(name for name in {*found, *self._expected} if found.get(name) != self._expected.get(name))
            raise CorruptDataError(
                f"Array {wrong[0]!r} read back from staging differs from what was written. "
                "Check the disk's health and free space, then run again: nothing was committed."
            )

    def _place(self) -> dict[str, str]:
        """Rename the group to where it belongs. Returns the checksums of what stands there then."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                self._folder.rename(self._target)
            except OSError:
                if not self._target.exists():
                    raise
            else:
                sync_folder(self._target.parent)
                return self._expected
            standing = sound_checksums(self._target)
            if standing is not None:
                return standing  # whole, of the same fingerprint: another writer's, or one whose record is missing
            aside = self._folder.with_name(uuid.uuid4().hex)
            self._target.rename(aside)  # torn by a power cut: nobody alive writes into data.zarr
            shutil.rmtree(aside, ignore_errors=True)


def checksum(data: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def array_checksum(array: zarr.Array) -> str:
    """SHA-256 of a stored array's bytes in C order, read by rows of chunks."""
    digest = hashlib.sha256()
    if 0 in array.shape or array.ndim == 0:
        return checksum(np.asarray(array[...]))
    rows = array.chunks[0]
    for start in range(0, array.shape[0], rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    return digest.hexdigest()


def group_checksums(folder: Path) -> dict[str, str]:
    """Checksum of each array in a group."""
    group = zarr.open_group(folder, mode="r")
    return {name: array_checksum(array) for name, array in sorted(group.arrays())}


def sound_checksums(folder: Path) -> dict[str, str] | None:
    """The checksums a placed group claims, where its data bear them out; None where they do not."""
    try:
        claimed = zarr.open_group(folder, mode="r").attrs["checksums"]
        return dict(claimed) if group_checksums(folder) == claimed else None
    except Exception:  # noqa: BLE001 - whatever is wrong with a leftover, it is not sound
        return None
