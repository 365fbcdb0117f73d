"""The store: what is committed, and how to read it.

What is done is what has a record under the right fingerprint; nothing else is asked. A check whether work is left
lists folders and opens no array.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pathotune_pipeline.errors import CorruptDataError, NotCommittedError, StoreError, StoreUnwritableError, UsageError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json, to_json
from pathotune_pipeline.store.layout import SetName, Stage, slug
from pathotune_pipeline.store.owner import is_gone, owner_name
from pathotune_pipeline.store.place import LocalPlace, Place, StoredFile, place_of
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
    """A store. Any number of processes may read and write at once."""

    def __init__(self, where: Path | str | Place) -> None:
        self.place = place_of(where)
        self.staging = f"{layout.STAGING}/{owner_name()}"
        self._remembered: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        """What opens the same store elsewhere: an absolute path, or a URL."""
        return str(self.place.root.absolute()) if isinstance(self.place, LocalPlace) else self.place.address

    @property
    def name(self) -> str:
        """The last part of the store's address."""
        return self.address.rstrip("/").rpartition("/")[2]

    @property
    def root(self) -> Path:
        """The store's folder.

        Raises:
            StoreError: it lies in none.
        """
        if not isinstance(self.place, LocalPlace):
            raise StoreError(f"--store {self.place.address}: this needs a store on a disk or a mount.")
        return self.place.root

    @property
    def runs(self) -> Place:
        """Where records of runs lie."""
        return self.place.below(layout.RUNS)

    @property
    def identity_file(self) -> StoredFile:
        """Content hashes of files; may be deleted."""
        return StoredFile(self.place, f"{layout.CACHE}/identity.json")

    @property
    def data(self) -> Path:
        """The Zarr hierarchy of a store on a disk."""
        return self.root / layout.DATA

    # --- writing ---------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Make the store's folders where they are missing.

        Raises:
            UsageError: the place cannot be written, or holds something that is no store of this format.
        """
        self.check()
        try:
            if isinstance(self.place, LocalPlace):
                with self.place.writing():
                    for folder in layout.FOLDERS:
                        (self.root / folder).mkdir(parents=True, exist_ok=True)
            self.place.create(layout.MARKER, to_json({"format": layout.FORMAT, "what": "pathotune_pipeline store"}))
            root_group = {"zarr_format": 3, "node_type": "group", "attributes": {"pathotune_format": layout.FORMAT}}
            self.place.create(f"{layout.DATA}/zarr.json", to_json(root_group))
        except StoreUnwritableError as error:
            raise UsageError(str(error).replace("cannot be written", "cannot write there")) from None
        except OSError as error:
            raise UsageError(
                f"--store {self.place.address}: cannot write there ({error.strerror or error}). "
                "Give a folder on a disk that can be written and has room."
            ) from None
        self._check_format()

    def check(self) -> bool:
        """Whether there is a store already; False where one can be made. Writes nothing.

        Raises:
            UsageError: the place holds other things, or a store of another format.
        """
        if self.place.exists(layout.MARKER):
            self._check_format()
            return True
        try:
            strangers = [
                name for name in self.place.names("") if name not in layout.FOLDERS and layout.MARKER not in name
            ]
        except OSError as error:
            raise UsageError(
                f"--store {self.place.address}: cannot be looked at ({error.strerror or error}). Check the path."
            ) from None
        if strangers:
            raise UsageError(
                f"--store {self.place.address}: the folder holds other things and no {layout.MARKER}. "
                "Give an empty folder, a new one, or an existing store."
            )
        return False

    def _check_format(self) -> None:
        found = parse_json(self.place.read(layout.MARKER))
        number = found.get("format") if isinstance(found, dict) else None
        if number != layout.FORMAT:
            raise UsageError(
                f"--store {self.place.address}: its format is {number!r}, this version reads {layout.FORMAT}. "
                "Use the version that wrote it, or another folder."
            )

    def stage(self, slide_id: str, slide_key: str, set_name: SetName, fingerprint: str) -> StagedGroup:
        """Begin to write one slide's group of a set. Nothing is visible before its commit.

        Raises:
            StoreUnwritableError: the store is full, read-only or forbidden.
        """
        meta = f"{layout.DATA}/{slide_key}/zarr.json"
        if not self.place.exists(meta):
            attributes = {"zarr_format": 3, "node_type": "group", "attributes": {"slide_id": slide_id}}
            self.place.create(meta, to_json(attributes))
        short = fingerprint[:12]
        group = f"{slide_key}/{set_name.group(short)}"
        return StagedGroup(self.place, self.staging, group, record_name(set_name, slide_key, short))

    def clear_abandoned(self) -> int:
        """Delete the staging of processes that are gone. Returns how many folders went."""
        gone = self.abandoned()
        for folder in gone:
            with contextlib.suppress(OSError):
                self.place.delete_tree(folder)
        return len(gone)

    def abandoned(self) -> list[str]:
        """Staging of processes that are gone."""
        folders = (f"{layout.STAGING}/{name}" for name in sorted(self.place.names(layout.STAGING)))
        return [folder for folder in folders if folder != self.staging and self._is_abandoned(folder)]

    def _is_abandoned(self, folder: str) -> bool:
        gone = is_gone(folder.rpartition("/")[2])
        if gone is not None:
            return gone
        try:
            return time.time() - self.place.changed_s(folder) > ABANDONED_S
        except OSError:
            return False

    def close_staging(self) -> None:
        """Remove this process's empty staging folder."""
        if isinstance(self.place, LocalPlace):
            with contextlib.suppress(OSError):
                self.place.path(self.staging).rmdir()

    # --- what is there ---------------------------------------------------------------------------------------------

    def sets(self, stage: Stage | None = None) -> list[SetName]:
        """Names of the sets that have at least one commit."""
        names = (SetName.parse(name) for name in sorted(self.place.names(layout.COMMITS)) if SetName.is_one(name))
        return [name for name in names if stage in (None, name.stage) and self.committed(name)]

    def committed(self, set_name: SetName) -> set[tuple[str, str]]:
        """(slide key, 12 digits of the fingerprint) of every commit of a set: one listing, no file opened."""
        names = self.place.names(f"{layout.COMMITS}/{set_name}")
        pairs = (name[: -len(".json")].rpartition("@") for name in names if name.endswith(".json") and name[0] != ".")
        return {(key, short) for key, _, short in pairs}

    def is_committed(self, set_name: SetName, slide_key: str, fingerprint: str) -> bool:
        return self.place.exists(record_name(set_name, slide_key, fingerprint[:12]))

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
            verb = "encode-slides" if stage == "embeddings" else "extract"
            raise UsageError(f"{self.place.address}: no {stage} are committed yet. Run `pathotune {verb}` first.")
        listed = ", ".join(str(found).removeprefix(f"{stage}-") for found in matches or known)
        if matches:
            raise UsageError(f"--{stage} {name!r} could mean {len(matches)} sets: {listed}. Give one in full.")
        hint = nearest(name, [found.label for found in known])
        raise UsageError(f"--{stage} {name!r}: no such set is in the store. Known: {listed}.{hint}")

    def record(self, set_name: SetName, slide_key: str, fingerprint: str) -> CommitRecord:
        """One commit's record.

        Raises:
            NotCommittedError: there is none.
        """
        name = record_name(set_name, slide_key, fingerprint[:12])
        facts = parse_json(self._remembered.get(name) or self.place.read(name))
        if not isinstance(facts, dict):
            raise NotCommittedError(f"{slide_key}: nothing is committed under {set_name} and {fingerprint[:12]}.")
        return CommitRecord(facts["slide_id"], set_name, facts["fingerprint"], facts["group"], facts)

    def remember(self, set_name: SetName) -> None:
        """Read a set's records at once, where each reading would go over a network; they are asked for from memory then."""
        if not isinstance(self.place, LocalPlace):
            names = (record_name(set_name, key, short) for key, short in self.committed(set_name))
            self._remembered |= self.place.read_many(names)

    def group_of(self, set_name: SetName, slide_key: str, fingerprint: str) -> str:
        """Path of a committed group below data.zarr.

        Raises:
            NotCommittedError: there is none.
        """
        if self.place.renames:
            return f"{slide_key}/{set_name.group(fingerprint[:12])}"
        return self.record(set_name, slide_key, fingerprint).group

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
        name = record_name(set_name, slide_key, short)
        self._remembered.pop(name, None)
        self.place.replace(name, to_json(facts))
        return True

    def records(self, set_name: SetName) -> dict[str, CommitRecord]:
        """The newest commit of each slide in a set, by slide id, in the order of the ids."""
        self.remember(set_name)
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
        return zarr.open_group(self.place.zarr(f"{layout.DATA}/{record.group}"), mode="r")

    def attributes(self, records: Iterable[CommitRecord]) -> dict[str, dict[str, Any]]:
        """Attributes of committed groups by their path; of one that cannot be read there are none. Opens no array."""
        named = {f"{layout.DATA}/{record.group}/zarr.json": record.group for record in records}
        found = {}
        for name, data in self.place.read_many(named).items():
            told = parse_json(data)
            if isinstance(told, dict) and isinstance(told.get("attributes"), dict):
                found[named[name]] = told["attributes"]
        return found

    def read(self, record: CommitRecord, name: str) -> np.ndarray:
        """One array of a committed group, whole.

        Raises:
            CorruptDataError: the array is missing or cannot be decoded.
        """
        try:
            where = self.place.zarr(f"{layout.DATA}/{record.group}/{name}")
            return np.asarray(zarr.open_array(where, mode="r", zarr_format=3)[...])
        except (KeyError, OSError, ValueError, RuntimeError) as error:
            said = str(error).replace(self.address, "").replace(self.place.address, "")  # messages name no place
            raise CorruptDataError(
                f"{record.group}/{name} is committed and cannot be read ({type(error).__name__}: {said}). "
                f"Restore it from a backup, or delete its record under {layout.COMMITS}/{record.set_name} and extract again."
            ) from error

    def embeddings(self, set_name: SetName) -> dict[str, np.ndarray]:
        """A set's vectors, float32 [D], by slide id, in the order of the ids; of each slide the newest.

        Raises:
            CorruptDataError: what was committed cannot be read.
        """
        return {slide_id: self.read(record, "embedding") for slide_id, record in self.records(set_name).items()}

    def verify(self, record: CommitRecord) -> None:
        """Compare a committed group with its record's checksums.

        Raises:
            CorruptDataError: they differ.
        """
        try:
            found = group_checksums(self.place.zarr(f"{layout.DATA}/{record.group}"))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CorruptDataError(f"{record.group}: cannot be read ({type(error).__name__}: {error}).") from error
        if found != record.facts["checksums"]:
            raise CorruptDataError(f"{record.group}: its data are not what was committed.")


def open_store(root: str | Path) -> FeatureStore:
    """Open an existing store for reading.

    Raises:
        UsageError: there is no store at that place.
    """
    store = FeatureStore(root)
    if not store.place.exists(layout.MARKER):
        found = "a folder without store.json" if store.place.names("") else "nothing"
        if isinstance(store.place, LocalPlace) and store.root.is_dir():
            found = "a folder without store.json"
        raise UsageError(f"--store {root}: a store is needed, {found} was found. Run `pathotune extract` to make one.")
    store.check()
    return store


def record_name(set_name: SetName, slide_key: str, short: str) -> str:
    """Name of a commit record in the store."""
    return f"{layout.COMMITS}/{set_name}/{slide_key}@{short}.json"


def _means(set_name: SetName, text: str) -> bool:
    tail = f"{set_name.label}-{set_name.recipe}"
    starts = [text] if text.endswith("+") else [f"{text}-", f"{slug(text)}-"]  # or an encoder as extract took it
    return tail == text or any(tail.startswith(start) for start in starts)
