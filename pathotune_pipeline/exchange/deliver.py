"""One slide of another tool's into the store: read, turned into our terms, checked, committed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pathotune_pipeline.archive.identity import IdentityCache, content_hash, key_of
from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.errors import AnnotationError, ForeignFileError, ScaleError
from pathotune_pipeline.exchange.geometry import ImportSpec, KnownSlide, Placed, Tool, place
from pathotune_pipeline.exchange.hdf5 import RawFile, read_file
from pathotune_pipeline.exchange.parcel import OWN, OwnFacts, parse_own_facts
from pathotune_pipeline.exchange.sources import Piece
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.persist import grid_facts, tissue_arrays, tissue_facts
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.provenance import fingerprint, now, package_versions, short
from pathotune_pipeline.slides.open import USER_SOURCES, check_scale, open_slide
from pathotune_pipeline.slides.pyramid import read_overview
from pathotune_pipeline.slides.slide import Slide, SlideSpec
from pathotune_pipeline.store.layout import CHUNK_ROWS, SetName, slug
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.store.write import checksum
from pathotune_pipeline.tissue.annotations import draw, read_annotations
from pathotune_pipeline.tissue.mask import TissueMask, TissueSpec

REVISION = 1
"""Raised when other tools' files come to mean something else."""
THUMBNAIL_PX = 1024


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is known of a slide before its files are read.

    Attributes:
        slide_id: whose.
        piece: its files.
        item: its line of the manifest, where there is one.
        tool: whose files they are.
        spec: what the user says where the files do not.
        encoder: where the folder's name says it.
    """

    slide_id: str
    piece: Piece
    item: SlideItem | None
    tool: Tool
    spec: ImportSpec
    encoder: str | None


def encoder_of(attributes: Mapping[str, Any]) -> str | None:
    """The encoder's name, where a file says it."""
    if OWN in attributes:
        return parse_own_facts(str(attributes[OWN])).encoder
    found = attributes.get("encoder", attributes.get("extractor"))
    return str(found) if found else None


def deliver(store: FeatureStore, delivery: Delivery, cache: IdentityCache) -> tuple[Outcome, SetName]:
    """Commit one slide's features, unless they are committed already.

    Returns:
        What became of it, and the set in which it stands.

    Raises:
        SlideError: its files cannot be used.
        OSError: a disk does not answer.
    """
    raw = _read(delivery)
    own = parse_own_facts(str(raw.attributes[OWN])) if OWN in raw.attributes else None
    if raw.features is None:
        raise ForeignFileError("its files hold no features, only coordinates.")
    encoder = _encoder(raw, own, delivery)
    slide = _open(delivery.item)
    try:
        placed = place(delivery.tool, raw, delivery.spec, _known(delivery.item, slide), own)
        order = np.lexsort((placed.coords[:, 0], placed.coords[:, 1]))
        tissue = _tissue(delivery.piece, placed, slide, own)
        facts = slide.info.as_dict() if slide else None
    finally:
        if slide is not None:
            slide.close()
    identity = _identity(delivery, cache)
    job = _Commit(store, delivery, encoder=encoder, identity=identity, placed=placed, slide_facts=facts)
    return job.run(placed.coords[order], narrowed(raw.features[order]), tissue)


def _encoder(raw: RawFile, own: OwnFacts | None, delivery: Delivery) -> str:
    claims = (own.encoder if own else None, raw.encoder, encoder_of(raw.attributes), delivery.encoder)
    said = [claim for claim in (*claims, raw.attributes.get("encoder")) if claim]
    asked = delivery.spec.encoder
    if asked and said and asked not in {*said, *(slug(claim) for claim in said)}:
        raise ForeignFileError(f"its features are of {said[0]}, and --encoder {asked} was given.")
    if not asked and not said:
        raise ForeignFileError("its files do not say which encoder made them. Name it with --encoder.")
    return asked or said[0]


def narrowed(features: np.ndarray) -> np.ndarray:
    """The same numbers in float16 where it holds each of them exactly; else in float32."""
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
        if np.array_equal(half.astype(features.dtype), features):
            return half
        single = features.astype(np.float32)
    if not np.isfinite(single).all():
        raise ForeignFileError("its features are too large for float32.")
    return single


def _read(delivery: Delivery) -> RawFile:
    raw = read_file(delivery.piece.features, delivery.spec.encoder)
    if delivery.piece.coords is None:
        return raw
    places = read_file(delivery.piece.coords)
    if places.coords is None:
        raise ForeignFileError("its file of coordinates holds none.")
    if raw.features is not None and len(places.coords) != len(raw.features):
        raise ForeignFileError(
            f"its patch file holds {len(places.coords)} tiles, its features {len(raw.features)} rows. Extract it again."
        )
    if raw.coords is not None and not np.array_equal(raw.coords, places.coords):
        raise ForeignFileError(
            "its patch file lists other tiles, or in another order, than its features. Extract it again."
        )
    return replace(raw, coords=places.coords, attributes={**places.attributes, **raw.attributes})


