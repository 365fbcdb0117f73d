"""The store: what is committed, and how to read it.

What is done is what has a record under the right fingerprint; nothing else is asked. A check whether work is left
lists folders and opens no array.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

from pathotune_pipeline.errors import CorruptDataError, NotCommittedError, UsageError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import create_file, read_json, replace_file, to_json
from pathotune_pipeline.store.layout import SetName, Stage
from pathotune_pipeline.store.write import StagedGroup, group_checksums

ABANDONED_S = 7 * 24 * 3600.0
"""Staging of another machine is cleared when it has not changed for so long."""


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What one commit says.

    Attributes:
        slide_id: whose data.
        set_name: of which recipe.
        fingerprint: 64 hexadecimal digits: recipe and slide contents.
        group: path of the group below data.zarr.
        facts: everything else: counts, parents, checksums, times, settings.
    """

    slide_id: str
    set_name: SetName
    fingerprint: str
    group: str
    facts: dict[str, Any]

    def made_from(self, stage: Stage) -> CommitRecord:
        """The tissue or tiles that features were made from, by the names that their record holds."""
        fingerprint, group = self.facts[f"{stage}_fingerprint"], self.facts[f"{stage}_group"]
        return CommitRecord(self.slide_id, self.set_name, str(fingerprint), str(group), self.facts)


class FeatureStore:
    """A store on a file system. Any number of processes may read and write at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / layout.DATA
        self.runs = root / layout.RUNS
        self.identity_file = root / layout.CACHE / "identity.json"
        self._staging = root / layout.STAGING / _owner()

    # --- writing ---------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Make the store's folders where they are missing.

        Raises:
            UsageError: the place cannot be written, or holds something that is no store of this format.
        """
        marker = self.root / layout.MARKER
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if not marker.exists() and self._strangers():
                raise UsageError(
                    f"--store {self.root}: the folder holds other things and no {layout.MARKER}. "
                    "Give an empty folder, a new one, or an existing store."
                )
            for folder in layout.FOLDERS:
                (self.root / folder).mkdir(exist_ok=True)
            create_file(marker, to_json({"format": layout.FORMAT, "what": "pathotune_pipeline store"}))
            root_group = {"zarr_format": 3, "node_type": "group", "attributes": {"pathotune_format": layout.FORMAT}}
            create_file(self.data / "zarr.json", to_json(root_group))
        except OSError as error:
            raise UsageError(
                f"--store {self.root}: cannot write there ({error.strerror or error}). "
                "Give a folder on a disk that can be written and has room."
            ) from None
        self._check_format()

    def _strangers(self) -> list[str]:
        """What lies in the store's folder that no process making this store would have put there."""
        return [
            path.name
            for path in self.root.iterdir()
            if path.name not in layout.FOLDERS and layout.MARKER not in path.name
        ]

    def _check_format(self) -> None:
        found = read_json(self.root / layout.MARKER)
        number = found.get("format") if isinstance(found, dict) else None
        if number != layout.FORMAT:
            raise UsageError(
                f"--store {self.root}: its format is {number!r}, this version reads {layout.FORMAT}. "
                "Use the version that wrote it, or another folder."
            )

    def stage(self, slide_id: str, slide_key: str, set_name: SetName, fingerprint: str) -> StagedGroup:
        """Begin to write one slide's group of a set. Nothing is visible before its commit."""
        group = self.data / slide_key
        group.mkdir(exist_ok=True)
        meta = {"zarr_format": 3, "node_type": "group", "attributes": {"slide_id": slide_id}}
        if not (group / "zarr.json").exists():
            create_file(group / "zarr.json", to_json(meta))
        short = fingerprint[:12]
        target = group / set_name.group(short)
        return StagedGroup(self._staging, target, self._record_path(set_name, slide_key, short))

    def clear_abandoned(self) -> int:
        """Delete the staging of processes that are gone. Returns how many folders went."""
        gone = 0
        staging = self.root / layout.STAGING
        for folder in list(staging.iterdir()) if staging.is_dir() else []:
            if folder != self._staging and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                gone += 1
        return gone

    def close_staging(self) -> None:
        """Remove this process's empty staging folder."""
        with contextlib.suppress(OSError):
            self._staging.rmdir()

    # --- what is there ---------------------------------------------------------------------------------------------

    def _record_path(self, set_name: SetName, slide_key: str, short: str) -> Path:
        return self.root / layout.COMMITS / str(set_name) / f"{slide_key}@{short}.json"

    def sets(self, stage: Stage | None = None) -> list[SetName]:
        """Names of the sets that have at least one commit."""
        commits = self.root / layout.COMMITS
        names = (SetName.parse(folder.name) for folder in sorted(commits.iterdir()) if folder.is_dir())
        return [name for name in names if stage in (None, name.stage) and self.committed(name)]

    def committed(self, set_name: SetName) -> set[tuple[str, str]]:
        """(slide key, 12 digits of the fingerprint) of every commit of a set: one listing, no file opened."""
        folder = self.root / layout.COMMITS / str(set_name)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return set()
        pairs = (name[: -len(".json")].rpartition("@") for name in names if name.endswith(".json") and name[0] != ".")
        return {(key, short) for key, _, short in pairs}

    def is_committed(self, set_name: SetName, slide_key: str, fingerprint: str) -> bool:
        return self._record_path(set_name, slide_key, fingerprint[:12]).exists()

    def find_set(self, name: str, stage: Stage = "features") -> SetName:
        """The set a user means: its full name, or any beginning of it or of its label that names just one.

        Raises:
            UsageError: none, or several; the message lists them.
        """
        known = self.sets(stage)
        exact = [found for found in known if name in (str(found), str(found).removeprefix(f"{stage}-"))]
        matches = exact or [found for found in known if _means(found, name)]
        if len(matches) == 1:
            return matches[0]
        if not known:
            raise UsageError(f"{self.root}: no {stage} are committed yet. Run `pathotune extract` first.")
        listed = ", ".join(str(found).removeprefix(f"{stage}-") for found in matches or known)
        if matches:
            raise UsageError(f"--features {name!r} could mean {len(matches)} sets: {listed}. Give one in full.")
        hint = nearest(name, [found.label for found in known])
        raise UsageError(f"--features {name!r}: no such set is in the store. Known: {listed}.{hint}")

    def record(self, set_name: SetName, slide_key: str, fingerprint: str) -> CommitRecord:
        """One commit's record.

        Raises:
            NotCommittedError: there is none.
        """
        facts = read_json(self._record_path(set_name, slide_key, fingerprint[:12]))
        if not isinstance(facts, dict):
            raise NotCommittedError(f"{slide_key}: nothing is committed under {set_name} and {fingerprint[:12]}.")
        return CommitRecord(facts["slide_id"], set_name, facts["fingerprint"], facts["group"], facts)

    def renew(self, set_name: SetName, slide_key: str, fingerprint: str) -> bool:
        """Make a commit its slide's newest, so that readers take what was asked for last.

        Returns:
            Whether anything had to be written.
        """
        short = fingerprint[:12]
        others = [other for key, other in self.committed(set_name) if key == slide_key and other != short]
        facts = self.record(set_name, slide_key, fingerprint).facts
        newest = max((self.record(set_name, slide_key, each).facts["committed_ns"] for each in others), default=0)
        if newest < facts["committed_ns"]:
            return False
        facts["committed_ns"] = max(time.time_ns(), newest + 1)
        replace_file(self._record_path(set_name, slide_key, short), to_json(facts))
        return True

    def records(self, set_name: SetName) -> dict[str, CommitRecord]:
        """The newest commit of each slide in a set, by slide id, in the order of the ids."""
        newest: dict[str, CommitRecord] = {}
        for key, short in self.committed(set_name):
            record = self.record(set_name, key, short)
            other = newest.get(record.slide_id)
            if other is None or other.facts["committed_ns"] < record.facts["committed_ns"]:
                newest[record.slide_id] = record
        return dict(sorted(newest.items()))

    # --- reading ---------------------------------------------------------------------------------------------------

    def group(self, record: CommitRecord) -> zarr.Group:
        """The committed group, read-only."""
        return zarr.open_group(self.data / record.group, mode="r")

    def read(self, record: CommitRecord, name: str) -> np.ndarray:
        """One array of a committed group, whole.

        Raises:
            CorruptDataError: the array is missing or cannot be decoded.
        """
        try:
            array = self.group(record)[name]
            return np.asarray(array[...])
        except (KeyError, OSError, ValueError, RuntimeError) as error:
            raise CorruptDataError(
                f"{record.group}/{name} is committed and cannot be read ({type(error).__name__}: {error}). "
                f"Restore it from a backup, or delete its record under {layout.COMMITS}/{record.set_name} and extract again."
            ) from error

    def verify(self, record: CommitRecord) -> None:
        """Compare a committed group with its record's checksums.

        Raises:
            CorruptDataError: they differ.
        """
        try:
            found = group_checksums(self.data / record.group)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CorruptDataError(f"{record.group}: cannot be read ({type(error).__name__}: {error}).") from error
        if found != record.facts["checksums"]:
            raise CorruptDataError(f"{record.group}: its data are not what was committed.")


