"""Copies of slides on a fast disk, made ahead of the decoder and gone after it.

    STAGE/.pathotune-<owner>/<digest>-<bytes>/whole/<the slide and its companions>

A folder belongs to a process; where that process is gone, the next run clears it. What all copies on a machine take
together stays within the budget: room is claimed under a lock on STAGE before a byte is copied. A worker never waits
for room: where there is none it reads the slide where it lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pathotune_pipeline.archive.companions import companion_files, state_of
from pathotune_pipeline.errors import SlideChangedError, SlideError, UsageError
from pathotune_pipeline.features.plan import SlideJob, StagingSpec
from pathotune_pipeline.store.owner import is_gone, is_here, owner_name

PREFIX = ".pathotune-"
"""Hidden, so that a look for slides passes it over."""
ABANDONED_S = 7 * 24 * 3600.0
_POLL_S = 0.1
_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
_ENTRY = re.compile(r"^[0-9a-f]{32}-(\d+)$")


def budget_bytes(spec: StagingSpec) -> int:
    """The budget in bytes."""
    return int(float(spec.stage_budget[:-2]) * _UNITS[spec.stage_budget[-2:].upper()])


class Stage:
    """Copies of slides that belong to one process of this machine."""

    def __init__(self, spec: StagingSpec, owner: str) -> None:
        """Look at a stage.

        Args:
            spec: with `stage` given.
            owner: name of the process whose copies these are.
        """
        self._folder = Path(spec.stage or "").absolute()
        self._root = self._folder / f"{PREFIX}{owner}"
        self._budget = budget_bytes(spec)

    def prepare(self) -> None:
        """Clear what dead processes left, and make the folder.

        Raises:
            UsageError: it cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for folder in self._folder.glob(f"{PREFIX}*"):
                if _is_abandoned(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            self._root.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--stage {self._folder}: cannot write there ({error.strerror or error}). Give a folder on a local disk."
            ) from None

    def fetch(self, path: Path) -> Path | None:
        """A copy of a slide with all its companions: one that is there, or one made now.

        Returns:
            Its path; None where there is no room for it.

        Raises:
            SlideChangedError: the slide changed while it was copied.
            OSError: the slide cannot be read.
        """
        state, files, size = _measure(path)
        entry = self._entry(state, size)
        while not (entry / "whole").is_dir():
            if self._claim(entry, size):
                return self._copy(path, files, state, entry)
            if not entry.is_dir():
                return None
            owner = entry / "owner"
            if owner.is_file() and is_gone(owner.read_text()):
                shutil.rmtree(entry, ignore_errors=True)
            time.sleep(_POLL_S)  # another process is copying it
        return entry / "whole" / path.name

    def has_room(self, path: Path) -> bool | None:
        """Whether a slide could be copied now; None where it never can."""
        try:
            size = _measure(path)[2]
        except OSError:
            return None
        if size > self._budget:
            return None
        return self._taken() + size <= self._budget

    def drop(self, path: Path, copy: Path | None = None) -> None:
        """Delete a slide's copy.

        Args:
            path: the slide where it lies.
            copy: what `fetch` gave for it; the slide may have changed since.
        """
        if copy is not None:
            self._drop(copy.parent.parent)
        with contextlib.suppress(OSError):
            state, _, size = _measure(path)
            self._drop(self._entry(state, size))

    def close(self) -> None:
        """Remove the folder, if nothing is left in it."""
        with contextlib.suppress(OSError):
            self._root.rmdir()

    def _entry(self, state: str, size: int) -> Path:
        return self._root / f"{hashlib.sha256(state.encode(errors='surrogateescape')).hexdigest()[:32]}-{size}"

    def _drop(self, entry: Path) -> None:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)

    def _taken(self) -> int:
        """Bytes that all copies on this machine take, or will when they are whole."""
        names = (entry.name for folder in self._folder.glob(f"{PREFIX}*") for entry in folder.iterdir())
        return sum(int(match[1]) for match in map(_ENTRY.match, names) if match)

    def _claim(self, entry: Path, size: int) -> bool:
        """Take room for a copy. False where there is none, or another process has taken it."""
        with contextlib.suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if entry.exists() or self._taken() + size > self._budget:
                    return False
                entry.mkdir()
                (entry / "owner").write_text(owner_name())
                return True
            finally:
                os.close(handle)
        return False

    def _copy(self, path: Path, files: Sequence[Path], state: str, entry: Path) -> Path | None:
        part = entry / "part"
        try:
            for file in files:
                target = part / file.relative_to(path.parent)
                if not _copy_file(file, target):
                    self._drop(entry)
                    return None
            if state_of(path) != state:
                raise SlideChangedError(
                    "its file changed while it was copied. Let it be written whole, then run again."
                )
            part.rename(entry / "whole")
        except BaseException:
            self._drop(entry)
            raise
        return entry / "whole" / path.name


