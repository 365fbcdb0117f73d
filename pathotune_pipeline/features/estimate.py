"""What an extraction would cost, before anything is spent: slides, tiles, hours, bytes and files. Writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pathotune_pipeline.archive.companions import companion_files
from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.features.plan import Fingerprints, SlideJob
from pathotune_pipeline.features.planning import ExtractPlan
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.layout import CHUNK_ROWS, SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

PROBED_SLIDES = 40
"""Slides whose headers are read to learn how large the others are."""
SAMPLED_COMMITS = 100
SAMPLED_RUNS = 5
USUAL_COVERAGE = 0.25
"""Share of a slide's area that becomes tiles where the store has no slide yet to go by."""
USUAL_TISSUE_BYTES = 100_000
TILE_BYTES = 20
"""Coordinates and tissue share of one tile, at most."""
FILES = {"slide": 2, "tissue": 11, "tiles": 8, "features": 8, "record": 1}
"""Inodes of a slide's group, of each group of one chunk an array, and of a record; see docs/store.md."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is to be done and what it is likely to take.

    Attributes:
        slides: of the manifest.
        to_do: that would be computed.
        in_store: that the store holds already, empty ones included.
        refused: that the audit refused.
        removed: that the store holds and the archive no longer does.
        tiles: to encode.
        known_tiles: of them, in slides whose grid is committed.
        coverage: share of a slide's area that is taken to become tiles where its grid is not known.
        coverage_from: slides of the store that share was learnt from; 0: it is an assumption.
        hours: None where no run of this store tells a rate.
        tiles_per_s: the rate, with `rate_from`, the runs it was learnt from.
        read_gb: size of the slides' files.
        store_gb, store_files: what the store would grow by.
        unopened: slides whose header was read for this and cannot be opened.
    """

    slides: int
    to_do: int
    in_store: int
    refused: int
    removed: int
    tiles: int
    known_tiles: int
    coverage: float
    coverage_from: int
    hours: float | None
    tiles_per_s: float | None
    rate_from: tuple[str, ...]
    read_gb: float
    store_gb: float
    store_files: int
    unopened: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(plan: ExtractPlan, store: FeatureStore) -> Estimate:
    """Estimate a plan that was made with `only_look`.

    Args:
        plan: what is to be done.
        store: where to; it need not exist yet.
    """
    known = {index: tiles for index, job in enumerate(plan.jobs) if (tiles := _known_tiles(job, store)) is not None}
    unknown = [job for index, job in enumerate(plan.jobs) if index not in known]
    sizes = {job.item.slide_id: _file_bytes(job) for job in plan.jobs}
    coverage, learnt_from = _coverage(store) if unknown else (USUAL_COVERAGE, 0)
    areas, unopened = _areas_um2(unknown, sizes)
    stride_um = (plan.recipe.tile_px - plan.recipe.spec.tiles.overlap_px) * plan.recipe.mpp
    guessed = {slide: round(coverage * area / stride_um**2) for slide, area in areas.items()}
    cap = plan.recipe.spec.tiles.max_tiles
    counts = [
        known[index] if index in known else min(guessed.get(job.item.slide_id, 0), cap or 2**62)
        for index, job in enumerate(plan.jobs)
    ]
    tiles = sum(counts)
    rate, runs = _rate(store, plan.recipe.features_set)
    size, files = _growth(plan, store, counts)
    refused = sum(outcome.status == "failed" for outcome in plan.done)
    return Estimate(
        slides=len(plan.items), to_do=len(plan.jobs), in_store=len(plan.done) - refused, refused=refused,
        removed=len(plan.removed), tiles=tiles, known_tiles=sum(known.values()), coverage=coverage,
        coverage_from=learnt_from, hours=None if rate is None else tiles / rate / 3600, tiles_per_s=rate,
        rate_from=runs, read_gb=sum(sizes.values()) / 1e9, store_gb=size / 1e9, store_files=files, unopened=unopened,
    )  # fmt: skip


def _prints(job: SlideJob) -> Fingerprints | None:
    return None if job.identity is None else job.recipe.fingerprints(job.identity, job.mpp, job.guidance)


def _known_tiles(job: SlideJob, store: FeatureStore) -> int | None:
    prints, key = _prints(job), key_of(job.item.slide_id)
    if prints is None or not store.is_committed(job.recipe.tiles_set, key, prints.tiles):
        return None
    return int(store.record(job.recipe.tiles_set, key, prints.tiles).facts["tiles"])


def _file_bytes(job: SlideJob) -> int:
    try:
        return sum(file.stat().st_size for file in companion_files(job.item.path))
    except OSError:
        return 0


