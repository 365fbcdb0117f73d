"""Where a store's files lie. One seam for local disks, shared mounts and object stores.

A name is relative to the store and parted by "/". What every place must give: `create` makes a file whole where there
is none, and of several callers one makes it; `replace` writes one whole over another; nobody ever reads half a file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pathotune_pipeline.store.files import create_file, delete_file_if, replace_file, sync_folder, sync_tree
from pathotune_pipeline.store.unwritable import writing


class Place(Protocol):
    """Files by name. Writing raises StoreUnwritableError where the place is full, read-only or forbidden."""

    @property
    def address(self) -> str:
        """What `--store` takes to come here."""
        ...

    def below(self, folder: str) -> Place:
        """A folder of this place as a place."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where it is absent."""
        ...

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of those files that are there, by name; over a network asked for at once."""
        ...

    def exists(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly in a folder, unsorted; none where it is absent."""
        ...

    def create(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file whole where there is none. Returns whether this call made it."""
        ...

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file whole, over an older one; not durable: a power cut may undo it."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file that one process writes."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file; an absent one is no error."""
        ...

    def delete_if(self, name: str, data: bytes) -> bool:
        """Delete a file that still holds these bytes. Returns whether it went."""
        ...

    def delete_tree(self, folder: str) -> None:
        """Delete a folder and what is in it; to readers it goes at once where the place can do that."""
        ...

    def size_of(self, folder: str) -> tuple[int, int]:
        """Files in a folder with its folders, and their bytes; a file counts as one."""
        ...

    def changed_s(self, folder: str) -> float:
        """Unix time of the newest change in a folder with its folders."""
        ...

    def zarr(self, folder: str) -> Any:
        """What `zarr.open_group` takes to open a folder."""
        ...

    @property
    def renames(self) -> bool:
        """Whether a folder can be written aside and then given its name at once (`move`)."""
        ...

    def move(self, folder: str, target: str, *, flush: bool = True) -> bool:
        """Flush a folder to disk and give it another name. False where something stands there already."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Turns errors of a full, read-only or forbidden place into StoreUnwritableError."""
        ...


class LocalPlace:
    """A folder on a disk, or on a shared mount."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def address(self) -> str:
        return str(self.root)

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.root / name

    def below(self, folder: str) -> LocalPlace:
        return LocalPlace(self.root / folder)

    def read(self, name: str) -> bytes | None:
        try:
            return self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        return {name: data for name in names if (data := self.read(name)) is not None}

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def create(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        path = self.path(name)
        with self.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            return create_file(path, data, durable=durable)

    def replace(self, name: str, data: bytes, *, durable: bool = True) -> None:
        path = self.path(name)
        with self.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, durable=durable)

    def append(self, name: str, data: bytes) -> None:
        path = self.path(name)
        with self.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)

    def delete(self, name: str) -> None:
        with self.writing():
            self.path(name).unlink(missing_ok=True)

    def delete_if(self, name: str, data: bytes) -> bool:
        with self.writing():
            return delete_file_if(self.path(name), data)

    def delete_tree(self, folder: str) -> None:
        path = self.path(folder)
        with self.writing():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                if path.is_dir():
                    shutil.rmtree(path)  # says why

    def size_of(self, folder: str) -> tuple[int, int]:
        path = self.path(folder)
        if path.is_file():
            return 1, path.stat().st_size
        count = size = 0
        for here, _, names in os.walk(path):
            count += len(names)
            size += sum((Path(here) / name).stat().st_size for name in names)
        return count, size

    def changed_s(self, folder: str) -> float:
        path = self.path(folder)
        return max((each.stat().st_mtime for each in path.rglob("*")), default=path.stat().st_mtime)

    def zarr(self, folder: str) -> Any:
        return self.path(folder)

    @property
    def renames(self) -> bool:
        return True

    def move(self, folder: str, target: str, *, flush: bool = True) -> bool:
        source, goal = self.path(folder), self.path(target)
        with self.writing():
            if flush:
                sync_tree(source)
            goal.parent.mkdir(parents=True, exist_ok=True)
            try:
                source.rename(goal)
            except OSError:
                if not goal.exists():
                    raise
                return False
            sync_folder(goal.parent)
            return True

    def writing(self) -> AbstractContextManager[None]:
        return writing(self.address)


class StoredFile:
    """One file of a place, read and replaced whole."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name

    def read(self) -> bytes | None:
        """Its bytes; None where it is absent."""
        return self._place.read(self._name)

    def replace(self, data: bytes) -> None:
        """Write it whole; a power cut may undo that."""
        self._place.replace(self._name, data, durable=False)


def place_of(where: Place | Path | str) -> Place:
    """The place that a path or address names: a folder, file:///folder, or s3://bucket/prefix and the like.

    Raises:
        UsageError: nothing is known of such an address.
        MissingExtraError: the library for it is not installed.
    """
    if isinstance(where, Path):
        return LocalPlace(where)
    if not isinstance(where, str):
        return where
    protocol, parted, rest = where.partition("://")
    if not parted or protocol == "file":
        return LocalPlace(Path(rest if parted else where))
    from pathotune_pipeline.store.objects import ObjectPlace

    return ObjectPlace(where)