def _measure(path: Path) -> tuple[str, list[Path], int]:
    files = companion_files(path)
    size = sum(file.stat().st_size for file in files)
    return state_of(path) or "", files, size


def _copy_file(source: Path, target: Path) -> bool:
    """Copy a file. False where the copy cannot be written.

    Raises:
        OSError: the source cannot be read.
        SlideChangedError: the copy is not as long as the source was.
    """
    wanted = source.stat().st_size
    with source.open("rb") as reading:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            writing = target.open("xb")
        except OSError:
            return False
        with writing:
            while block := reading.read(1 << 22):
                try:
                    writing.write(block)
                except OSError:
                    return False
    if target.stat().st_size != wanted:
        raise SlideChangedError("its file changed while it was copied. Let it be written whole, then run again.")
    return True


def _is_abandoned(folder: Path) -> bool:
    gone = is_gone(folder.name.removeprefix(PREFIX))
    if gone is not None:
        return gone
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) > ABANDONED_S
    except OSError:
        return False


@contextlib.contextmanager
def staged(job: SlideJob) -> Iterator[SlideJob]:
    """A job on a copy of its slide, where copies are asked for and there is room; else the job as it is.

    What is known of the slide's contents is left out of it: the copy is hashed, so that its features are those of the
    very bytes that were read.
    """
    spec = job.recipe.spec.staging
    if spec.stage is None:
        yield job
        return
    here = is_here(job.planner)
    stage = Stage(spec, job.planner if here else owner_name())
    copy: Path | None = None
    with contextlib.suppress(OSError, SlideError, UsageError):  # reading it where it lies tells what is wrong with it
        if not here:
            stage.prepare()
        copy = stage.fetch(job.item.path)
    try:
        if copy is None:
            yield job
        else:
            yield replace(job, item=replace(job.item, path=copy), identity=None, state=None)
    finally:
        stage.drop(job.item.path, copy)
        if not here:
            stage.close()


class Prefetcher:
    """Copies slides in the order in which they will be read, as far ahead as the budget goes."""

    def __init__(self, jobs: Sequence[SlideJob]) -> None:
        """Begin.

        Args:
            jobs: at least one, with `stage` given.

        Raises:
            UsageError: the stage cannot be written.
        """
        self._stage = Stage(jobs[0].recipe.spec.staging, jobs[0].planner)
        self._stage.prepare()
        self._paths = [job.item.path for job in jobs]
        self._done: set[Path] = set()
        self._copies: dict[Path, Path | None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pathotune-stage", daemon=True)
        self._thread.start()

    def done(self, job: SlideJob) -> None:
        """Say that a slide is not to be copied any more; its copy goes."""
        self._done.add(job.item.path)
        self._stage.drop(job.item.path, self._copies.get(job.item.path))

    def close(self) -> None:
        """Stop, and delete the copies that nobody came for."""
        self._stop.set()
        self._thread.join()
        for path in self._paths:
            self._stage.drop(path, self._copies.get(path))
        self._stage.close()

    def _run(self) -> None:
        for path in self._paths:
            while not self._stop.is_set() and path not in self._done:
                room = self._stage.has_room(path)
                if room is None:
                    break
                if room:
                    with contextlib.suppress(OSError, SlideError):  # its job will say what is wrong with it
                        self._copies[path] = self._stage.fetch(path)
                    if path in self._done:
                        self._stage.drop(path, self._copies.get(path))
                    break
                self._stop.wait(_POLL_S)
