"""Tissue masks out of a store for people to correct, and back into it. What depends on a corrected mask is made anew."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.archive.match import Match, match_files
from pathotune_pipeline.errors import AnnotationError, PathotuneError, SlideError, UsageError
from pathotune_pipeline.features.persist import load_tissue, tissue_arrays, tissue_facts
from pathotune_pipeline.features.plan import IMPORTED_SET, imported_fingerprint
from pathotune_pipeline.provenance import now
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.slides.open import USER_SOURCES
from pathotune_pipeline.slides.slide import SlideInfo
from pathotune_pipeline.store.masks import MaskPointer, current_masks, use_mask
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.tissue.annotations import SUFFIXES, draw, read_annotations
from pathotune_pipeline.tissue.mask import TissueMask

MASK_SUFFIXES = (*SUFFIXES, ".png")
MAX_MASK_PIXELS = 64_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_ASPECT_ERROR = 0.01

Status = Literal["imported", "unchanged", "reverted", "failed"]


@dataclass(frozen=True, slots=True)
class MaskChange:
    """What became of one slide's mask.

    Attributes:
        slide_id: whose.
        status: imported; unchanged: the file holds the mask in use; reverted: back to the tissue found; failed.
        reason: why it failed.
        area_um2: of the tissue that is used from now on, where it changed.
    """

    slide_id: str
    status: Status
    reason: str = ""
    area_um2: float | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """What a store holds of one slide's tissue: as it was found last and with other settings, and as it is in use."""

    found: CommitRecord
    used: CommitRecord
    others: tuple[CommitRecord, ...] = ()


def export_masks(store: FeatureStore, out: Path, slides: Sequence[str] | None = None) -> dict[str, Path]:
    """Write the masks in use as GeoJSON that QuPath reads, one file a slide, named after its id.

    Args:
        store: with committed tissue.
        out: folder; made if it is new.
        slides: ids; None for all.

    Returns:
        The files by slide id.

    Raises:
        UsageError: the store holds no tissue, or none of such a slide; or the folder cannot be written.
        CorruptDataError: an outline cannot be read.
    """
    written = {}
    try:
        for slide_id, held in _chosen(_held(store), slides).items():
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{key_of(slide_id)}.geojson"
            path.write_bytes(store.read(held.used, "geojson").tobytes())
            written[slide_id] = path
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there ({error.strerror or error}).") from None
    return written


def import_masks(
    store: FeatureStore, folder: Path, slides: Sequence[str] | None = None, *, class_name: str = "Tissue"
) -> list[MaskChange]:
    """Bring corrected masks in; later extractions use them.

    A GeoJSON (or ASAP XML) is drawn at the resolution of the mask in use, so that one that was exported and not changed
    is the same mask. A PNG may have any size with the slide's aspect; what is not black is tissue.

    Args:
        store: with tissue of the slides.
        folder: files named after slide ids, or after the slides' file names.
        slides: ids; None for all that have a file.
        class_name: the annotations' class that is tissue.

    Returns:
        One change for each slide that has a file, in the order of the ids.

    Raises:
        UsageError: no such folder or slide, or no file is named after a slide.
    """
    held = _chosen(_held(store), slides)
    matches = match_files(folder, dict.fromkeys(held), MASK_SUFFIXES, flag="--masks")
    matches = {slide_id: match for slide_id, match in matches.items() if match.path or match.problem}
    if not matches:
        raise UsageError(
            f"--masks {folder}: no {', '.join(MASK_SUFFIXES)} there is named after a slide of the store, such as "
            f"{next(iter(held))}.geojson."
        )
    pointers = current_masks(store)
    return [
        _import_one(store, held[slide_id], match, pointers.get(key_of(slide_id)), class_name)
        for slide_id, match in matches.items()
    ]


