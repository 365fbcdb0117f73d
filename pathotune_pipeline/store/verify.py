"""Whether a store is what its records say: every record, every array, and what lies about without a record."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import zarr

from pathotune_pipeline.store import layout
from pathotune_pipeline.store.contents import Contents, read_contents
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

Kind = Literal["fault", "leftover"]
THREADS = 4
"""Groups read at once: a disk or a mount answers several requests sooner than one after the other."""
_ARRAYS = {
    "tissue": {"mask", "geojson", "thumbnail_jpeg"},
    "tiles": {"coords", "tissue_fraction"},
    "features": {"features", "valid"},
    "embeddings": {"embedding"},
}
_CHAIN = {"embeddings": ("features", "tiles", "tissue"), "features": ("tiles", "tissue"), "tiles": (), "tissue": ()}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: fault: committed data or records are wrong; leftover: nobody reads it, and `pathotune gc` clears it.
        where: path below the store.
        what: what is wrong with it, and what to do.
    """

    kind: Kind
    where: str
    what: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def verify_store(store: FeatureStore, sets: set[str] | None = None, *, fast: bool = False) -> list[Finding]:
    """Hold a store against its records.

    Args:
        store: an existing store.
        sets: names of the sets to look at, with what they were made from; None for all, and then leftovers too.
        fast: look at records and shapes only, and read no array.

    Returns:
        What is wrong, faults first, in the order of their places; empty where all is well.
    """
    contents = read_contents(store)
    findings = [Finding("fault", where, what) for where, what in contents.broken.items() if _asked(where, sets)]
    records = [record for record in contents.records.values() if sets is None or str(record.set_name) in sets]
    if sets is not None:
        records += [parent for record in records for parent in _parents(contents, record)]
    chosen = {record.group: record for record in records}
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(lambda record: list(_check(store, contents, record, fast=fast)), chosen.values()):
            findings += found
    if sets is None:
        findings += [Finding("leftover", where, f"{what}. `pathotune gc` clears it.") for where, what in contents.left]
    return sorted(dict.fromkeys(findings), key=lambda found: (found.kind, found.where))


def _asked(where: str, sets: set[str] | None) -> bool:
    return sets is None or not where.startswith(f"{layout.COMMITS}/") or where.split("/")[1] in sets


def _parents(contents: Contents, record: CommitRecord) -> list[CommitRecord]:
    groups = (str(record.facts.get(f"{stage}_group")) for stage in _CHAIN[record.set_name.stage])
    return [contents.records[group] for group in groups if group in contents.records]


def _check(store: FeatureStore, contents: Contents, record: CommitRecord, *, fast: bool) -> Iterator[Finding]:
    stage, where = record.set_name.stage, f"{layout.DATA}/{record.group}"
    for parent in _CHAIN[stage]:
        group, fingerprint = record.facts.get(f"{parent}_group"), record.facts.get(f"{parent}_fingerprint")
        found = contents.records.get(str(group))
        if found is None:
            yield Finding("fault", where, f"was made from {group}, which is not committed. Extract again.")
        elif found.fingerprint != fingerprint or found.facts.get("identity") != record.facts.get("identity"):
            yield Finding("fault", where, f"was made from {parent} {fingerprint!s:.12}, and {group} says otherwise.")
    try:
        group = zarr.open_group(store.place.zarr(where), mode="r")
        attributes, arrays = dict(group.attrs), dict(group.arrays())
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        yield Finding("fault", where, f"is committed and cannot be read ({type(error).__name__}). {_REPAIR}")
        return
    for name in ("fingerprint", "identity", "checksums"):
        if name in record.facts and attributes.get(name, record.facts[name]) != record.facts[name]:
            yield Finding("fault", where, f"its {name} is not that of its record. {_REPAIR}")
    missing = sorted((_ARRAYS[stage] | set(record.facts["checksums"])) - arrays.keys())
    if missing:
        yield Finding("fault", where, f"has no array {', '.join(missing)}. {_REPAIR}")
        return
    yield from _check_counts(contents, record, where, arrays)
    if not fast:
        yield from _check_arrays(record, where, arrays)


_REPAIR = "Restore it from a backup, or delete its record and extract again."


def _check_counts(
    contents: Contents, record: CommitRecord, where: str, arrays: dict[str, zarr.Array]
) -> Iterator[Finding]:
    stage, dim = record.set_name.stage, record.facts.get("dim")
    if stage == "embeddings" and arrays["embedding"].shape != (dim,):
        yield Finding(
            "fault", where, f"its vector has shape {arrays['embedding'].shape}, its record says {dim} numbers."
        )
    if stage in ("tissue", "embeddings"):
        return
    rows = {name: int(arrays[name].shape[0]) for name in sorted(_ARRAYS[stage])}
    rows["record"] = int(record.facts.get("tiles", -1))
    tiles = contents.records.get(str(record.facts.get("tiles_group"))) if stage == "features" else None
    if tiles is not None:
        rows["coords"] = int(tiles.facts.get("tiles", -1))
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in rows.items())
        yield Finding("fault", where, f"its numbers of tiles differ: {listed}. {_REPAIR}")
    if stage == "features" and dim is not None and arrays["features"].shape[1:] != (dim,):
        yield Finding(
            "fault", where, f"its features have {arrays['features'].shape[1:]} values, its record says {dim}."
        )


def _check_arrays(record: CommitRecord, where: str, arrays: dict[str, zarr.Array]) -> Iterator[Finding]:
    zero_rows, valid = None, None
    for name, expected in sorted(record.facts["checksums"].items()):
        try:
            digest, not_finite, empty = _scan(arrays[name])
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            yield Finding("fault", f"{where}/{name}", f"cannot be read ({type(error).__name__}). {_REPAIR}")
            continue
        if digest != expected:
            yield Finding("fault", f"{where}/{name}", f"is not what was committed. {_REPAIR}")
        if not_finite:
            yield Finding("fault", f"{where}/{name}", f"holds {not_finite} rows with NaN or infinity. Extract again.")
        if name == "features":
            zero_rows = empty
        elif name == "valid":
            valid = np.asarray(arrays["valid"][...])
    invalid = record.facts.get("invalid_tiles")
    if zero_rows is None or valid is None or invalid is None:
        return
    if int((~valid).sum()) != invalid:
        yield Finding(
            "fault", f"{where}/valid", f"marks {int((~valid).sum())} tiles invalid, its record says {invalid}."
        )
    if len(valid) == len(zero_rows) and not zero_rows[~valid].all():
        yield Finding("fault", f"{where}/features", "rows of tiles that could not be read are not zero. Extract again.")


def _scan(array: zarr.Array) -> tuple[str, int, np.ndarray]:
    """One pass over an array: its checksum, rows that are not finite, and bool [N] of rows that are all zero."""
    digest, not_finite, zero = hashlib.sha256(), 0, [np.zeros(0, dtype=bool)]
    rows = array.chunks[0] if array.ndim and 0 not in array.shape else 0
    for start in range(0, array.shape[0], rows) if rows else ():
        part = np.ascontiguousarray(array[start : start + rows])
        digest.update(part.tobytes())
        flat = part.reshape(len(part), -1)
        if part.dtype.kind == "f":
            not_finite += int((~np.isfinite(flat)).any(axis=1).sum())
            zero.append(np.asarray(~flat.any(axis=1)))
    return digest.hexdigest(), not_finite, np.concatenate(zero)
