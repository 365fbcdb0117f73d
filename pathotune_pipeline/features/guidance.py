"""What people said of a slide besides its pixels: a corrected mask, annotations. Found for a whole archive at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathotune_pipeline.archive.identity import IdentityCache, content_hash, key_of
from pathotune_pipeline.archive.manifest import SlideItem
from pathotune_pipeline.archive.match import Match, match_files
from pathotune_pipeline.errors import AnnotationError, SlideError, SpecError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.store.masks import MaskPointer, current_masks
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.tissue.annotations import SUFFIXES, read_annotations
from pathotune_pipeline.tissue.regions import RegionSpec


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """A slide's annotations, where regions are asked for.

    Attributes:
        path: the file; None where the slide has none.
        digest: SHA-256 of the file, or "whole" or "empty" where there is none: what a fingerprint holds.
        problem: why the slide cannot be worked on; empty where it can.
    """

    path: Path | None = field(default=None, repr=False)
    digest: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What people said of one slide.

    Attributes:
        mask: the imported mask in use.
        annotation: its annotations; None where no regions are asked for.
    """

    mask: MaskPointer | None = None
    annotation: AnnotationFile | None = None

    @property
    def problem(self) -> str:
        """Why the slide cannot be worked on."""
        return self.annotation.problem if self.annotation else ""


def gather_guidance(
    items: Iterable[SlideItem], spec: RegionSpec, store: FeatureStore, cache: IdentityCache
) -> dict[str, Guidance]:
    """Guidance for every slide, by its id.

    Args:
        items: the slides.
        spec: where annotations lie, and which classes are asked for.
        store: whose imported masks count.
        cache: knows the hashes of files already seen.

    Raises:
        UsageError: the folder of annotations is absent, or not one of them holds a class that was asked for.
    """
    items = list(items)
    masks = current_masks(store)
    annotations: Mapping[str, AnnotationFile] = {}
    if spec.annotations is not None:
        slides = {item.slide_id: item.path for item in items}
        matches = match_files(Path(spec.annotations).absolute(), slides, SUFFIXES, flag="--annotations")
        _check_classes([match.path for match in matches.values() if match.path], spec)
        annotations = {slide_id: _file_of(match, spec, cache) for slide_id, match in matches.items()}
    return {item.slide_id: Guidance(masks.get(key_of(item.slide_id)), annotations.get(item.slide_id)) for item in items}


def _file_of(match: Match, spec: RegionSpec, cache: IdentityCache) -> AnnotationFile:
    if match.problem:
        return AnnotationFile(problem=f"--annotations: {match.problem}")
    if match.path is None:
        if spec.missing != "fail":
            return AnnotationFile(digest=spec.missing)
        return AnnotationFile(
            problem=f"no annotation file ({', '.join(SUFFIXES)}) in --annotations is named after it. Add one, or give "
            "--annotations-missing whole or empty."
        )
    digest = cache.get(match.path)
    if digest is None:
        try:
            digest = content_hash(match.path)
        except (OSError, SlideError) as error:
            return AnnotationFile(problem=f"its annotation file cannot be read ({type(error).__name__}).")
        cache.put(match.path, digest)
    return AnnotationFile(match.path, digest)


def _check_classes(paths: Sequence[Path], spec: RegionSpec) -> None:
    """Refuse a class that no file holds: a slip of the pen in --exclude would exclude nothing, and nobody would see."""
    wanted, seen = {*spec.roi, *spec.exclude}, set[str]()
    for path in paths:
        if wanted <= seen:
            return
        try:
            seen |= set(read_annotations(path).classes)
        except AnnotationError:  # its slide will fail with the reason
            continue
    for name in (*spec.roi, *spec.exclude):
        if name not in seen and seen:
            flag = "--roi" if name in spec.roi else "--exclude"
            raise SpecError(
                f"{flag} {name!r}: not one of {len(paths)} annotation files holds that class.{nearest(name, seen)} "
                f"Found: {', '.join(sorted(seen))}."
            )
