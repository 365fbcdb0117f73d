"""Patches as the tiles of slides that lie under annotations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.archive.discover import discover
from pathotune_pipeline.archive.identity import decode_id, redact
from pathotune_pipeline.archive.match import match_files
from pathotune_pipeline.errors import ManifestError, SlideError, SpecError
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.slides.slide import SlideInfo
from pathotune_pipeline.tiles.grid import grid_coords
from pathotune_pipeline.tissue.annotations import SUFFIXES, Annotations, draw, read_annotations
from pathotune_pipeline.tissue.mask import TissueMask
from pathotune_pipeline.tuning.patches.decode import CropSpec, crop_plan, open_for_crops
from pathotune_pipeline.tuning.patches.ref import Listing, PatchRef, listed
from pathotune_pipeline.tuning.patches.spec import PatchSpec

_MASK_PX_PER_TILE = 32
"""Mask pixels along a tile: the edge of an annotation is placed to 1/64 of a tile."""
_LARGEST_MASK = 1 << 26
"""Mask pixels of a slide: one with very many tiles gets fewer for each."""


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The tiles of one slide: centres float64 [N, 2], their labels, and how many were covered by two classes."""

    centres: np.ndarray
    labels: list[str]
    ambiguous: int


def list_annotated(folder: Path, spec: PatchSpec, crop: CropSpec) -> Listing:
    """The tiles of slides of which annotations of one class cover enough; their group is the slide.

    Annotations are files named after their slides, in one folder; slides lie below `spec.images`, else beside them. The
    grid is anchored at (0, 0) and holds whole tiles only, as in extraction.

    Args:
        folder: of the annotations: QuPath's GeoJSON or ASAP's XML.
        spec: least cover, overlap, how many are drawn, and whether slides with unusable files fail the whole.
        crop: size and scale of the tiles.

    Raises:
        SpecError: the tiles' side is not known, or they overlap too much.
        ManifestError: no slide has annotations, or a slide or its file cannot be used.
    """
    if not crop.side_px or spec.overlap_px >= crop.side_px:
        raise SpecError(
            f"patches.side_px: tiles under annotations need a side, over their overlap of {spec.overlap_px} px. "
            "Give --patch-px."
        )
    where = folder.name or str(folder)
    root = spec.images or folder
    found = discover(root)
    slides = {found.id_of(path, root): path for path in found.slides}
    matches = match_files(folder, slides, SUFFIXES, flag="--patches")
    annotated = {slide_id: match for slide_id, match in matches.items() if match.path or match.problem}
    if not annotated:
        raise ManifestError(
            f"{where}: none of {len(slides)} slides has an annotation file named after it. Give their folder with "
            "patches.images."
        )
    refs: list[PatchRef] = []
    problems: dict[str, str] = {}
    ambiguous = 0
    for slide_id, match in sorted(annotated.items()):
        path = slides[slide_id]
        try:
            if match.path is None:
                raise SlideError(match.problem)
            tiles = _tiles(slide_id, path, read_annotations(match.path), spec, crop)
        except (SlideError, OSError) as error:
            problems[slide_id] = redact(str(error), path, slide_id)
            continue
        ambiguous += tiles.ambiguous
        name = decode_id(slide_id)
        for (x, y), label in zip(tiles.centres.tolist(), tiles.labels, strict=True):
            refs.append(PatchRef(f"{name}@{x:.10g},{y:.10g}", path, label, group=name, centre=(x, y)))
    told = listed([f"{slide_id}: {why}" for slide_id, why in problems.items()], shown=3)
    if problems and spec.unreadable == "fail":
        raise ManifestError(
            f"{where}: {len(problems)} of {len(annotated)} annotated slides cannot be used: {told} Mend them, or leave "
            "them out with patches.unreadable=skip."
        )
    notes = [f"{len(problems)} annotated slides cannot be used and are left out: {told}"] if problems else []
    if ambiguous:
        notes.append(f"{ambiguous} tiles lie under annotations of two classes and are left out.")
    return Listing(tuple(refs), where, tuple(notes))


def _tiles(slide_id: str, path: Path, annotations: Annotations, spec: PatchSpec, crop: CropSpec) -> _Tiles:
    slide = open_for_crops(path, crop)
    info = slide.info
    slide.close()
    plan = crop_plan(info, crop)
    width, height = plan.extent_level0
    step = (crop.side_px - spec.overlap_px) / crop.side_px
    coords = grid_coords(info.size, (width, height), stride=(width * step, height * step))
    covers = _covers(info, annotations, coords, (width, height))
    labels = list(covers)
    if not labels or not len(coords):
        return _Tiles(np.zeros((0, 2)), [], 0)
    shares = np.stack([covers[label] for label in labels])  # [C, N]
    enough = (shares >= np.float32(spec.min_cover)).sum(axis=0)
    best = shares.argmax(axis=0)
    keep = [
        _drawn(np.flatnonzero((enough == 1) & (best == place)), spec, f"{slide_id}\n{label}")
        for place, label in enumerate(labels)
    ]
    chosen = np.sort(np.concatenate(keep))
    centres = coords[chosen] + np.array([width, height]) / 2
    return _Tiles(centres, [labels[place] for place in best[chosen].tolist()], int((enough > 1).sum()))


def _covers(
    info: SlideInfo, annotations: Annotations, coords: np.ndarray, extent: tuple[float, float]
) -> Mapping[str, np.ndarray]:
    """The share of each tile that annotations of each class cover: float32 [N]."""
    size, mpp = info.size, info.mpp or Mpp.square(1.0)
    down, across = size.height / extent[1], size.width / extent[0]
    fine = min(_MASK_PX_PER_TILE, math.sqrt(_LARGEST_MASK / (down * across)))
    shape = (max(1, math.ceil(down * fine)), max(1, math.ceil(across * fine)))
    mask_mpp = size.width * mpp.x / shape[1], size.height * mpp.y / shape[0]
    boxes = np.column_stack([coords, np.broadcast_to(extent, (len(coords), 2))])
    covers = {}
    for label, polygons in annotations.classes.items():
        mask = TissueMask(draw(polygons, shape, size), *mask_mpp, mpp, size, np.zeros((1, 1, 3), np.uint8))
        covers[label] = mask.fraction(boxes)
    return covers


def _drawn(places: np.ndarray, spec: PatchSpec, what: str) -> np.ndarray:
    """Of too many places so many as are wanted, drawn by seed and slide and class, in their order."""
    if spec.max_per_slide is None or len(places) <= spec.max_per_slide:
        return places
    words = np.frombuffer(hashlib.sha256(what.encode(errors="surrogateescape")).digest(), np.uint32)
    rng = np.random.default_rng([spec.sample_seed, *words.tolist()])
    return np.asarray(np.sort(rng.choice(places, spec.max_per_slide, replace=False)))
