"""Import: another tool's features into a store, where they serve as our own do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pathotune_pipeline.archive.identity import IdentityCache, Pseudonymiser, encode_id, redact
from pathotune_pipeline.archive.item import Manifest, SlideItem
from pathotune_pipeline.archive.match import match_files
from pathotune_pipeline.errors import ForeignFileError, PathotuneError, UsageError
from pathotune_pipeline.exchange.deliver import Delivery, deliver, encoder_of
from pathotune_pipeline.exchange.geometry import ImportSpec, Tool
from pathotune_pipeline.exchange.hdf5 import hdf5_library, read_attributes
from pathotune_pipeline.exchange.parcel import OWN, parse_own_facts
from pathotune_pipeline.exchange.sources import Piece, Source, find_source
from pathotune_pipeline.features.outcome import Outcome, count
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.runs import RunLog
from pathotune_pipeline.store.store import FeatureStore


@dataclass(frozen=True, slots=True)
class ImportSource:
    """What is to be imported.

    Attributes:
        tool: whose files.
        folder: where they lie; see `sources.find_source`.
        coords: the folder of places where that is another one.
        manifest: the slides they belong to; None where the files' names are the slides' ids.
        pseudonymiser: replaces ids where there is no manifest, and keys the cache of content hashes.
    """

    tool: Tool
    folder: Path
    coords: Path | None = None
    manifest: Manifest | None = None
    pseudonymiser: Pseudonymiser | None = None


@dataclass(slots=True)
class ImportResult:
    """What an import brought.

    Attributes:
        features: names of the sets, as `--features` takes them; one, unless slides differ in geometry.
        outcomes: one a slide, in the order of the ids.
        run_id: of the run's record in the store.
        passed_over: (name, reason) of files without a slide and slides without a file.
    """

    features: list[str]
    outcomes: list[Outcome]
    run_id: str
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many slides of each status."""
        return count(self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "counts": self.counts()}


@dataclass(frozen=True, slots=True)
class _Job:
    """One slide to import: its id, its files, and its item where a manifest names it; or why it cannot be."""

    slide_id: str
    piece: Piece | None
    item: SlideItem | None = None
    problem: str = ""


