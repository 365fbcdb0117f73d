"""Other tools' words for a tile's place and size, turned into ours: level-0 pixels, um/px, a side in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pathotune_pipeline.errors import ForeignFileError
from pathotune_pipeline.exchange.hdf5 import RawFile
from pathotune_pipeline.exchange.parcel import OwnFacts
from pathotune_pipeline.exchange.stamp import to_px
from pathotune_pipeline.geometry import Mpp, Size, magnification_to_mpp
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.store.layout import number
from pathotune_pipeline.tiles.grid import TileGrid

Tool = Literal["trident", "clam", "stamp"]
MAX_STEPS_OUTSIDE = 1
"""Tools lay tiles that reach over the slide's edge; none begins farther outside than one tile."""


class ImportSpec(Spec):
    """What other tools' files do not say of themselves."""

    encoder: str | None = setting(None, "Name of the encoder, where the files do not say it or hold several.")
    mpp: float | None = setting(
        None,
        "um/px of level 0 of every slide, where neither its file nor a manifest says it.",
        aliases=("--mpp-override",),
        gt=0,
    )
    nominal_mpp: bool = setting(
        False,
        "Take 10 / magnification for a slide's um/px where nothing better is known; TRIDENT rounds magnifications, so it "
        "may be 40 % wrong.",
    )
    unit: Literal["px", "um"] | None = setting(
        None, "Unit of coordinates, where STAMP's files do not say it: level-0 px or um."
    )
    tile_px: int | None = setting(None, "Side of a tile in pixels, where the files do not say it.", gt=0)
    tile_um: float | None = setting(None, "Side of a tile in um, where the files do not say it.", gt=0)