def _open(item: SlideItem | None) -> Slide | None:
    """The slide, where its file is there."""
    return open_slide(item.path, mpp=item.mpp) if item is not None and item.path.is_file() else None


def _known(item: SlideItem | None, slide: Slide | None) -> KnownSlide:
    if slide is None:
        return KnownSlide(Mpp.square(item.mpp) if item is not None and item.mpp is not None else None)
    try:
        check_scale(slide.info, SlideSpec(), overridden=slide.info.mpp_source in USER_SOURCES)
    except ScaleError:
        return KnownSlide(None, slide.info.size)
    return KnownSlide(slide.info.mpp, slide.info.size)


def _identity(delivery: Delivery, cache: IdentityCache) -> str:
    """The slide's content hash where its file is there, else that of the file of features."""
    item = delivery.item
    if item is None or not item.path.is_file():
        with delivery.piece.features.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    known = cache.get(item.path)
    if known is None:
        known = content_hash(item.path)
        cache.put(item.path, known)
    return known


# --- tissue --------------------------------------------------------------------------------------------------------


def _tissue(piece: Piece, placed: Placed, slide: Slide | None, own: OwnFacts | None) -> TissueMask:
    """Tissue as the tool's contours say; without them, where tiles lie."""
    size, mpp = placed.level0_size, placed.level0_mpp
    wanted = TissueSpec().mpp
    shape = (max(1, round(size.height * mpp.y / wanted)), max(1, round(size.width * mpp.x / wanted)))
    if own is not None:
        shape = own.mask_shape
    mask = None
    if piece.contours is not None:
        try:
            polygons = [each for found in read_annotations(piece.contours).classes.values() for each in found]
            mask = draw(polygons, shape, size)
        except AnnotationError as error:
            raise ForeignFileError(str(error)) from None
    if mask is None:
        grid = replace(placed.grid, coords=placed.coords)
        mask = _covered(grid.boxes, shape, (size.width, size.height))
    return TissueMask(
        mask=mask,
        mpp_x=size.width * mpp.x / shape[1],
        mpp_y=size.height * mpp.y / shape[0],
        level0_mpp=mpp,
        level0_size=size,
        thumbnail=_thumbnail(piece.thumbnail, placed, slide),
    )


