"""Commit or nothing: stage a group, verify it, place it, then create its record.

A group is written under `staging/`, read back and hashed, flushed, renamed into `data.zarr/<slide>/`, and becomes
visible to readers when its record appears under `commits/`. A process that dies on the way leaves either rubbish in
staging, or a placed group without a record, which the next writer of the same group compares and takes or replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr

from pathotune_pipeline.errors import CorruptDataError, StoreUnwritableError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json, to_json
from pathotune_pipeline.store.place import Place
from pathotune_pipeline.store.read_back import read_back
from pathotune_pipeline.store.unwritable import OF_WRITING, unwritable
from pathotune_pipeline.store.whole_array import DOTTED_KEYS, write_group, write_whole


class StagedGroup:
    """A Zarr group that is being written and that nobody sees yet.

    A context manager: leaving it drops what was not committed. Where folders cannot be renamed (an object store), the
    group is written in its place under a name of its own; the record says which.

    Attributes:
        group: path of the group below data.zarr, as the record will give it.
    """

    def __init__(self, place: Place, staging: str, group: str, record: str) -> None:
        """Begin a group.

        Args:
            place: where the store lies.
            staging: this process's staging folder.
            group: path of the group below data.zarr.
            record: name of the commit record.
        """
        self._place, self._record = place, record
        self.group = group if place.renames else f"{group}~{uuid.uuid4().hex[:8]}"
        self._folder = f"{staging}/{uuid.uuid4().hex}" if place.renames else f"{layout.DATA}/{self.group}"
        self._made = False
        self._expected: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what cannot be deleted now is an orphan that `gc` clears
            if self._place.renames or not (self._made or self._is_recorded()):
                self._place.delete_tree(self._folder)
        if isinstance(error, OSError) and error.errno in OF_WRITING and not isinstance(error, StoreUnwritableError):
            raise unwritable(self._place.address, error.errno or 0) from error

    def put(self, name: str, data: np.ndarray) -> None:
        """Write a whole small array, zstd-compressed, one chunk."""
        write_whole(self._place, f"{self._folder}/{name}", data)
        self._expected[name] = checksum(data)

    def create(self, name: str, *, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...]) -> zarr.Array:
        """An uncompressed array to be filled by whole chunks."""
        with self._place.writing():
            return zarr.create_array(
                self._place.zarr(f"{self._folder}/{name}"),
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                compressors=None,
                fill_value=0,
                chunk_key_encoding=DOTTED_KEYS,
                zarr_format=3,
            )

    def expect(self, name: str, digest: str) -> None:
        """State the checksum that a created array must have when read back."""
        self._expected[name] = digest

    def commit(self, record: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
        """Verify, place, and record.

        Args:
            record: what the commit record says besides group and checksums.
            attributes: what the group itself says to a reader without our code.

        Returns:
            Whether this call made the commit; False where another writer's came first.

        Raises:
            CorruptDataError: what was read back is not what was written.
            StoreUnwritableError: the store is full, read-only or forbidden. Nothing was committed.
        """
        write_group(self._place, self._folder, {**attributes, "group": self.group, "checksums": self._expected})
        self._verify()
        failpoint("store.staged")
        checksums = self._place_group() if self._place.renames else self._expected
        failpoint("store.placed")
        facts = {**record, "group": self.group, "checksums": checksums, "committed_ns": time.time_ns()}
        made = self._place.create(self._record, to_json(facts))
        self._made = made
        failpoint("store.committed")
        return made

    def _is_recorded(self) -> bool:
        """Whether the record speaks of this very folder: an object store may have taken it and lost the answer."""
        record = parse_json(self._place.read(self._record))
        return isinstance(record, dict) and record.get("group") == self.group

    def _verify(self) -> None:
        try:
            found = read_back(self._place, self._folder)
            wrong = sorted(name for name in {*found, *self._expected} if found.get(name) != self._expected.get(name))
            problem = f"array {wrong[0]!r} differs" if wrong else ""
        except CorruptDataError as error:
            problem = str(error)
        if problem:
            raise CorruptDataError(
                f"What was read back from staging is not what was written ({problem}). "
                "Check the disk's health and free space, then run again: nothing was committed."
            )

    def _place_group(self) -> dict[str, str]:
        """Rename the group to where it belongs. Returns the checksums of what stands there then."""
        target = f"{layout.DATA}/{self.group}"
        while not self._place.move(self._folder, target):
            standing = sound_checksums(self._place.zarr(target))
            if standing is not None:
                return standing  # whole, of the same fingerprint: another writer's, or one whose record is missing
            # Torn by a power cut: nobody alive writes into data.zarr.
            remove_group(self._place, target, self._folder.rpartition("/")[0])
        return self._expected


def remove_group(place: Place, target: str, staging: str) -> None:
    """Take a folder of data.zarr away: to readers at once, where the place can do that."""
    aside = f"{staging}/{uuid.uuid4().hex}" if place.renames else target
    if aside == target or place.move(target, aside, flush=False):
        place.delete_tree(aside)


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


def group_checksums(folder: Any) -> dict[str, str]:
    """Checksum of each array in a group."""
    group = zarr.open_group(folder, mode="r", zarr_format=3, use_consolidated=False)
    return {name: array_checksum(array) for name, array in sorted(group.arrays())}


def sound_checksums(folder: Any) -> dict[str, str] | None:
    """The checksums a placed group claims, where its data bear them out; None where they do not."""
    try:
        claimed = zarr.open_group(folder, mode="r").attrs["checksums"]
        return dict(claimed) if group_checksums(folder) == claimed else None
    except Exception:  # noqa: BLE001 - whatever is wrong with a leftover, it is not sound
        return None