def open_store(root: str | Path) -> FeatureStore:
    """Open an existing store for reading.

    Raises:
        UsageError: there is no store at that place.
    """
    store = FeatureStore(Path(root))
    if not (store.root / layout.MARKER).is_file():
        found = "a folder without store.json" if store.root.is_dir() else "nothing"
        raise UsageError(f"--store {root}: a store is needed, {found} was found. Run `pathotune extract` to make one.")
    store._check_format()
    return store


def _means(set_name: SetName, text: str) -> bool:
    tail = f"{set_name.label}-{set_name.recipe}"
    return tail == text or tail.startswith(f"{text}-")


def _owner() -> str:
    """A name for this process that no other living process of any machine has: system, pid, start time."""
    return f"{_system()}-{os.getpid()}-{int(psutil.Process().create_time() * 100)}"


def _system() -> str:
    """This boot of this machine, and this container of it: a pid means something only inside it."""
    parts = [os.uname().nodename]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(name) if "ns" in name.split("/") else Path(name).read_text().strip())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]


def _is_abandoned(folder: Path) -> bool:
    system, _, rest = folder.name.partition("-")
    pid, _, started = rest.partition("-")
    if system == _system() and pid.isdigit() and started.isdigit():
        try:
            return abs(psutil.Process(int(pid)).create_time() * 100 - int(started)) > 200
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False
    try:
        newest = max((path.stat().st_mtime for path in folder.rglob("*")), default=folder.stat().st_mtime)
    except OSError:
        return False
    return time.time() - newest > ABANDONED_S