@dataclass(frozen=True, slots=True)
class KnownSlide:
    """What is known of a slide besides the tool's files.

    Attributes:
        mpp: um/px of level 0 from a manifest, or else from the slide's own file.
        size: of level 0, from the slide's file.
    """

    mpp: Mpp | None = None
    size: Size | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a slide's tiles lie, in our terms.

    Attributes:
        coords: int64 [N, 2], (x, y) in level-0 pixels, in the file's order.
        grid: geometry without tiles.
        level0_mpp: of the slide.
        level0_size: of the slide; where nothing says it, what its tiles reach.
        size_known: whether `level0_size` is more than that.
        recipe: what all slides of one set share, as the tool says it.
        label: the same for the set's name: "512px-20x".
        source: the tool's own attributes.
        moved_px: by how much a place was rounded at most, in level-0 pixels.
    """

    coords: np.ndarray
    grid: TileGrid
    level0_mpp: Mpp
    level0_size: Size
    size_known: bool
    recipe: dict[str, Any]
    label: str
    source: dict[str, Any]
    moved_px: float = 0.0


@dataclass(frozen=True, slots=True)
class _Tile:
    """A tile as a tool's attributes give it.

    Attributes:
        tile_px: side in pixels of its own scale.
        extent: (width, height) in level-0 pixels.
        step_share: stride / side.
        level: pyramid level that it is cut from, and level-0 pixels per pixel of that level.
        size: of level 0, where the attributes say it.
    """

    tile_px: int
    extent: tuple[float, float]
    recipe: dict[str, Any]
    label: str
    step_share: float = 1.0
    level: int = 0
    downsample: tuple[float, float] = (1.0, 1.0)
    size: Size | None = None


SOURCE_NAMES = (
    "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "level0_width",
    "level0_height", "patch_level", "downsample", "custom_downsample", "downsampled_level_dim", "level_dim", "unit",
    "tile_size", "tile_size_um", "tile_size_px", "stamp_version", "code_hash", "feat_type",
)  # fmt: skip
"""Attributes that are kept; names and folders are not."""


def place(tool: Tool, raw: RawFile, spec: ImportSpec, known: KnownSlide, own: OwnFacts | None) -> Placed:
    """Settle where a slide's tiles lie.

    Args:
        tool: who wrote the file.
        raw: what it holds; with coords.
        spec: what the user says where the file does not.
        known: of the slide.
        own: where the file is an export of ours, which then counts.

    Raises:
        ForeignFileError: something needed is said nowhere, or the places cannot be.
    """
    if raw.coords is None:
        raise ForeignFileError("its features come without coords. Give the folder of the coordinates' files, too.")
    source = {name: raw.attributes[name] for name in SOURCE_NAMES if name in raw.attributes}
    if own is not None:
        _check_size(own.level0_size, known)
        return _as_exported(tool, raw.coords, own, source)
    level0_mpp = _level0_mpp(source, spec, known)
    tile = _READ[tool](source, spec, level0_mpp)
    unit = _unit(tool, source, spec)
    coords, moved = to_px(raw.coords, level0_mpp if unit == "um" else Mpp(1.0, 1.0))
    if unit == "px" and moved:
        raise ForeignFileError("its coords are no whole numbers, so no level-0 px. Are they um? Say it with --unit um.")
    extent = tile.extent
    size = known.size or tile.size
    _check_size(tile.size, known)
    mpp = math.sqrt(extent[0] * level0_mpp.x * extent[1] * level0_mpp.y) / tile.tile_px
    shrink = math.sqrt(extent[0] / tile.downsample[0] * extent[1] / tile.downsample[1]) / tile.tile_px
    grid = TileGrid(
        coords=np.zeros((0, 2), np.int64),
        tissue_fraction=np.zeros(0, np.float32),
        tile_px=tile.tile_px,
        mpp=mpp,
        level=tile.level,
        shrink=shrink,
        extent_level0=extent,
        stride_level0=(extent[0] * tile.step_share, extent[1] * tile.step_share),
        read_size_px=(round(extent[0] / tile.downsample[0]), round(extent[1] / tile.downsample[1])),
        enlargement=max(0.0, 1.0 / shrink - 1.0),
    )
    reach = _reach(coords, extent)
    placed = Placed(coords, grid, level0_mpp, size or reach, size is not None, tile.recipe, tile.label, source, moved)
    _check_places(placed)
    return placed


def _as_exported(tool: Tool, values: np.ndarray, own: OwnFacts, source: dict[str, Any]) -> Placed:
    grid = own.grid_at(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    coords, moved = to_px(values, own.level0_mpp if tool == "stamp" else Mpp(1.0, 1.0))
    overlap_px = grid.tile_px - round(grid.tile_px * grid.stride_level0[0] / grid.extent_level0[0])
    recipe = {"tile_px": grid.tile_px, "mpp": grid.mpp, "overlap_px": overlap_px}
    label = f"{grid.tile_px}px-{number(grid.mpp)}mpp"
    placed = Placed(coords, grid, own.level0_mpp, own.level0_size, True, recipe, label, source, moved)
    _check_places(placed)
    return placed


def _check_size(claimed: Size | None, known: KnownSlide) -> None:
    if known.size and claimed and known.size != claimed:
        raise ForeignFileError(
            f"its file is of a slide of {claimed.width} x {claimed.height} px, the slide here has {known.size.width} x "
            f"{known.size.height}. Is it another slide's?"
        )


def _check_places(placed: Placed) -> None:
    coords, size = placed.coords, placed.level0_size
    if not len(coords):
        return
    repeated = len(coords) - len(np.unique(coords, axis=0))
    if repeated:
        raise ForeignFileError(
            f"{repeated} of its {len(coords)} tiles lie where another one lies. Make the file again."
        )
    slack = MAX_STEPS_OUTSIDE * np.asarray(placed.grid.extent_level0)
    outside = ((coords < -slack) | (coords >= (size.width, size.height))).any(axis=1)
    if outside.any():
        x, y = coords[outside][0]
        raise ForeignFileError(
            f"{int(outside.sum())} of its {len(coords)} tiles lie outside the slide of {size.width} x {size.height} px, such as "
            f"({x}, {y}). Check the unit of coordinates, the mpp, and whether the file is this slide's."
        )


def _reach(coords: np.ndarray, extent: tuple[float, float]) -> Size:
    if not len(coords):
        return Size(max(1, math.ceil(extent[0])), max(1, math.ceil(extent[1])))
    right, bottom = np.ceil(coords.max(axis=0) + np.asarray(extent)).astype(int)
    return Size(max(1, int(right)), max(1, int(bottom)))


def _level0_mpp(source: Mapping[str, Any], spec: ImportSpec, known: KnownSlide) -> Mpp:
    if known.mpp is not None:
        return known.mpp
    if spec.mpp is not None:
        return Mpp.square(spec.mpp)
    magnification = source.get("level0_magnification")
    if magnification is not None and spec.nominal_mpp:
        return Mpp.square(magnification_to_mpp(_positive(source, "level0_magnification")))
    hint = ", or --nominal-mpp to take it from the magnification" if magnification is not None else ""
    raise ForeignFileError(
        "its file does not say the slide's um/px. Give a manifest with an mpp column, the slides' folder with --slides, "
        f"or --mpp 0.25 for all{hint}."
    )


def _unit(tool: Tool, source: Mapping[str, Any], spec: ImportSpec) -> str:
    if tool != "stamp":
        return "px"
    if "unit" not in source and "tile_size_um" in source:
        return "um"  # STAMP's own rule
    unit = source.get("unit", spec.unit)
    if unit not in ("px", "um"):
        said = f"says its unit is {unit!r}" if unit else "does not say the unit of its coords"
        raise ForeignFileError(f"its file {said}. Say which with --unit px (of level 0) or --unit um.")
    return str(unit)


def _positive(source: Mapping[str, Any], name: str) -> float:
    try:
        value = float(source[name])
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise ForeignFileError(f"its attribute {name} is {source[name]!r}; a number above 0 is needed.")
    return value


def _pair(source: Mapping[str, Any], name: str) -> tuple[float, float]:
    value = source[name]
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2:
        raise ForeignFileError(f"its attribute {name} is {value!r}; one number or two are needed.")
    return _positive({name: pair[0]}, name), _positive({name: pair[1]}, name)


def _needs(source: Mapping[str, Any], name: str, otherwise: str) -> float:
    if name not in source:
        raise ForeignFileError(f"its file has no attribute {name}. {otherwise}")
    return _positive(source, name)


def _trident_tile(source: Mapping[str, Any], spec: ImportSpec, level0_mpp: Mpp) -> _Tile:
    """TRIDENT: `patch_size` at `target_magnification`, `level0_magnification` / `target_magnification` times that at level 0."""
    side = int(
        _needs(source, "patch_size", "Import from TRIDENT's own files, with the patches folder beside the features.")
    )
    size = None
    if {"level0_width", "level0_height"} <= set(source):
        size = Size(int(_positive(source, "level0_width")), int(_positive(source, "level0_height")))
    overlap = float(source.get("overlap") or 0)
    if not 0 <= overlap < side:
        raise ForeignFileError(f"its attribute overlap is {source['overlap']!r}; 0 to under {side} is needed.")
    if {"level0_magnification", "target_magnification"} <= set(source):
        target = _positive(source, "target_magnification")
        extent = side * _positive(source, "level0_magnification") / target
        scale = f"{number(target)}x"
    else:  # files of other tools in TRIDENT's manner, and old ones
        extent = _needs(source, "patch_size_level0", "It does not say how large a tile is at level 0.")
        scale = f"{number(extent)}px0"
    recipe = {"patch_size": side, "scale": scale, "overlap": overlap}
    label = f"{side}px-{scale}" + (f"-{number(overlap)}over" if overlap else "")
    return _Tile(side, (extent, extent), recipe, label, step_share=(side - overlap) / side, size=size)


def _clam_tile(source: Mapping[str, Any], spec: ImportSpec, level0_mpp: Mpp) -> _Tile:
    """CLAM: `patch_size` pixels of `patch_level`, which has `downsample` level-0 pixels a pixel."""
    otherwise = "Give the folder of CLAM's patch files with --coords DIR."
    side = int(_needs(source, "patch_size", otherwise))
    if "patch_level" not in source or "downsample" not in source:
        raise ForeignFileError(f"its file has no attribute patch_level and downsample. {otherwise}")
    level, across_down = int(source["patch_level"]), _pair(source, "downsample")
    custom = _positive(source, "custom_downsample") if "custom_downsample" in source else 1.0
    extent = (side * custom * across_down[0], side * custom * across_down[1])
    size = None
    if "level_dim" in source:
        width, height = _pair(source, "level_dim")
        size = Size(round(width * across_down[0]), round(height * across_down[1]))
    recipe = {"patch_size": side, "patch_level": level, "custom_downsample": custom}
    return _Tile(side, extent, recipe, f"{side}px-level{level}", level=level, downsample=across_down, size=size)


def _stamp_tile(source: Mapping[str, Any], spec: ImportSpec, level0_mpp: Mpp) -> _Tile:
    """STAMP: `tile_size_um` um on a side, `tile_size_px` pixels for the encoder; older files call the first `tile_size`."""
    if str(source.get("feat_type", "tile")) != "tile":
        raise ForeignFileError(f"its features are of a whole {source['feat_type']}, not of tiles.")
    name = next((name for name in ("tile_size_um", "tile_size") if name in source), None)
    side_um = _positive(source, name) if name else spec.tile_um
    if side_um is None:
        raise ForeignFileError("its file does not say how large a tile is. Give --tile-um 256.")
    side = int(_positive(source, "tile_size_px")) if "tile_size_px" in source else spec.tile_px
    if side is None:
        raise ForeignFileError("its file does not say how many pixels a tile has. Give --tile-px 224.")
    recipe = {"tile_px": side, "tile_um": side_um}
    extent = (side_um / level0_mpp.x, side_um / level0_mpp.y)
    return _Tile(side, extent, recipe, f"{side}px-{number(side_um)}um")


_READ: dict[str, Callable[[Mapping[str, Any], ImportSpec, Mpp], _Tile]] = {
    "trident": _trident_tile,
    "clam": _clam_tile,
    "stamp": _stamp_tile,
}
