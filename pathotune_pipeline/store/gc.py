"""Giving room back: sets that are no longer wanted, what dead processes left behind, and old records of runs.

Records go first, then data, embeddings and features before what they were made from: a process that dies between leaves
data without a record, which nobody reads and which the next pass clears.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pathotune_pipeline.errors import StoreError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.contents import Contents, read_contents
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.leases import LeaseSpec, LeaseWatch, all_leases
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.owner import is_gone
from pathotune_pipeline.store.runs import run_lease
from pathotune_pipeline.store.store import CommitRecord, FeatureStore, record_name
from pathotune_pipeline.store.write import remove_group

IMPORTED = "imported"
"""Label of the set of masks that people drew: never deleted."""
_ORDER = ("embeddings", "features", "tiles", "tissue")
_POLL_S = 0.2


@dataclass(slots=True)
class Rubbish:
    """What may go, and what it weighs.

    Attributes:
        records: commits to delete, embeddings and features first.
        left: paths of what dead processes left behind.
        leases: names of dead leases.
        runs: ids of runs whose records go.
        files, size_bytes: how many files go with all of it, and their bytes.
    """

    records: list[CommitRecord] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    leases: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0

    def sets(self) -> dict[str, int]:
        """How many commits of which set go."""
        counts: dict[str, int] = {}
        for record in self.records:
            counts[str(record.set_name)] = counts.get(str(record.set_name), 0) + 1
        return counts


def find_rubbish(
    store: FeatureStore, keep: Iterable[SetName] | None = None, *, keep_runs: int | None = None
) -> Rubbish:
    """What may go.

    Args:
        store: an existing store.
        keep: sets to keep with all they were made from; every other set goes, but for masks that people drew and what
            those belong to. None keeps every set.
        keep_runs: how many of the newest records of runs to keep; None keeps all.

    Raises:
        StoreError: a record cannot be read, so that it cannot be known what belongs to it.
    """
    contents = read_contents(store)
    broken = [where for where in contents.broken if where.startswith(f"{layout.COMMITS}/")]
    if keep is not None and broken:
        raise StoreError(
            f"--keep: {len(broken)} records cannot be understood, first {broken[0]}, so it is not known what belongs to them. "
            "Run `pathotune verify`, and mend or delete them."
        )
    found = Rubbish(left=[where for where, _ in contents.left], leases=list(contents.leases))
    if keep is not None:
        reached = _reached(contents, {str(name) for name in keep})
        found.records = [record for group, record in contents.records.items() if group not in reached]
        found.records.sort(key=lambda record: _ORDER.index(record.set_name.stage))
    if keep_runs is not None:
        names = sorted(store.runs.names(""))
        found.runs = names[: max(0, len(names) - keep_runs)]
    folders = [f"{layout.DATA}/{record.group}" for record in found.records]
    inside = {where.rpartition("/")[0] for where in contents.orphans}  # of a bare group, counted with its orphans
    for folder in [
        *folders,
        *(where for where in found.left if where not in inside),
        *(f"{layout.RUNS}/{run}" for run in found.runs),
    ]:
        files, size = store.place.size_of(folder)
        found.files, found.size_bytes = found.files + files, found.size_bytes + size
    found.files += len(found.records)
    return found


def _reached(contents: Contents, keep: set[str]) -> set[str]:
    """Groups that must stay: the kept sets', what they were made from, and what people's masks belong to."""
    drawn = {
        (record.slide_id, record.facts.get("identity"))
        for record in contents.records.values()
        if record.set_name.label == IMPORTED
    }
    reached = set()
    for group, record in contents.records.items():
        tissue = record.set_name.stage == "tissue"
        if tissue and (record.set_name.label == IMPORTED or (record.slide_id, record.facts.get("identity")) in drawn):
            reached.add(group)
        if str(record.set_name) in keep:
            reached |= {
                group,
                *(str(record.facts[f"{stage}_group"]) for stage in _ORDER if f"{stage}_group" in record.facts),
            }
    return reached


def living_work(store: FeatureStore, *, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """Names of leases that somebody holds. Leases of other machines are watched until they move or have died."""
    held = all_leases(store.place)
    living = [each.name for each in held if is_gone(each.owner) is False]
    watch = LeaseWatch(store.place, lease_s=LeaseSpec().lease_s, clock=clock)
    unknown = {each.name: each.data for each in held if is_gone(each.owner) is None}
    while unknown and not living:
        now = {each.name: each for each in all_leases(store.place) if each.name in unknown}
        living += [name for name, each in now.items() if each.data != unknown[name]]
        unknown = {name: each.data for name, each in now.items() if not watch.is_dead(each)}
        if unknown and not living:
            time.sleep(_POLL_S)
    return sorted(living)


def refuse_while_in_use(store: FeatureStore) -> None:
    """Refuse to delete while a run is at work.

    Raises:
        StoreError: one is; the message names it.
    """
    living = living_work(store)
    if living:
        runs = [name.removeprefix(run_lease("")) for name in living if name.startswith(run_lease(""))]
        raise StoreError(
            f"{store.place.address}: a run is at work on it ({', '.join(runs or living[:3])}). Wait until it has ended, or give "
            "--force if you know that it has."
        )


def delete_rubbish(store: FeatureStore, rubbish: Rubbish) -> None:
    """Delete it: records, then data, then what was left behind.

    Raises:
        StoreUnwritableError: the store is read-only or forbidden.
    """
    for record in rubbish.records:
        key = record.group.partition("/")[0]
        store.place.delete(record_name(record.set_name, key, record.fingerprint[:12]))
        failpoint("gc.record")
    for record in rubbish.records:
        remove_group(store.place, f"{layout.DATA}/{record.group}", store.staging)
        failpoint("gc.group")
    for where in rubbish.left:
        if where.startswith(f"{layout.DATA}/") and not where.endswith(".tmp"):
            remove_group(store.place, where, store.staging)
        elif where.startswith(f"{layout.STAGING}/"):
            store.place.delete_tree(where)
        else:
            store.place.delete(where)
    for run in rubbish.runs:
        store.runs.delete_tree(run)
    _clear_bare(store, {record.group.partition("/")[0] for record in rubbish.records})
    store.close_staging()
    enter(store, "gc", sets=rubbish.sets(), runs=len(rubbish.runs), files=rubbish.files, bytes=rubbish.size_bytes)


def _clear_bare(store: FeatureStore, keys: set[str]) -> None:
    """Take away the groups of slides that have nothing left."""
    for key in sorted(keys):
        folder = f"{layout.DATA}/{key}"
        if set(store.place.names(folder)) <= {"zarr.json"}:
            remove_group(store.place, folder, store.staging)
    for name in store.place.names(layout.COMMITS):
        if not store.place.names(f"{layout.COMMITS}/{name}"):
            store.place.delete_tree(f"{layout.COMMITS}/{name}")