def _areas_um2(jobs: Sequence[SlideJob], sizes: dict[str, int]) -> tuple[dict[str, float], int]:
    """Areas of slides by id: of some as their headers say, of the others by their files' sizes. And how many failed."""
    probed: dict[str, float] = {}
    step = max(1, len(jobs) // PROBED_SLIDES)
    sample = list(jobs[::step])[:PROBED_SLIDES]
    failed = 0
    for job in sample:
        try:
            slide = open_slide(job.item.path, job.recipe.spec.slide, mpp=job.item.mpp)
        except (PathotuneError, OSError):
            failed += 1
            continue
        info = slide.info
        slide.close()
        if info.mpp is not None:
            probed[job.item.slide_id] = info.size.width * info.mpp.x * info.size.height * info.mpp.y
    weight = sum(sizes[slide_id] for slide_id in probed)
    if not weight:
        return {}, failed
    um2_per_byte = sum(probed.values()) / weight
    tried = {job.item.slide_id for job in sample}
    rest = {
        job.item.slide_id: sizes[job.item.slide_id] * um2_per_byte for job in jobs if job.item.slide_id not in tried
    }
    return {**rest, **probed}, failed


def _sampled(store: FeatureStore, stage: layout.Stage) -> list[CommitRecord]:
    listed = ((name, key, short) for name in store.sets(stage) for key, short in sorted(store.committed(name)))
    return [store.record(*each) for each in itertools.islice(listed, SAMPLED_COMMITS)]


def _coverage(store: FeatureStore) -> tuple[float, int]:
    """Share of slides' areas that became tiles, over committed slides, and over how many."""
    tiled = whole = 0.0
    seen = 0
    for record in _sampled(store, "features"):
        try:
            attributes: Any = dict(store.group(record.made_from("tissue")).attrs)
            geometry: Any = store.group(record.made_from("tiles")).attrs["geometry"]
        except (OSError, LookupError, ValueError):
            continue
        width, height = geometry["stride_level0"]
        tiled += int(record.facts["tiles"]) * width * height
        whole += attributes["level0_width"] * attributes["level0_height"]
        seen += 1
    return (tiled / whole, seen) if whole else (USUAL_COVERAGE, 0)


def _rate(store: FeatureStore, features_set: SetName) -> tuple[float | None, tuple[str, ...]]:
    """Tiles a second of the newest runs that made this set, else of those that used the same encoder and geometry."""
    same: list[tuple[str, float, float]] = []
    alike: list[tuple[str, float, float]] = []
    for run in sorted(store.runs.names(""), reverse=True):
        record = parse_json(store.runs.read(f"{run}/run.json"))
        work = record.get("work") if isinstance(record, dict) else None
        if not work or not work.get("tiles") or not work.get("seconds"):
            continue
        found = (run, float(work["tiles"]), float(work["seconds"]))
        name = str(record.get("features"))
        if name == str(features_set):
            same.append(found)
        elif SetName.is_one(name) and SetName.parse(name).label == features_set.label:
            alike.append(found)
        if len(same) == SAMPLED_RUNS:
            break
    chosen = (same or alike)[:SAMPLED_RUNS]
    if not chosen:
        return None, ()
    return sum(tiles for _, tiles, _ in chosen) / sum(seconds for _, _, seconds in chosen), tuple(
        run for run, _, _ in chosen
    )


def _growth(plan: ExtractPlan, store: FeatureStore, counts: Sequence[int]) -> tuple[float, int]:
    """Bytes and inodes that the store would grow by."""
    recipe, size, files = plan.recipe, 0.0, 0
    row_bytes = 2 * recipe.card.dim + 1
    tissue_bytes = _tissue_bytes(store) if plan.jobs else 0
    for job, tiles in zip(plan.jobs, counts, strict=True):
        prints, key = _prints(job), key_of(job.item.slide_id)
        files += FILES["features"] + FILES["record"] + max(0, -(-tiles // CHUNK_ROWS) - 1)
        size += tiles * row_bytes
        if prints is None or not store.is_committed(recipe.tiles_set, key, prints.tiles):
            files += FILES["tiles"] + FILES["record"]
            size += tiles * TILE_BYTES
        mask = job.guidance.mask.for_slide(job.identity) if job.guidance.mask and job.identity else None
        if prints is None or not store.is_committed(recipe.tissue_set_of(mask), key, prints.tissue):
            files += FILES["tissue"] + FILES["record"]
            size += tissue_bytes
        if not store.place.exists(f"{layout.DATA}/{key}/zarr.json"):
            files += FILES["slide"]
    return size, files


def _tissue_bytes(store: FeatureStore) -> float:
    sizes = [store.place.size_of(f"{layout.DATA}/{record.group}")[1] for record in _sampled(store, "tissue")]
    return sum(sizes) / len(sizes) if sizes else USUAL_TISSUE_BYTES
