"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

UNFINISHED = re.compile(r"\..*\.[0-9a-f]{32}\.tmp")
"""Name of a file that is being written; where it stays, its writer died. Nobody reads it."""


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below to disk, so that a later rename cannot overtake their contents."""
    for here, _, names in os.walk(folder):
        for name in names:
            handle = os.open(Path(here) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(here))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # as UNFINISHED has it


def _write_new(path: Path, data: bytes, *, durable: bool) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whole, over an older one; not durable: without waiting for the disk."""
    temporary = _beside(path)
    try:
        _write_new(temporary, data, durable=durable)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def create_file(path: Path, data: bytes, *, durable: bool = True) -> bool:
    """Write a file whole where there is none.

    Args:
        path: the file; its folder must be there.
        data: its contents.
        durable: wait until a power cut can no longer undo it.

    Returns:
        Whether this call made it; False where it was there already.
    """
    temporary = _beside(path)
    try:
        _write_new(temporary, data, durable=durable)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if not _create_exclusive(path, data, durable=durable):
                return False
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)
    return True


def _create_exclusive(path: Path, data: bytes, *, durable: bool) -> bool:
    try:
        _write_new(path, data, durable=durable)
    except FileExistsError:
        return False
    return True


def delete_file_if(path: Path, data: bytes) -> bool:
    """Delete a file that still holds these bytes. Returns whether it went."""
    aside = _beside(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    try:
        if aside.read_bytes() == data:
            return True
        with contextlib.suppress(OSError):
            os.link(aside, path)  # another's, made meanwhile: back with it
        return False
    finally:
        aside.unlink(missing_ok=True)


def parse_json(data: bytes | None) -> Any:
    """What a file's bytes say, or None where it is absent or cut short."""
    with contextlib.suppress(ValueError):
        return None if data is None else json.loads(data)
    return None


def to_json(value: Any) -> bytes:
    """Readable JSON."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