def _covered(boxes: np.ndarray, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose middle lies in a box, bool [h, w]."""
    mask = np.zeros(shape, bool)
    scale = np.array([shape[1] / size[0], shape[0] / size[1]])
    starts = np.rint(boxes[:, :2] * scale).astype(int).clip(0)
    ends = np.rint((boxes[:, :2] + boxes[:, 2:]) * scale).astype(int).clip(0)
    for (left, top), (right, bottom) in zip(starts.tolist(), ends.tolist(), strict=True):
        mask[top:bottom, left:right] = True
    return mask


def _thumbnail(path: Path | None, placed: Placed, slide: Slide | None) -> np.ndarray:
    """uint8 [h, w, 3]: the slide's, else the tool's, else white."""
    width, height = placed.level0_size.width, placed.level0_size.height
    factor = min(1.0, THUMBNAIL_PX / max(width, height))
    shape = (max(1, round(height * factor)), max(1, round(width * factor)))
    picture = None
    if slide is not None and slide.info.mpp is not None:
        picture = read_overview(slide, slide.info.mpp.mean / factor)[0]
    elif path is not None:
        decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        picture = None if decoded is None else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    if picture is None:
        return np.full((*shape, 3), 255, np.uint8)
    if picture.shape[:2] == shape:
        return picture
    return np.asarray(cv2.resize(picture, (shape[1], shape[0]), interpolation=cv2.INTER_AREA))


# --- commits -------------------------------------------------------------------------------------------------------


class _Commit:
    """Names, fingerprints and records of one slide."""

    def __init__(
        self,
        store: FeatureStore,
        delivery: Delivery,
        *,
        encoder: str,
        identity: str,
        placed: Placed,
        slide_facts: dict[str, Any] | None,
    ) -> None:
        self.store, self.delivery, self.placed = store, delivery, placed
        self.encoder, self.identity, self.slide_facts = encoder, identity, slide_facts
        self.key = key_of(delivery.slide_id)
        origin = {"imported_from": delivery.tool, **placed.recipe}
        tool, label = delivery.tool, placed.label
        self.tiles_set = SetName("tiles", f"{tool}-{label}", short(fingerprint("tiles", REVISION, origin)))
        recipe = short(fingerprint("features", REVISION, {**origin, "encoder": encoder}))
        self.features_set = SetName("features", f"{tool}.{slug(encoder)}-{label}", recipe)

    def run(self, coords: np.ndarray, features: np.ndarray, tissue: TissueMask) -> tuple[Outcome, SetName]:
        """Commit tiles, then features. Coordinates and features in raster order."""
        grid = replace(self.placed.grid, coords=coords)
        grid = replace(grid, tissue_fraction=tissue.fraction(grid.boxes))
        arrays = {"coords": coords, "tissue_fraction": grid.tissue_fraction, **tissue_arrays(tissue)}
        facts = {
            "geometry": grid_facts(grid),
            "source": self.placed.source,
            "imported_from": self.delivery.tool,
            "moved_px": self.placed.moved_px,
            "size_known": self.placed.size_known,
            **tissue_facts(tissue),
        }
        # The outline follows from the mask, and a thumbnail changes nothing.
        sums = {"coords": checksum(coords), "mask": checksum(arrays["mask"])}
        slide = {"slide": self.slide_facts} if self.slide_facts else {}
        tiles = fingerprint("tiles", REVISION, {"identity": self.identity, "arrays": sums, **facts})
        parts = {"tiles": tiles, "encoder": self.encoder, "dtype": features.dtype.str, "features": checksum(features)}
        prints = fingerprint("features", REVISION, {**parts, "shape": list(features.shape)})
        count = len(coords)
        status: Any = "committed" if count else "empty"
        reason = "" if count else f"{self.delivery.tool} found no tiles on it"
        told = {"features": str(self.features_set), "imported_from": self.delivery.tool}
        if self.store.is_committed(self.features_set, self.key, prints):
            self.store.renew(self.features_set, self.key, prints)
            return self._outcome(status, reason, count, new=False, facts=told), self.features_set
        tile_facts = {"tiles": count, "reason": reason, "flags": [], **facts}
        if not self.store.is_committed(self.tiles_set, self.key, tiles):
            with self.store.stage(self.delivery.slide_id, self.key, self.tiles_set, tiles) as staged:
                for name, data in arrays.items():
                    staged.put(name, data)
                head = {**self._head(self.tiles_set, tiles), **tile_facts}
                staged.commit(head, {**head, **slide, "made": now()})
        self._commit_features(features, tiles, prints, reason)
        return self._outcome(status, reason, count, new=True, facts=told), self.features_set

    def _commit_features(self, features: np.ndarray, tiles: str, prints: str, reason: str) -> None:
        count, dim = features.shape
        grid = self.placed.grid
        with self.store.stage(self.delivery.slide_id, self.key, self.features_set, prints) as staged:
            chunks = (max(1, min(count, CHUNK_ROWS)), max(1, dim))
            array = staged.create("features", shape=(count, dim), dtype=features.dtype.name, chunks=chunks)
            if features.size:
                array[...] = features
            staged.expect("features", checksum(features))
            staged.put("valid", np.ones(count, bool))
            group = self._group(self.tiles_set, tiles)
            head = {
                **self._head(self.features_set, prints),
                # One group holds places and tissue: nothing stands among the tissue that we found ourselves.
                "tiles_group": group,
                "tissue_group": group,
                "tiles_fingerprint": tiles,
                "tissue_fingerprint": tiles,
                "imported_from": self.delivery.tool,
                "flags": [],
                "tiles": count,
                "invalid_tiles": 0,
                "dim": dim,
                "reason": reason,
            }
            if self.delivery.item is not None and self.delivery.item.context:
                head["context"] = dict(self.delivery.item.context)
            made_with = {
                "encoder": {"name": self.encoder, "source": f"imported from {self.delivery.tool}", "dim": dim},
                "settings": {"import": self.delivery.spec.model_dump(mode="json")},
                "mpp": grid.mpp,
                "tile_px": grid.tile_px,
                "versions": package_versions(),
                "reader": None,
                "made": now(),
            }
            staged.commit(head, {**head, **made_with})

    def _group(self, set_name: SetName, prints: str) -> str:
        return f"{self.key}/{set_name.group(short(prints))}"

    def _head(self, set_name: SetName, prints: str) -> dict[str, Any]:
        item = self.delivery.item
        return {
            "slide_id": self.delivery.slide_id,
            "set": str(set_name),
            "fingerprint": prints,
            "group": self._group(set_name, prints),
            "identity": self.identity,
            **({"case_id": item.case_id} if item is not None and item.case_id else {}),
        }

    def _outcome(self, status: Any, reason: str, tiles: int, *, new: bool, facts: dict[str, Any]) -> Outcome:
        more = {"slide": self.slide_facts} if self.slide_facts else {}
        return Outcome(
            self.delivery.slide_id,
            status,
            reason=reason,
            new=new,
            tiles=tiles,
            identity=self.identity,
            facts={**facts, **more},
        )
