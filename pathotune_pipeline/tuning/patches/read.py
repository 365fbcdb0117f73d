"""From a source of labelled patches to a PatchSet."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pathotune_pipeline.errors import ManifestError, SpecError, UsageError
from pathotune_pipeline.tuning.patches.annotated import list_annotated
from pathotune_pipeline.tuning.patches.cache import Kept, keep_decoded
from pathotune_pipeline.tuning.patches.coco import list_coco
from pathotune_pipeline.tuning.patches.decode import CropSpec, decode_patches, image_sides
from pathotune_pipeline.tuning.patches.folder import list_folder
from pathotune_pipeline.tuning.patches.labels import check_groups, check_names, code_labels, group_note
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.ref import Listing, grouped_by_pattern, listed
from pathotune_pipeline.tuning.patches.spec import Kind, PatchSpec
from pathotune_pipeline.tuning.patches.table import join_slides, list_table


def read_patches(spec: PatchSpec, *, side_px: int | None = None, mpp: float | None = None) -> PatchSet:
    """Read labelled patches. All that can be wrong with names, labels and groups is told before a pixel is read.

    Args:
        spec: what is read.
        side_px: side where the spec says none: the encoder's.
        mpp: um/px of patches of slides where the spec says none: the encoder's. Whole images are taken as they are.

    Returns:
        The patches in the source's order, in memory or mapped from `spec.cache`.

    Raises:
        UsageError: a setting makes no sense (SpecError), the source cannot be used as it is (ManifestError), or there
            is no room for the pixels.
        SlideError: an annotation file cannot be used.
    """
    crop = CropSpec(spec.side_px or side_px or 0, spec.mpp or mpp, spec.edge == "refuse", spec.slide)
    listing, labels, classes = list_patches(spec, crop)
    if not crop.side_px:
        crop = replace(crop, side_px=_own_side(listing))
    kept = _decode(listing, spec, crop)
    bad = kept.decoded.unreadable
    if bad and spec.unreadable == "fail":
        shown = [f"{listing.refs[place].name}: {why}" for place, why in bad.items()]
        raise ManifestError(
            f"{listing.where}: {len(bad)} of {len(listing.refs)} patches cannot be read: {listed(shown, shown=3)} "
            "Mend them, or leave them out with patches.unreadable=skip."
        )
    good = [place for place in range(len(listing.refs)) if place not in bad]
    if not good:
        raise ManifestError(f"{listing.where}: none of {len(bad)} patches can be read, the first: {bad[0]}")
    refs = [listing.refs[place] for place in good]
    notes = [*listing.notes, *group_note([ref.group for ref in refs])]
    if bad:
        notes.append(f"{len(bad)} of {len(listing.refs)} patches could not be read and are left out.")
    if kept.decoded.padded:
        notes.append(f"{kept.decoded.padded} patches reach over a slide's edge and are white there.")
    return PatchSet(
        images=kept.images,
        labels=labels[good],
        classes=classes,
        groups=tuple(ref.group for ref in refs),
        domains=tuple(ref.domain for ref in refs),
        splits=tuple(ref.split for ref in refs),
        names=tuple(ref.name for ref in refs),
        notes=tuple(notes),
    )


def list_patches(spec: PatchSpec, crop: CropSpec) -> tuple[Listing, np.ndarray, tuple[str, ...]]:
    """What a source lists, checked; no pixels.

    Args:
        spec: the source.
        crop: size and scale, which tiles under annotations are laid out by.

    Returns:
        The patches, their labels int64 [N], and the classes.

    Raises:
        UsageError: see `read_patches`.
    """
    if spec.source is None:
        raise SpecError("patches.source: name the labelled patches (--patches): a folder, a CSV or a JSON.")
    listing = _list(spec, spec.source, crop)
    listing = join_slides(listing, spec)
    listing = replace(listing, refs=grouped_by_pattern(listing.refs, spec.group_pattern, listing.where))
    check_names(listing.refs, listing.where)
    listing, labels, classes = code_labels(listing, spec)
    check_names(listing.refs, listing.where)
    check_groups(listing.refs, listing.where)
    if spec.unreadable == "fail":
        _check_files(listing)
    return listing, labels, classes


def _list(spec: PatchSpec, source: Path, crop: CropSpec) -> Listing:
    match kind_of(spec, source):
        case "folder":
            return list_folder(source)
        case "table":
            return list_table(source, spec)
        case "coco":
            return list_coco(source, spec)
        case _:
            return list_annotated(source, spec, crop)


def kind_of(spec: PatchSpec, source: Path) -> Kind:
    """What a source is, as its spec says or as it looks.

    Raises:
        ManifestError: it is not there, or not of that kind.
    """
    if not source.exists():
        raise ManifestError(f"--patches {source}: there is no such file or folder. Check the path.")
    if spec.kind != "auto":
        if source.is_dir() != (spec.kind in ("folder", "annotations")):
            what = "a folder" if source.is_dir() else "a file"
            raise ManifestError(f"--patches {source}: this is {what}, and patches.kind is {spec.kind!r}.")
        return spec.kind
    if source.is_dir():
        annotated = any(path.suffix.lower() in (".geojson", ".xml") for path in source.iterdir())
        return "annotations" if annotated or spec.images is not None else "folder"
    return "coco" if source.suffix.lower() == ".json" else "table"


def _check_files(listing: Listing) -> None:
    names = {ref.path: ref.path.name if ref.centre else ref.name for ref in listing.refs}
    missing = [name for path, name in names.items() if not path.is_file()]
    if missing:
        raise ManifestError(
            f"{listing.where}: {len(missing)} of {len(names)} files are missing: {listed(missing)}. Give their folder "
            "with patches.images, or leave them out with patches.unreadable=skip."
        )


def _own_side(listing: Listing) -> int:
    """The side that all images have, where nothing else says one."""
    if any(ref.centre for ref in listing.refs):
        raise SpecError("patches.side_px: patches are cut from slides, and nothing says how large. Give --patch-px.")
    sides = image_sides(listing.refs)
    if len(sides) != 1:
        found = listed([f"{side} px ({count})" for side, count in sorted(sides.items())]) or "none can be opened"
        raise SpecError(f"patches.side_px: images have different shorter sides: {found}. Give --patch-px.")
    return next(iter(sides))


def _decode(listing: Listing, spec: PatchSpec, crop: CropSpec) -> Kept:
    shape = (len(listing.refs), crop.side_px, crop.side_px, 3)
    decode = partial(decode_patches, listing.refs, crop, threads=spec.threads)
    if spec.cache is not None:
        return keep_decoded(spec.cache, listing.refs, crop, decode)
    size_gb = np.prod(shape, dtype=np.float64) / 1e9
    if size_gb > spec.max_gb:
        raise UsageError(
            f"{listing.where}: {shape[0]} patches of {crop.side_px} px take {size_gb:.1f} GB, and patches.max_gb is "
            f"{spec.max_gb:g}. Map them from disk with --patch-cache FOLDER, ask for smaller ones, or raise the limit."
        )
    images = np.empty(shape, np.uint8)
    decoded = decode(images)
    if decoded.unreadable:
        images = images[[place for place in range(shape[0]) if place not in decoded.unreadable]]
    return Kept(images, decoded)