def import_features(
    store: FeatureStore,
    source: ImportSource,
    spec: ImportSpec,
    *,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> ImportResult:
    """Bring another tool's features into a store. One slide that cannot be used fails alone.

    Args:
        store: where to; made if it is new.
        source: what.
        spec: what the files do not say of themselves.
        on_outcome: told each slide as it is done.

    Raises:
        UsageError: the folder or the store cannot be used, or the encoder is not known.
        MissingExtraError: h5py is not installed.
    """
    hdf5_library()
    found = find_source(source.tool, source.folder, encoder=spec.encoder, coords=source.coords)
    jobs, passed_over = _plan(found, source)
    _check_encoder(found, spec)
    store.initialise()
    store.clear_abandoned()
    log = RunLog(store.runs, "import", {"from": source.tool, **spec.model_dump(mode="json")})
    log.note(
        slides=len(jobs),
        planned=len(jobs),
        planned_slides=[job.slide_id for job in jobs],
        passed_over=[list(pair) for pair in passed_over],
    )
    cache = IdentityCache(store.identity_file, source.pseudonymiser)
    outcomes: list[Outcome] = []
    sets: dict[str, None] = {}
    try:
        for job in jobs:
            outcome, features_set = _import_one(store, job, found, (source.tool, spec, cache))
            if features_set is not None and str(features_set) not in sets:
                sets[str(features_set)] = None
                log.note(features=next(iter(sets)))
            outcomes.append(outcome)
            log.outcome(outcome.as_dict())
            if on_outcome:
                on_outcome(outcome)
    finally:
        cache.save()
        store.close_staging()
    log.finish(counts=count(outcomes), failures={o.slide_id: o.reason for o in outcomes if o.status == "failed"})
    enter(store, "import", run=log.run_id, source=source.tool, features=list(sets), counts=count(outcomes))
    names = [name.removeprefix("features-") for name in sets]
    return ImportResult(names, outcomes, log.run_id, passed_over)


def _plan(found: Source, source: ImportSource) -> tuple[list[_Job], list[tuple[str, str]]]:
    if source.manifest is None:
        return _by_file_names(found, source.pseudonymiser), []
    by_path = {piece.features: piece for piece in found.pieces}
    items = {item.slide_id: item for item in source.manifest.items}
    paths: dict[str, Path | None] = {slide_id: item.path for slide_id, item in items.items()}
    matches = match_files(found.folder, paths, (".h5",), flag="--source")
    hidden = source.pseudonymiser
    jobs: list[_Job] = []
    passed_over = list((source.manifest.pseudonymised(hidden) if hidden else source.manifest).passed_over)
    for slide_id, match in sorted(matches.items()):
        item = Manifest((items[slide_id],)).pseudonymised(hidden).items[0] if hidden else items[slide_id]
        if match.problem:
            problem = "several files fit it, or one fits several slides. Name files after slide ids."
            jobs.append(_Job(item.slide_id, None, item, problem if hidden else match.problem))
        elif match.path in by_path:
            jobs.append(_Job(item.slide_id, by_path[match.path], item))
        else:
            passed_over.append((item.slide_id, "has no file among the features"))
    taken = {job.piece.features for job in jobs if job.piece}
    for path in sorted(set(by_path) - taken):
        name = "(name withheld)" if hidden else by_path[path].name
        passed_over.append((name, "goes with no one slide of the manifest"))
    if not jobs:
        raise UsageError(
            f"--source {source.folder}: none of its {len(found.pieces)} files is named after one of the {len(items)} slides, "
            f"such as {next(iter(items))}. Check that both are of the same archive."
        )
    return jobs, passed_over


def _by_file_names(found: Source, pseudonymiser: Pseudonymiser | None) -> list[_Job]:
    takers: dict[str, list[Piece]] = {}
    for piece in found.pieces:
        slide_id = _claimed_id(piece)
        takers.setdefault(pseudonymiser.slide(slide_id) if pseudonymiser else slide_id, []).append(piece)
    jobs = []
    for slide_id, pieces in sorted(takers.items()):
        problem = f"{len(pieces)} files say they are of this slide. Keep one." if len(pieces) > 1 else ""
        jobs.append(_Job(slide_id, pieces[0], problem=problem))
    return jobs


def _claimed_id(piece: Piece) -> str:
    """The id in an export of ours, else the file's name."""
    for path in (piece.features, piece.coords):
        try:
            text = read_attributes(path).get(OWN) if path else None
            if text is not None:
                return parse_own_facts(str(text)).slide_id
        except ForeignFileError:
            continue
    return encode_id(piece.name)


def _check_encoder(found: Source, spec: ImportSpec) -> None:
    if spec.encoder or found.encoder:
        return
    for piece in found.pieces:
        try:
            if encoder_of(read_attributes(piece.features)) or (
                piece.coords and encoder_of(read_attributes(piece.coords))
            ):
                return
        except ForeignFileError:
            continue
    raise UsageError(
        f"--source {found.folder}: its files do not say which encoder made them. Name it with --encoder, such as --encoder "
        "uni_v1."
    )


def _import_one(
    store: FeatureStore, job: _Job, found: Source, told: tuple[Tool, ImportSpec, IdentityCache]
) -> tuple[Outcome, SetName | None]:
    began = time.perf_counter()
    if job.problem or job.piece is None:
        return Outcome(job.slide_id, "failed", reason=job.problem), None
    tool, spec, cache = told
    delivery = Delivery(job.slide_id, job.piece, job.item, tool, spec, found.encoder)
    try:
        outcome, features_set = deliver(store, delivery, cache)
    except Exception as error:  # noqa: BLE001 - one slide never stops the others; its reason says what happened
        text = str(error) if isinstance(error, PathotuneError) else f"{type(error).__name__}: {error}"
        for path in (job.piece.features, job.piece.coords, job.item.path if job.item else None):
            text = redact(text, path, job.slide_id) if path else text
        transient = isinstance(error, OSError | MemoryError) and not isinstance(error, PathotuneError)
        return Outcome(job.slide_id, "failed", reason=text, transient=transient), None
    return replace(outcome, seconds=round(time.perf_counter() - began, 3)), features_set