def revert_masks(store: FeatureStore, slides: Sequence[str] | None = None) -> list[MaskChange]:
    """Go back to the tissue that was found. What was made from it is still committed, and counts again.

    Args:
        store: the store.
        slides: ids; None for all that use an imported mask.

    Raises:
        UsageError: no such slide.
    """
    pointers = current_masks(store)
    changes = []
    for slide_id, held in _chosen(_held(store), slides).items():
        if key_of(slide_id) in pointers:
            use_mask(store, slide_id, key_of(slide_id), None)
            changes.append(MaskChange(slide_id, "reverted", area_um2=float(held.found.facts["area_um2"])))
        elif slides:
            changes.append(MaskChange(slide_id, "unchanged"))
    return changes


def rescaled_import(store: FeatureStore, slide_key: str, mask: str, info: SlideInfo) -> TissueMask:
    """An imported mask for a slide that is now given another mpp than when it was imported.

    Args:
        store: where it was imported.
        slide_key: the slide's name in the store.
        mask: its content hash.
        info: the slide as it is now, with its mpp.

    Raises:
        AnnotationError: it is not in the store.
    """
    for key, short in sorted(store.committed(IMPORTED_SET)):
        if key == slide_key and info.mpp is not None:
            record = store.record(IMPORTED_SET, key, short)
            if record.facts["imported_mask"] == mask:
                held = load_tissue(store, record)
                rows, columns = held.mask.shape
                return replace(
                    held,
                    mpp_x=info.size.width * info.mpp.x / columns,
                    mpp_y=info.size.height * info.mpp.y / rows,
                    level0_mpp=info.mpp,
                )
    raise AnnotationError(
        "its imported mask is not in the store. Import it again, or go back: pathotune tissue import --revert."
    )


# --- what is in use ------------------------------------------------------------------------------------------------


def _held(store: FeatureStore) -> dict[str, _Held]:
    """Tissue of every slide, by id: the newest that was found, and the imported one where it is in use."""
    found: dict[str, list[CommitRecord]] = {}
    for tissue_set in store.sets("tissue"):
        if tissue_set != IMPORTED_SET:
            for slide_id, record in store.records(tissue_set).items():
                found.setdefault(slide_id, []).append(record)
    pointers = current_masks(store)
    imported: dict[tuple[str, str, str], CommitRecord] = {}
    for key, short in store.committed(IMPORTED_SET):
        record = store.record(IMPORTED_SET, key, short)
        imported[key, str(record.facts["identity"]), str(record.facts["imported_mask"])] = record
    held = {}
    for slide_id, records in sorted(found.items()):
        *others, record = sorted(records, key=lambda each: int(each.facts["committed_ns"]))
        pointer, identity = pointers.get(key_of(slide_id)), str(record.facts["identity"])
        mask = pointer.for_slide(identity) if pointer else None
        used = imported.get((key_of(slide_id), identity, mask or ""), record)
        held[slide_id] = _Held(record, used, tuple(others))
    return held


def _chosen(held: dict[str, _Held], slides: Sequence[str] | None) -> dict[str, _Held]:
    if not held:
        raise UsageError("the store holds no tissue yet. Run `pathotune extract` first.")
    for slide_id in slides or ():
        if slide_id not in held:
            raise UsageError(f"--slide {slide_id}: the store holds no tissue of it.{nearest(slide_id, held)}")
    return {slide_id: each for slide_id, each in held.items() if not slides or slide_id in slides}


# --- one slide -----------------------------------------------------------------------------------------------------


