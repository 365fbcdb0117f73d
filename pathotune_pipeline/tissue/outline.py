"""Outlines of a mask along the edges of its pixels, so that their area is the mask's own.

OpenCV's contours run through the centres of the rim's pixels and lose half a pixel all around.

An outline turns at each of its corners, so its sides lie along rows and columns in turn, and a side ends at the next
corner of its row or column: what lies between need not be looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_RIGHT, _DOWN, _LEFT, _UP = range(4)
_INSIDE = np.array([(0, 0), (-1, 0), (-1, -1), (0, -1)])
"""For each direction, where the pixel on its right hand lies, seen from where the side begins."""
_TOUCHING = (6, 9)
_BEGINS = np.full(16, -1)
"""The direction of the side that begins at a vertex, with the inside on its right hand, by which of the four pixels
around it are inside (1: above left, 2: above right, 4: below left, 8: below right); -1 where none begins. Where two
pixels touch by a corner only (6 and 9), another one begins in the opposite direction."""
for _direction, _codes in ((_RIGHT, (8, 9, 13)), (_DOWN, (4, 7)), (_LEFT, (1, 11)), (_UP, (2, 6, 14))):
    _BEGINS[list(_codes)] = _direction


def trace(mask: np.ndarray, scale: tuple[float, float]) -> list[list[np.ndarray]]:
    """Trace the pieces of a mask.

    Args:
        mask: bool [h, w].
        scale: what one mask pixel is worth along x and y.

    Returns:
        For each piece (4-connected, in raster order) its rings, the outer one first; each float64 [K, 2], (x, y), its
        corners only, not closed.
    """
    image = mask.astype(np.uint8)
    sides = _sides_of(image)
    members, firsts = _rings(sides)
    if not len(firsts):
        return []
    corners, direction = sides.begin[members], sides.direction[members]
    runs = np.diff(corners[:, 0], append=0) * (direction % 2 == 0)  # along rows; each ring ends along a column
    areas = -np.add.reduceat(corners[:, 1] * runs, firsts)
    _, labels = cv2.connectedComponents(image, connectivity=4)
    x, y = (corners[firsts] + _INSIDE[direction[firsts]]).T
    outers: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    rings = np.split(corners.astype(np.float64) * scale, firsts[1:])
    for ring, label, area in zip(rings, labels[y, x].tolist(), areas.tolist(), strict=True):
        if area > 0:
            outers[label] = ring
        else:
            holes.setdefault(label, []).append(ring)
    return [[outers[label], *holes.get(label, [])] for label in sorted(outers)]


@dataclass(frozen=True)
class _Sides:
    """Sides between inside and outside, each with the inside on its right hand.

    Attributes:
        begin: int64 [S, 2], (x, y) of the corner where each begins.
        direction: int64 [S], `_RIGHT`, `_DOWN`, `_LEFT` or `_UP`.
        following: int64 [S], the side that comes after each on its ring.
        starts: int64 [R], those at which a ring may begin, in the order of rings: each ring has one of them or more.
    """

    begin: np.ndarray
    direction: np.ndarray
    following: np.ndarray
    starts: np.ndarray


def _sides_of(image: np.ndarray) -> _Sides:
    wide = np.pad(image, 1)
    around = wide[:-1, :-1] | wide[:-1, 1:] << 1 | wide[1:, :-1] << 2 | wide[1:, 1:] << 3  # [h + 1, w + 1]
    begins = np.zeros(256, np.uint8)
    begins[:16] = _BEGINS >= 0
    places = np.flatnonzero(cv2.LUT(around, begins).view(bool))
    codes = around.ravel()[places]
    rows, columns = np.divmod(places, around.shape[1])
    touching = np.flatnonzero(np.isin(codes, _TOUCHING))
    # One side for each corner, then the other ones of corners where pixels touch.
    corner = np.concatenate([np.arange(len(places)), touching])
    direction = _BEGINS[codes]
    direction = np.concatenate([direction, (direction[touching] + 2) % 4])
    other = np.full(len(places), -1)
    other[touching] = len(places) + np.arange(len(touching))
    ends = _next_corners(columns, corner, direction)
    # Where two pixels touch, turning right stays with this one.
    turns_away = (other[ends] >= 0) & (direction[ends] != (direction + 1) % 4)
    following = np.where(turns_away, other[ends], ends)
    starts = np.flatnonzero(direction[corner] == _RIGHT)
    starts = starts[np.argsort(corner[starts], kind="stable")]
    return _Sides(np.stack([columns, rows], axis=1)[corner], direction, following, starts)


def _next_corners(columns: np.ndarray, corner: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The corner where each side ends: the next or last one of its row, or of its column.

    Args:
        columns: int64 [C], of the corners in raster order.
        corner: int64 [S], where each side begins.
        direction: int64 [S].
    """
    by_column = np.argsort(columns, kind="stable")
    place = np.empty_like(by_column)
    place[by_column] = np.arange(len(by_column))
    step = np.where(direction < _LEFT, 1, -1)
    along_row = direction % 2 == 0
    ends = corner + step
    ends[~along_row] = by_column[place[corner[~along_row]] + step[~along_row]]
    return np.asarray(ends)


def _rings(sides: _Sides) -> tuple[np.ndarray, np.ndarray]:
    """The sides of all rings in turn, int64 [S], and the places among them where each ring begins."""
    after = sides.following[sides.following].tolist()  # from one side along a row to the next
    found: list[int] = []
    firsts: list[int] = []
    seen = bytearray(len(after))
    for start in sides.starts.tolist():
        if seen[start]:
            continue
        firsts.append(2 * len(found))
        side = start
        while not seen[side]:
            seen[side] = 1
            found.append(side)
            side = after[side]
    along = np.array(found, np.int64)
    return np.stack([along, sides.following[along]], axis=1).ravel(), np.array(firsts, np.int64)
