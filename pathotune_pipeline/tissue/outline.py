"""Outlines of a mask along the edges of its pixels, so that their area is the mask's own.

OpenCV's contours run through the centres of the rim's pixels and lose half a pixel all around.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""The four directions of an edge, (x, y); each is a right turn from the one before, as y points down."""
_INSIDE = np.array([(0, 0), (-1, 0), (-1, -1), (0, -1)])
"""For each direction, where the pixel on its right hand lies, seen from where the edge begins."""


def trace(mask: np.ndarray, scale: tuple[float, float]) -> list[list[np.ndarray]]:
    """Trace the pieces of a mask.

    Args:
        mask: bool [h, w].
        scale: what one mask pixel is worth along x and y.

    Returns:
        For each piece (4-connected, in raster order) its rings, the outer one first; each float64 [K, 2], (x, y), its
        corners only, not closed.
    """
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    edges = _directed_edges(mask)
    outers: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    for ring in _rings(edges.following()):
        turns = edges.direction[ring]
        corners = edges.begin[ring[turns != np.roll(turns, 1)]].astype(np.float64)
        x, y = edges.begin[ring[0]] + _INSIDE[turns[0]]
        label = int(labels[y, x])
        if _signed_area(corners) > 0:
            outers[label] = corners * scale
        else:
            holes.setdefault(label, []).append(corners * scale)
    return [[outers[label], *holes.get(label, [])] for label in sorted(outers)]


@dataclass(frozen=True)
class _Edges:
    """Edges between inside and outside, each with the inside on its right hand.

    Attributes:
        begin: int64 [E, 2], (x, y) of the vertex where each begins.
        direction: int64 [E], an index into `_STEPS`.
    """

    begin: np.ndarray
    direction: np.ndarray

    def following(self) -> np.ndarray:
        """The edge that follows each along its ring: int64 [E].

        Where two pixels touch by a corner, turning right stays with this one.
        """
        columns = int(self.begin[:, 0].max(initial=0)) + 2  # steps may go one further
        keys = self._keys(self.begin, self.direction, columns)
        order = np.argsort(keys)
        ends = self.begin + _STEPS[self.direction]
        found = np.full(len(keys), -1)
        for turn in (-1, 0, 1):  # what is found last counts: to the right, if there is such an edge
            wanted = self._keys(ends, (self.direction + turn) % 4, columns)
            place = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
            there = keys[order[place]] == wanted
            found[there] = order[place[there]]
        return found

    @staticmethod
    def _keys(vertices: np.ndarray, directions: np.ndarray, columns: int) -> np.ndarray:
        return np.asarray((vertices[:, 1] * columns + vertices[:, 0]) * 4 + directions)


def _directed_edges(mask: np.ndarray) -> _Edges:
    inside = np.pad(mask.astype(np.int8), 1)
    vertical = np.diff(inside, axis=0)[:, 1:-1]  # [h + 1, w]: +1 where the inside begins below the edge
    horizontal = np.diff(inside, axis=1)[1:-1]  # [h, w + 1]: +1 where the inside begins right of the edge
    found = []
    for direction, where, shift in (
        (0, vertical == 1, (0, 0)),
        (2, vertical == -1, (1, 0)),
        (3, horizontal == 1, (0, 1)),
        (1, horizontal == -1, (0, 0)),
    ):
        rows, columns = np.nonzero(where)
        found.append((np.stack([columns, rows], axis=1) + shift, np.full(len(rows), direction)))
    begin, heading = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Edges that leave one vertex stand together, at the place of the first.
    _, first, vertex = np.unique(begin @ (1, 1 << 32), return_index=True, return_inverse=True)
    order = np.argsort(first[vertex], kind="stable")
    return _Edges(begin[order], heading[order])


def _rings(following: np.ndarray) -> list[np.ndarray]:
    """The cycles of a permutation, each int64 [K], in the order of their first members."""
    rings, after = [], following.tolist()
    seen = bytearray(len(after))
    for start in range(len(after)):
        ring, edge = [], start
        while not seen[edge]:
            seen[edge] = 1
            ring.append(edge)
            edge = after[edge]
        if ring:
            rings.append(np.array(ring))
    return rings


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