def _import_one(
    store: FeatureStore, held: _Held, match: Match, pointer: MaskPointer | None, class_name: str
) -> MaskChange:
    slide_id = held.found.slide_id
    try:
        if match.path is None:
            raise AnnotationError(match.problem)
        used = load_tissue(store, held.used)
        mask = _read_mask(match.path, used, class_name)
        if np.array_equal(mask, used.mask):
            return MaskChange(slide_id, "unchanged")
        found = load_tissue(store, held.found)
        if np.array_equal(mask, found.mask) or any(np.array_equal(mask, store.read(o, "mask")) for o in held.others):
            # An export that nobody changed, of these settings or others, corrects nothing.
            if pointer is None:
                return MaskChange(slide_id, "unchanged")
            use_mask(store, slide_id, key_of(slide_id), None)
            return MaskChange(slide_id, "reverted", area_um2=found.area_um2)
        tissue = replace(
            found,
            mask=mask,
            mpp_x=found.level0_size.width * found.level0_mpp.x / mask.shape[1],
            mpp_y=found.level0_size.height * found.level0_mpp.y / mask.shape[0],
        )
        chosen = MaskPointer(mask_hash(mask), str(held.found.facts["identity"]))
        _commit(store, held.found, tissue, chosen)
        if pointer != chosen:
            use_mask(store, slide_id, key_of(slide_id), chosen)
    except (PathotuneError, OSError) as error:
        reason = str(error) if isinstance(error, PathotuneError) else type(error).__name__
        return MaskChange(slide_id, "failed", reason=reason)
    return MaskChange(slide_id, "imported", area_um2=tissue.area_um2)


def _commit(store: FeatureStore, found: CommitRecord, tissue: TissueMask, chosen: MaskPointer) -> None:
    slide: Any = dict(store.group(found).attrs).get("slide") or {}
    given = tissue.level0_mpp.x if slide.get("mpp_source") in USER_SOURCES else None
    fingerprint, key = imported_fingerprint(chosen.identity, given, chosen.mask), key_of(found.slide_id)
    if store.is_committed(IMPORTED_SET, key, fingerprint):
        return
    head = {
        "slide_id": found.slide_id,
        "set": str(IMPORTED_SET),
        "fingerprint": fingerprint,
        "group": f"{key}/{IMPORTED_SET.group(fingerprint[:12])}",
        "identity": chosen.identity,
        "imported_mask": chosen.mask,
        **({"case_id": found.facts["case_id"]} if "case_id" in found.facts else {}),
        **tissue_facts(tissue),
    }
    with store.stage(found.slide_id, key, IMPORTED_SET, fingerprint) as staged:
        for name, data in tissue_arrays(tissue).items():
            staged.put(name, data)
        staged.commit(head, {**head, "slide": slide, "made": now()})
    store.close_staging()


def mask_hash(mask: np.ndarray) -> str:
    """SHA-256 of a mask's shape and bits: the same from whatever file it came.

    Args:
        mask: bool [h, w].
    """
    head = f"{mask.shape[0]}x{mask.shape[1]}\n".encode()
    return hashlib.sha256(head + np.packbits(mask).tobytes()).hexdigest()


def _read_mask(path: Path, used: TissueMask, class_name: str) -> np.ndarray:
    if path.suffix.lower() == ".png":
        return _read_png(path, used)
    shape = (used.mask.shape[0], used.mask.shape[1])
    return draw(read_annotations(path).of(class_name), shape, used.level0_size)


def _read_png(path: Path, used: TissueMask) -> np.ndarray:
    data = path.read_bytes()
    if data[:8] != _PNG or len(data) < 24:
        raise AnnotationError("its mask file is no PNG. Save it again.")
    width, height = struct.unpack(">II", data[16:24])
    if width * height > MAX_MASK_PIXELS:
        raise AnnotationError(
            f"its mask has {width} x {height} px; at most {MAX_MASK_PIXELS:,} px are taken. Shrink it."
        )
    size = used.level0_size
    wanted = width * size.height / size.width
    if abs(height - wanted) > max(1.0, _MAX_ASPECT_ERROR * wanted):
        raise AnnotationError(
            f"its mask has {width} x {height} px, the slide {size.width} x {size.height}: it does not cover the same area. "
            "Export the whole slide."
        )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != (height, width):
        raise SlideError("its mask file is a damaged PNG. Save it again.")
    if pixels.ndim == 2:
        return np.asarray(pixels > 0)
    shown = (pixels[..., :3] > 0).any(axis=2)
    return np.asarray(shown & (pixels[..., 3] > 0) if pixels.shape[2] == 4 else shown)
