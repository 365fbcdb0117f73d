"""Sheets of the tiles that a head weighs most and least: the slide's own pixels, with places and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tiles.read import read_tile

_SIDE_PX, _GAP, _LINE_PX, _MARGIN = 192, 10, 17, 20
_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


@dataclass(frozen=True, slots=True, eq=False)
class RankedTile:
    """A tile on a sheet.

    Attributes:
        index: in the grid.
        place: (x, y) of its corner in level-0 pixels.
        attention: its weight.
        level: its percentile, 0 to 1.
        pixels: uint8 [P, P, 3] at the grid's scale; None where they cannot be read.
    """

    index: int
    place: tuple[int, int]
    attention: float
    level: float
    pixels: np.ndarray | None


def ranked(grid: TileGrid, attention: np.ndarray, *, count: int, highest: bool) -> list[int]:
    """Indices of the tiles with the most or least attention that do not overlap each other; of equals the first.

    Args:
        grid: N tiles.
        attention: float [N].
        count: how many, at most.
        highest: the most, or the least.
    """
    if count < 1:
        return []
    order = np.argsort(-attention if highest else attention, kind="stable")
    width, height = grid.extent_level0
    chosen: list[int] = []
    for index in order.tolist():
        away = np.abs(grid.coords[chosen] - grid.coords[index])  # [K, 2]
        # Neighbours on a grid may share a pixel by rounding.
        if not ((away[:, 0] < width - 2) & (away[:, 1] < height - 2)).any():
            chosen.append(index)
        if len(chosen) == count:
            break
    return chosen


def read_ranked(
    slide: Slide, grid: TileGrid, indices: Sequence[int], *, attention: np.ndarray, levels: np.ndarray
) -> list[RankedTile]:
    """Tiles with their pixels; a tile that cannot be read has none."""
    found = []
    for index in indices:
        try:
            pixels = read_tile(slide, grid, index)
        except TileReadError:
            pixels = None
        x, y = grid.coords[index].tolist()
        found.append(RankedTile(index, (x, y), float(attention[index]), float(levels[index]), pixels))
    return found


def write_sheet(path: Path, parts: Sequence[tuple[str, Sequence[RankedTile]]], *, title: str, columns: int = 8) -> None:
    """Write a PNG with the parts one below the other.

    Args:
        path: where to.
        parts: a heading, and its tiles.
        title: one line above all.
        columns: tiles in a row.
    """
    font, small = ImageFont.load_default(17), ImageFont.load_default(13)
    cell_height = _SIDE_PX + 2 * _LINE_PX + _GAP
    rows = [max(1, -(-len(tiles) // columns)) for _, tiles in parts]
    widest = max((min(columns, len(tiles)) for _, tiles in parts), default=1)
    width = 2 * _MARGIN + max(widest * (_SIDE_PX + _GAP), int(font.getlength(title)))
    height = 2 * _MARGIN + 30 + sum(30 + count * cell_height for count in rows)
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=font)
    top = _MARGIN + 30
    for (heading, tiles), count in zip(parts, rows, strict=True):
        draw.text((_MARGIN, top), heading, fill=_INK, font=font)
        for number, tile in enumerate(tiles):
            left = _MARGIN + number % columns * (_SIDE_PX + _GAP)
            upper = top + 28 + number // columns * cell_height
            _draw_tile(canvas, draw, tile, at=(left, upper), font=small)
        top += 30 + count * cell_height
    canvas.save(path, format="PNG", compress_level=4)


def _draw_tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: RankedTile, *, at: tuple[int, int], font: _Font
) -> None:
    left, top = at
    if tile.pixels is None:
        draw.rectangle((left, top, left + _SIDE_PX, top + _SIDE_PX), outline=_INK)
        draw.text((left + 8, top + 8), "cannot be read", fill=_INK, font=font)
    else:
        canvas.paste(Image.fromarray(tile.pixels).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS), at)
    draw.text((left, top + _SIDE_PX + 2), f"x {tile.place[0]}, y {tile.place[1]}", fill=_INK, font=font)
    said = f"attention {tile.attention:.3g}, {100 * tile.level:.2f} %"
    draw.text((left, top + _SIDE_PX + 2 + _LINE_PX), said, fill=_INK, font=font)
