"""Files that appear in a folder whole or not at all, and are left alone where they are there already."""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pathotune_pipeline.errors import OutputExistsError, UsageError
from pathotune_pipeline.store.files import sync_folder, sync_tree
from pathotune_pipeline.store.layout import MARKER

PARTIAL = ".partial"
"""Folder of files that are being written; gone when the export ends, cleared by the next one where it was killed."""

Write = Callable[[Path], None]
"""Writes one file or folder at the place it is given."""


class Outbox:
    """A folder that is being filled by one export at a time. A context manager."""

    def __init__(self, out: Path, *, overwrite: bool) -> None:
        self._out = out
        self._partial = out / PARTIAL
        self._overwrite = overwrite
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Take the folder.

        Raises:
            UsageError: it cannot be written, is a store, or another export is writing there.
        """
        if (self._out / MARKER).exists():
            raise UsageError(f"--out {self._out}: this is a store. Give another folder.")
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._partial / "lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise UsageError(f"--out {self._out}: another export is writing there. Wait for it to end.") from None
        except OSError as error:
            self._release()
            raise UsageError(f"--out {self._out}: cannot write there ({error.strerror or error}).") from None
        for left in self._partial.iterdir():
            if left.name != "lock":
                _remove(left)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def put(self, files: Mapping[str, Write], *, overwrite: bool = False) -> bool:
        """Write files that belong together: all of them, or, where one may not be replaced, none.

        Args:
            files: path below the folder, and what writes it. They appear in this order.
            overwrite: replace what differs, whatever the export was told.

        Returns:
            Whether anything changed; False where every file was there already with the same bytes.

        Raises:
            OutputExistsError: another file lies at one of the places, and may not be replaced.
        """
        made: list[tuple[Path, Path]] = []
        try:
            for number, (name, write) in enumerate(files.items()):
                draft, target = self._partial / f"{number}{Path(name).suffix}", self._out / name
                made.append((draft, target))
                write(draft)
            changed = [(draft, target) for draft, target in made if not _same(draft, target)]
            if not (self._overwrite or overwrite):
                for _, target in changed:
                    if target.exists():
                        raise OutputExistsError(
                            f"{target.relative_to(self._out)} is there already and holds something else. Give "
                            "--overwrite to replace it, or another --out."
                        )
            for draft, target in changed:
                self._place(draft, target)
        finally:
            for draft, _ in made:
                _remove(draft)
        return bool(changed)

    def _place(self, draft: Path, target: Path) -> None:
        if draft.is_dir():
            sync_tree(draft)
        else:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = self._partial / "replaced"
        if target.is_dir():
            target.rename(aside)  # a folder cannot be replaced in one step
        draft.replace(target)
        _remove(aside)
        sync_folder(target.parent)


def _same(one: Path, other: Path) -> bool:
    if one.is_file() or other.is_file():
        return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
    if not (one.is_dir() and other.is_dir()):
        return False
    ours, theirs = ({path.relative_to(top) for path in top.rglob("*")} for top in (one, other))
    return ours == theirs and all(
        (one / name).is_dir() == (other / name).is_dir()
        and ((one / name).is_dir() or filecmp.cmp(one / name, other / name, shallow=False))
        for name in ours
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
