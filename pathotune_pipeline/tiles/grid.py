"""Which tiles of a slide are read: a grid at an exact physical scale, anchored at (0, 0), where there is tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pathotune_pipeline.errors import ScaleError, SpecError
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.slides.pyramid import RegionPlan, plan_region
from pathotune_pipeline.slides.slide import SlideInfo
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tissue.mask import TissueMask

REVISION = 1
"""Raised by hand whenever the grid of any slide changes: it is part of the stage's fingerprint."""

ROUNDING_PX = 0.5
"""Locations and read sizes are whole pixels: a tile may seem to reach over the edge by this many and is still whole."""


class TileSpec(Spec):
    """Which tiles are made."""

    mpp: float | None = setting(None, "um/px of the tiles; empty takes the encoder's own.", gt=0)
    tile_px: int | None = setting(
        None, "Side of a tile in pixels; empty takes the encoder's own.", aliases=("--patch-size",), gt=0
    )
    centred_on_mpp: float | None = setting(
        None,
        "um/px of another grid with whose tiles these share their centres, one for one; empty: a grid of their own.",
        gt=0,
    )
    overlap_px: int = setting(0, "Pixels that neighbouring tiles share; less than the tile's side.", ge=0)
    min_tissue: float = setting(0.25, "Least share of a tile that must be tissue, 0 to 1.", ge=0, le=1)
    max_white: float = setting(
        1.0,
        "Tiles with a larger share of white pixels, darkest channel 220 or more, are dropped, fat among them; 1 drops none.",
        ge=0,
        le=1,
    )
    max_black: float = setting(
        1.0,
        "Tiles with a larger share of black pixels, brightest channel 20 or less, are dropped; 1 drops none.",
        ge=0,
        le=1,
    )
    min_sharpness: float = setting(
        0.0,
        "Tiles whose brightness, 0-255, has a smaller variance of the Laplacian are dropped as blurred; 0 drops none.",
        ge=0,
    )
    filter_mpp: float = setting(
        2.0,
        "um/px at which tiles are looked at for white, black and blur; finer tells blur better and takes longer.",
        gt=0,
    )
    max_tiles: int | None = setting(
        None, "Most tiles of a slide; of more, so many are drawn at random; empty takes all.", gt=0
    )
    sample_seed: int = setting(0, "Decides, with the slide's content, which tiles are drawn.", ge=0)
    stain: Literal["none", "macenko", "reinhard"] = setting(
        "none", "Stain normalisation of the tiles to a built-in H&E reference: none, macenko or reinhard."
    )

    def placing(self) -> TileSpec:
        """This Spec with its defaults for what does not decide where tiles lie.

        That is: scale and side, which a recipe names itself; stain, which decides features; and settings of what is off.
        """
        idle: dict[str, object] = {"mpp": None, "tile_px": None, "stain": "none"}
        if self.max_tiles is None:
            idle["sample_seed"] = 0
        if self.max_white == 1 and self.max_black == 1 and self.min_sharpness == 0:
            idle["filter_mpp"] = type(self).model_fields["filter_mpp"].default
        return self.with_values(**idle)


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one slide.

    Attributes:
        coords: int64 [N, 2], top-left corners (x, y) in level-0 pixels; rows from top to bottom, then x.
        tissue_fraction: float32 [N], share of each tile that is tissue.
        tile_px: side of a tile as it is given out.
        mpp: um/px of the tiles as they are given out.
        level: pyramid level that is read.
        shrink: target mpp / level mpp; under 1 the level is enlarged.
        extent_level0: (width, height) of a tile in level-0 pixels, not rounded.
        stride_level0: (x, y) from tile to tile in level-0 pixels, not rounded.
        read_size_px: (width, height) in pixels of the level that is read for a tile.
        enlargement: share by which pixels are enlarged, 0 where the level is finer than the target.
        counts: (filter, tiles left by it) in the order in which they were applied; the first is the whole grid.
        beyond_edge: tiles that reach over the slide's edge, where they are white; only grids around others have some.
    """

    coords: np.ndarray
    tissue_fraction: np.ndarray
    tile_px: int
    mpp: float
    level: int
    shrink: float
    extent_level0: tuple[float, float]
    stride_level0: tuple[float, float]
    read_size_px: tuple[int, int]
    enlargement: float
    counts: tuple[tuple[str, int], ...] = ()
    beyond_edge: int = 0

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def boxes(self) -> np.ndarray:
        """Each tile as (x, y, width, height) in level-0 pixels: float64 [N, 4]."""
        return np.column_stack([self.coords, np.broadcast_to(self.extent_level0, (len(self.coords), 2))])

    @property
    def plan(self) -> RegionPlan:
        """How each tile is read."""
        return RegionPlan(
            level=self.level,
            mpp=self.mpp,
            size_px=(self.tile_px, self.tile_px),
            read_size_px=self.read_size_px,
            extent_level0=self.extent_level0,
            shrink=self.shrink,
            enlargement=self.enlargement,
        )


def grid_coords(size: Size, extent: tuple[float, float], *, stride: tuple[float, float]) -> np.ndarray:
    """Corners of all whole tiles of a slide, in raster order: x_i = round(i * stride).

    Args:
        size: of level 0 in pixels.
        extent: (width, height) of a tile in level-0 pixels.
        stride: (x, y) from tile to tile in level-0 pixels; over 0.

    Returns:
        int64 [N, 2], (x, y) in level-0 pixels.
    """
    x = _starts(size.width, extent[0], stride[0])
    y = _starts(size.height, extent[1], stride[1])
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def tile_slide(
    info: SlideInfo, mask: TissueMask, spec: TileSpec, *, mpp: float, tile_px: int, allowed: TissueMask | None = None
) -> TileGrid:
    """Lay the grid over a slide and keep the tiles with enough tissue. What needs pixels follows in `select_tiles`.

    Args:
        info: facts of the slide.
        mask: its tissue.
        spec: overlap and least tissue. Its own `mpp` and `tile_px` are the caller's affair: they go before the
            encoder's, which this package does not know.
        mpp: um/px of the tiles.
        tile_px: side of the tiles.
        allowed: the part of the tissue that counts for `min_tissue`; None where all of it does.

    Raises:
        ScaleError: no mpp, or the slide is too coarse for `mpp`.
        SpecError: the overlap is as large as the tile.
    """
    if spec.overlap_px >= tile_px:
        raise SpecError(f"tiles.overlap_px: {spec.overlap_px} px, but a tile has {tile_px} px. Give less than that.")
    plan = plan_region(info, mpp, (tile_px, tile_px))
    if info.mpp is None:  # plan_region has refused it; said again for the type checker
        raise ScaleError("no mpp in its metadata.")
    step = (tile_px - spec.overlap_px) * mpp
    stride = (step / info.mpp.x, step / info.mpp.y)
    if min(stride) < 1:
        raise SpecError(
            f"tiles.overlap_px: {spec.overlap_px} px leave steps of {step:.3g} um, under one pixel of the slide. "
            "Give a smaller overlap."
        )
    coords = grid_coords(info.size, plan.extent_level0, stride=stride)
    boxes = np.empty((len(coords), 4), np.float64)
    boxes[:, :2], boxes[:, 2:] = coords, plan.extent_level0
    fraction = mask.fraction(boxes)
    counted = fraction if allowed is None else allowed.fraction(boxes)
    # Where only a part of the tissue is allowed, a tile with none of it is out even if no tissue at all is asked for.
    keep = (counted >= np.float32(spec.min_tissue)) & ((counted > 0) | (allowed is None))
    return TileGrid(
        coords=coords[keep],
        tissue_fraction=fraction[keep],
        tile_px=tile_px,
        mpp=mpp,
        level=plan.level,
        shrink=plan.shrink,
        extent_level0=plan.extent_level0,
        stride_level0=stride,
        read_size_px=plan.read_size_px,
        enlargement=plan.enlargement,
        counts=(("grid", len(coords)), ("tissue", int(keep.sum()))),
    )


def _starts(length: int, extent: float, stride: float) -> np.ndarray:
    count = max(0, int((length + ROUNDING_PX - extent) / stride) + 2)
    starts = np.rint(np.arange(count) * stride).astype(np.int64)
    return starts[starts + extent <= length + ROUNDING_PX]
