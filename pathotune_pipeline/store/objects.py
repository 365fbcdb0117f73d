"""A store in an object store (S3, GCS, ...), through fsspec.

Folders cannot be renamed there. So a group is written where it will stay, under a name that no other writer uses, and
its record, put last and only if there is none, says which group counts. Everything else is as on a disk. An address
is `s3://bucket/prefix`; keys and endpoints come from the environment, as the library of that protocol reads them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from pathotune_pipeline.errors import MissingExtraError, UsageError
from pathotune_pipeline.store.unwritable import writing

APPEND_EVERY_S = 5.0
"""Objects cannot grow: lines that are appended are kept, and the whole is put anew so often."""


class ObjectPlace:
    """A prefix of a bucket."""

    def __init__(self, address: str) -> None:
        """Look at a prefix.

        Args:
            address: such as s3://bucket/prefix.

        Raises:
            UsageError: nothing is known of such an address.
            MissingExtraError: the library for it is not installed.
        """
        try:
            import fsspec

            self._files, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except ImportError as error:
            raise MissingExtraError(str(error), address.partition(":")[0], f"--store {address}") from None
        except ValueError as error:
            raise UsageError(
                f"--store {address}: {error}. Give a folder, or an address such as s3://bucket/prefix."
            ) from None
        self._root = str(root).rstrip("/")
        self._address = address.rstrip("/")
        self._lines: dict[str, bytearray] = {}
        self._pending: set[str] = set()
        self._put_at = time.monotonic()

    @property
    def address(self) -> str:
        return self._address

    def below(self, folder: str) -> ObjectPlace:
        return ObjectPlace(f"{self._address}/{folder}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        found = self._files.cat(list(paths), on_error="omit")
        return {paths[path]: bytes(data) for path, data in found.items() if path in paths}

    def exists(self, name: str) -> bool:
        return bool(self._files.exists(self._path(name)))

    def names(self, folder: str) -> list[str]:
        try:
            listed = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        own = self._path(folder).strip("/")
        return [str(path).rstrip("/").rpartition("/")[2] for path in listed if str(path).strip("/") != own]

    def create(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        with self.writing():
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        with self.writing():
            self._put_lines()
            self._files.pipe_file(self._path(name), data)

    def append(self, name: str, data: bytes) -> None:
        self._lines.setdefault(name, bytearray()).extend(data)
        self._pending.add(name)
        if time.monotonic() - self._put_at >= APPEND_EVERY_S:
            with self.writing():
                self._put_lines()

    def _put_lines(self) -> None:
        for name in sorted(self._pending):
            self._files.pipe_file(self._path(name), bytes(self._lines[name]))
            self._pending.discard(name)
        self._put_at = time.monotonic()

    def delete(self, name: str) -> None:
        with self.writing(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def delete_if(self, name: str, data: bytes) -> bool:
        if self.read(name) != data:
            return False
        self.delete(name)
        return True

    def delete_tree(self, folder: str) -> None:
        with self.writing(), contextlib.suppress(FileNotFoundError):
            self._files.rm(self._path(folder), recursive=True)

    def size_of(self, folder: str) -> tuple[int, int]:
        found = self._found(folder)
        return len(found), sum(int(each["size"] or 0) for each in found.values())

    def changed_s(self, folder: str) -> float:
        times = (each.get("LastModified") or each.get("updated") for each in self._found(folder).values())
        known = [each.timestamp() for each in times if each is not None]
        return max(known, default=time.time())

    def _found(self, folder: str) -> dict[str, dict[str, Any]]:
        try:
            return dict(self._files.find(self._path(folder), detail=True))
        except FileNotFoundError:
            return {}

    def zarr(self, folder: str) -> Any:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(f"{self._address}/{folder}", storage_options={"use_listings_cache": False})

    @property
    def renames(self) -> bool:
        return False

    def move(self, folder: str, target: str, *, flush: bool = True) -> bool:
        raise NotImplementedError("objects cannot be renamed; ask `renames` first")

    def writing(self) -> AbstractContextManager[None]:
        return writing(self._address)
