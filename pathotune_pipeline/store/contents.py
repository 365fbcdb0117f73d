"""Everything that lies in a store: every record by its group, and what no record speaks of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import UNFINISHED, parse_json
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.leases import all_leases
from pathotune_pipeline.store.ledger import ledger_faults
from pathotune_pipeline.store.owner import is_gone
from pathotune_pipeline.store.store import CommitRecord, FeatureStore, record_name

_NEEDED = ("slide_id", "fingerprint", "group", "checksums", "committed_ns")


@dataclass(slots=True)
class Contents:
    """What lies in a store.

    Attributes:
        records: every commit, by its group below data.zarr.
        broken: records and other files that cannot be right, with the reason, by path below the store.
        orphans: groups that no record speaks of, by path below the store.
        bare: slides' groups with nothing committed in them.
        temporary: files whose writer died.
        staging: folders of processes that are gone.
        leases: names of leases whose process is gone.
    """

    records: dict[str, CommitRecord] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    staging: list[str] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)

    @property
    def left(self) -> list[tuple[str, str]]:
        """What nobody reads, by path below the store, with what it is."""
        kinds = (
            (self.orphans, "a group without a record, of a process that died or of deleted features"),
            (self.bare, "a slide's group with nothing in it"),
            (self.temporary, "a file that was never finished"),
            (self.staging, "staging of a process that is gone"),
            ([f"{layout.LEASES}/{name}.json" for name in self.leases], "a lease of a process that is gone"),
        )
        return [(where, what) for places, what in kinds for where in places]


def read_contents(store: FeatureStore) -> Contents:
    """Look at everything in a store. Reads every record, and no array."""
    contents = Contents()
    _read_format(store, contents)
    for folder in sorted(store.place.names(layout.COMMITS)):
        if SetName.is_one(folder):
            _read_set(store, SetName.parse(folder), contents)
        else:
            contents.broken[f"{layout.COMMITS}/{folder}"] = "is no set of this store. Move it elsewhere."
    for slide in sorted(store.place.names(layout.DATA)):
        if slide != "zarr.json":
            _read_slide(store, slide, contents)
    for folder in (layout.MASKS, layout.REVIEWS, layout.DEATHS, layout.LEDGER, layout.MODELS, layout.CACHE, ""):
        _note_temporary(folder, store.place.names(folder), contents)
    contents.broken |= ledger_faults(store)
    for name in store.place.names(layout.FORGETTING):
        what = "a case was not forgotten to its end. Run `pathotune forget --yes` on this store: it goes on."
        contents.broken[f"{layout.FORGETTING}/{name}"] = what
    contents.staging = store.abandoned()
    leases = all_leases(store.place)
    contents.leases = [held.name for held in leases if is_gone(held.owner)]
    _leave_alone([held.name for held in leases if not is_gone(held.owner)], contents)
    return contents


def _leave_alone(leases: list[str], contents: Contents) -> None:
    """Take what living runs may be at off the lists."""
    if not leases:
        return
    pairs = [name.partition("/") for name in leases]
    busy = {slide for _, _, slide in pairs}
    whole = [SetName.parse(name) for name, _, slide in pairs if slide == layout.WHOLE_SET and SetName.is_one(name)]
    groups = tuple(found.group("") for found in whole)
    contents.temporary = []
    apart = [(where, *where.split("/")[1:3]) for where in contents.orphans]
    contents.orphans = [where for where, slide, group in apart if slide not in busy and not group.startswith(groups)]
    contents.bare = [where for where in contents.bare if where.split("/")[1] not in busy]


def _read_format(store: FeatureStore, contents: Contents) -> None:
    root = parse_json(store.place.read(f"{layout.DATA}/zarr.json"))
    if not isinstance(root, dict) or root.get("node_type") != "group" or root.get("zarr_format") != 3:
        contents.broken[f"{layout.DATA}/zarr.json"] = (
            "is not the root of a Zarr v3 hierarchy; `pathotune extract` makes it."
        )


def _read_set(store: FeatureStore, set_name: SetName, contents: Contents) -> None:
    folder = f"{layout.COMMITS}/{set_name}"
    names = store.place.names(folder)
    _note_temporary(folder, names, contents)
    for name in sorted(names):
        if not name.startswith(".") and not name.endswith(".json"):
            contents.broken[f"{folder}/{name}"] = "is no record. Move it elsewhere."
    pairs = {record_name(set_name, key, short): (key, short) for key, short in store.committed(set_name)}
    read = store.place.read_many(pairs)
    for where, (key, short) in sorted(pairs.items()):
        facts = parse_json(read.get(where))
        if not isinstance(facts, dict) or not {*_NEEDED} <= facts.keys():
            contents.broken[where] = "is no whole record. Delete it and extract again."
            continue
        record = CommitRecord(facts["slide_id"], set_name, facts["fingerprint"], facts["group"], facts)
        plain = f"{key}/{set_name.group(short)}"
        own = re.fullmatch(re.escape(plain) + r"(~[0-9a-f]{8})?", record.group)  # with an ending on an object store
        if record.fingerprint[:12] != short or not own:
            contents.broken[where] = (
                f"its name does not fit what it holds ({record.fingerprint[:12]}, {record.group}). "
                "Restore it from a backup, or delete it and extract again."
            )
        contents.records[record.group] = record


def _read_slide(store: FeatureStore, slide: str, contents: Contents) -> None:
    folder = f"{layout.DATA}/{slide}"
    names = store.place.names(folder)
    groups = sorted(name for name in names if name != "zarr.json" and not name.startswith("."))
    committed = [name for name in groups if f"{slide}/{name}" in contents.records]
    contents.orphans += [f"{folder}/{name}" for name in groups if name not in committed]
    _note_temporary(folder, names, contents)
    if not committed:
        contents.bare.append(folder)


def _note_temporary(folder: str, names: list[str], contents: Contents) -> None:
    prefix = f"{folder}/" if folder else ""
    contents.temporary += [f"{prefix}{name}" for name in sorted(names) if UNFINISHED.fullmatch(name)]
