"""Parcel: one slide's features with all that places them, as it travels between tools."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from pathotune_pipeline.archive.identity import is_id
from pathotune_pipeline.errors import ForeignFileError
from pathotune_pipeline.features.persist import grid_facts, grid_of_facts, load_grid
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides.slide import Level
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.tiles.grid import TileGrid

OWN = "pathotune"
"""Name of the attribute under which a file of another tool's layout holds what that layout has no room for."""
OWN_FORMAT = 1


@dataclass(frozen=True)
class Parcel:
    """The readable tiles of one slide of a feature set, in raster order.

    Attributes:
        slide_id: whose.
        encoder: name of the encoder, as the card gives it.
        features: float16 or float32 [N, D].
        grid: the tiles' places and geometry; its arrays have N rows.
        level0_size: of the slide in pixels.
        level0_mpp: um/px of the slide's level 0.
        levels: of the pyramid, as far as the store knows; level 0 at least.
        fingerprint: of the features' commit.
        invalid_tiles: how many tiles were left out because they could not be read.
        source: attributes of the files these features were imported from; empty for our own.
        store, record: where tissue and thumbnail are read from when they are asked for.
    """

    slide_id: str
    encoder: str
    features: np.ndarray
    grid: TileGrid
    level0_size: Size
    level0_mpp: Mpp
    levels: tuple[Level, ...]
    fingerprint: str
    invalid_tiles: int
    source: dict[str, Any]
    store: FeatureStore = field(repr=False)
    record: CommitRecord = field(repr=False)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        """Numbers in one tile's feature."""
        return int(self.features.shape[1])

    @property
    def overlap_px(self) -> int:
        """Pixels of the tiles' own scale that neighbours share."""
        grid = self.grid
        return grid.tile_px - round(grid.tile_px * grid.stride_level0[0] / grid.extent_level0[0])

    @cached_property
    def mask(self) -> np.ndarray:
        """Tissue over the whole slide, bool [h, w]."""
        return self.store.read(self.record.made_from("tissue"), "mask").astype(bool)

    @property
    def thumbnail_jpeg(self) -> bytes:
        """A JPEG of the whole slide."""
        return self.store.read(self.record.made_from("tissue"), "thumbnail_jpeg").tobytes()

    @cached_property
    def outlines(self) -> list[list[list[list[float]]]]:
        """Polygons of tissue: each a list of rings, the outer one first, closed, of [x, y] in level-0 pixels."""
        document = json.loads(self.store.read(self.record.made_from("tissue"), "geojson").tobytes())
        return [feature["geometry"]["coordinates"] for feature in document["features"]]

    def own_facts(self) -> str:
        """JSON of what another tool's layout has no room for, so that a later import is exact."""
        facts = {
            "format": OWN_FORMAT,
            "slide_id": self.slide_id,
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "invalid_tiles": self.invalid_tiles,
            "level0_size": [self.level0_size.width, self.level0_size.height],
            "level0_mpp": [self.level0_mpp.x, self.level0_mpp.y],
            "mask_shape": list(self.mask.shape),
            "grid": grid_facts(self.grid),
        }
        return json.dumps(facts, sort_keys=True)


@dataclass(frozen=True, slots=True)
class OwnFacts:
    """What `Parcel.own_facts` wrote, read back."""

    slide_id: str
    encoder: str
    level0_size: Size
    level0_mpp: Mpp
    mask_shape: tuple[int, int]
    grid: dict[str, Any]

    def grid_at(self, coords: np.ndarray, tissue_fraction: np.ndarray) -> TileGrid:
        """The grid, exactly as it was exported, with these tiles."""
        return grid_of_facts(self.grid, coords, tissue_fraction)


def parse_own_facts(text: str) -> OwnFacts:
    """Read the attribute back.

    Raises:
        ForeignFileError: it is not what an export writes.
    """
    try:
        facts = json.loads(text)
        if facts["format"] != OWN_FORMAT:
            raise ValueError(f"format {facts['format']!r}")
        if not is_id(str(facts["slide_id"])):
            raise ValueError("its slide_id is a path")
        found = OwnFacts(
            slide_id=str(facts["slide_id"]),
            encoder=str(facts["encoder"]),
            level0_size=Size(int(facts["level0_size"][0]), int(facts["level0_size"][1])),
            level0_mpp=Mpp(float(facts["level0_mpp"][0]), float(facts["level0_mpp"][1])),
            mask_shape=(int(facts["mask_shape"][0]), int(facts["mask_shape"][1])),
            grid=dict(facts["grid"]),
        )
        found.grid_at(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    except (ValueError, LookupError, TypeError) as error:
        raise ForeignFileError(
            f"its attribute {OWN!r} is not what this version writes ({type(error).__name__}: {error}). Export it again, or "
            "delete the attribute."
        ) from None
    return found


def load_parcel(store: FeatureStore, record: CommitRecord) -> Parcel:
    """Read a committed slide, its unreadable tiles left out.

    Raises:
        CorruptDataError: what was committed cannot be read.
    """
    tissue: Any = dict(store.group(record.made_from("tissue")).attrs)
    tiles: Any = dict(store.group(record.made_from("tiles")).attrs)
    own: Any = dict(store.group(record).attrs)
    valid = store.read(record, "valid").astype(bool)
    grid = load_grid(store, record.made_from("tiles"))
    size = Size(int(tissue["level0_width"]), int(tissue["level0_height"]))
    known = (tissue.get("slide") or {}).get("levels") or [
        {"width": size.width, "height": size.height, "downsample": 1.0}
    ]
    return Parcel(
        slide_id=record.slide_id,
        encoder=str(own["encoder"]["name"]),
        features=store.read(record, "features")[valid],
        grid=replace(grid, coords=grid.coords[valid], tissue_fraction=grid.tissue_fraction[valid]),
        level0_size=size,
        level0_mpp=Mpp(float(tissue["level0_mpp_x"]), float(tissue["level0_mpp_y"])),
        levels=tuple(Level(Size(each["width"], each["height"]), each["downsample"]) for each in known),
        fingerprint=record.fingerprint,
        invalid_tiles=int((~valid).sum()),
        source=dict(tiles.get("source") or {}),
        store=store,
        record=record,
    )
