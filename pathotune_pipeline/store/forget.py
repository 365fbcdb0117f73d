"""Forgetting slides: everything that a store holds of them goes, whatever process dies on the way.

What is to go is first written down under `forgetting/`, and that note is deleted last; until then `verify` tells of it, and
the next `forget` goes on with it. Nobody may be at work on the store meanwhile.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pathotune_pipeline.errors import StoreError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json, to_json
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.stamped import stamps
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.store.trained import trained_models
from pathotune_pipeline.store.write import remove_group


@dataclass(slots=True)
class Forgetting:
    """What is to be forgotten.

    Attributes:
        slides: key by slide id.
        case: the patient, where all slides of one go; or empty.
        identities: content hashes of the slides' files.
        bags: keys of the slides in training caches.
        places: folders outside of the store, by what they are.
        note: name of the note that says so; empty where none was written yet.
    """

    slides: dict[str, str]
    case: str = ""
    identities: list[str] = field(default_factory=list)
    bags: list[str] = field(default_factory=list)
    places: dict[str, list[str]] = field(default_factory=dict)
    note: str = ""

    def write(self, store: FeatureStore) -> Forgetting:
        """Write the note, from which on everything goes."""
        named = replace(self, note=f"{layout.FORGETTING}/{uuid.uuid4().hex}.json")
        store.place.create(named.note, to_json(asdict(named)))
        failpoint("forget.noted")
        return named


def unfinished(store: FeatureStore) -> list[Forgetting]:
    """What a process that died began to forget.

    Raises:
        StoreError: a note cannot be read.
    """
    found = []
    for name in sorted(store.place.names(layout.FORGETTING)):
        if name[0] == ".":
            continue
        record: Any = parse_json(store.place.read(f"{layout.FORGETTING}/{name}"))
        if not isinstance(record, dict):
            raise StoreError(f"{layout.FORGETTING}/{name} cannot be read. Delete it, and forget the case again.")
        found.append(Forgetting(**record))
    return found


def records_of(store: FeatureStore, wanted: Callable[[CommitRecord], bool]) -> list[CommitRecord]:
    """Every commit, also of older contents, that is wanted."""
    found = []
    for name in store.sets():
        store.remember(name)
        records = (store.record(name, key, fingerprint) for key, fingerprint in sorted(store.committed(name)))
        found += [record for record in records if wanted(record)]
    return found


def purge(store: FeatureStore, what: Forgetting, *, outside: Callable[[Forgetting], None]) -> None:
    """Delete everything that the store holds of some slides, and last the note.

    Args:
        store: on which nobody is at work.
        what: was written down.
        outside: clears what lies outside of the store; called before the note goes, and again where a process died.

    Raises:
        StoreUnwritableError: the store is read-only or forbidden. What is left goes with the next `forget`.
    """
    keys = frozenset(what.slides.values())
    store.clear_abandoned()
    for folder in store.place.names(layout.COMMITS):
        for name in store.place.names(f"{layout.COMMITS}/{folder}"):
            if name.rpartition("@")[0] in keys:
                store.place.delete(f"{layout.COMMITS}/{folder}/{name}")
                failpoint("forget.record")
    for key in sorted(keys):
        if store.place.names(f"{layout.DATA}/{key}"):
            remove_group(store.place, f"{layout.DATA}/{key}", store.staging)
            failpoint("forget.data")
    _clear_staging(store, what.slides)
    for folder in (layout.MASKS, layout.REVIEWS, layout.DEATHS):
        for stamp in stamps(store, folder):
            if stamp.key in keys:
                store.place.delete(stamp.name(folder))
    for folder in store.place.names(layout.LEASES):
        for key in sorted(keys):
            store.place.delete(f"{layout.LEASES}/{folder}/{key}.json")
    failpoint("forget.marks")
    _rewrite_runs(store, what.slides)
    _rewrite_identities(store, frozenset(what.identities))
    for name in store.place.names(layout.CACHE):
        if name.startswith((layout.MEANS, layout.ANSWERS)):  # the next night works the others out again
            store.place.delete(f"{layout.CACHE}/{name}")
    outside(what)
    models = _rewrite_models(store, what.slides)
    failpoint("forget.cleared")
    enter(store, "forget", slides=len(keys), models=models)
    store.place.delete(what.note)
    store.close_staging()


def _clear_staging(store: FeatureStore, slides: Collection[str]) -> None:
    """Delete what processes of other machines left of them when they died."""
    for owner in store.place.names(layout.STAGING):
        for name in store.place.names(f"{layout.STAGING}/{owner}"):
            meta: Any = parse_json(store.place.read(f"{layout.STAGING}/{owner}/{name}/zarr.json"))
            if isinstance(meta, dict) and (meta.get("attributes") or {}).get("slide_id") in slides:
                store.place.delete_tree(f"{layout.STAGING}/{owner}/{name}")


def _rewrite_runs(store: FeatureStore, slides: Collection[str]) -> None:
    """Take the slides out of every run's record; its numbers stay."""
    for run in store.runs.names(""):
        before = parse_json(store.runs.read(f"{run}/run.json"))
        if isinstance(before, dict):
            after = {name: _without(value, slides) for name, value in before.items()}
            if after != before:
                store.runs.replace(f"{run}/run.json", to_json(after))
                failpoint("forget.run")
        lines = (store.runs.read(f"{run}/outcomes.jsonl") or b"").splitlines(keepends=True)
        kept = [line for line in lines if not _is_of(line, slides)]
        if len(kept) < len(lines):
            store.runs.replace(f"{run}/outcomes.jsonl", b"".join(kept))


def _without(value: Any, slides: Collection[str]) -> Any:
    """A list of slides, of (slide, reason) pairs, or a table by slide, without some of them."""
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if name not in slides}
    if not isinstance(value, list):
        return value
    kept = [each for each in value if (each[0] if isinstance(each, list) and each else each) not in slides]
    return [_reason_without(each, slides) for each in kept]


def _reason_without(pair: Any, slides: Collection[str]) -> Any:
    """A reason names another slide only after its last ": "."""
    if isinstance(pair, list) and len(pair) == 2 and str(pair[1]).rpartition(": ")[2] in slides:
        return [pair[0], str(pair[1]).rpartition(": ")[0]]
    return pair


def _is_of(line: bytes, slides: Collection[str]) -> bool:
    record = parse_json(line)
    if isinstance(record, dict):
        return record.get("slide_id") in slides
    return any(json.dumps(slide_id)[1:-1].encode() in line for slide_id in slides)  # cut short by a kill


def _rewrite_identities(store: FeatureStore, identities: Collection[str]) -> None:
    known = parse_json(store.identity_file.read())
    if isinstance(known, dict):
        kept = {name: identity for name, identity in known.items() if identity not in identities}
        if len(kept) < len(known):
            store.identity_file.replace(json.dumps(kept).encode())


def _rewrite_models(store: FeatureStore, slides: Iterable[str]) -> list[str]:
    """Take the slides out of the models' records, which keep their number; the models' fingerprints."""
    gone, touched = frozenset(slides), []
    for model in trained_models(store):
        kept = {slide_id: case for slide_id, case in model.slides.items() if slide_id not in gone}
        if len(kept) < len(model.slides):
            replace(model, slides=kept, forgotten=model.forgotten + len(model.slides) - len(kept)).save(store)
            touched.append(model.fingerprint)
    return touched
