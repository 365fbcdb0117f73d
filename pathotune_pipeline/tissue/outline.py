"""Outlines of a mask along the edges of its pixels, so that their area is the mask's own.

OpenCV's contours run through the centres of the rim's pixels and lose half a pixel all around.
"""

from __future__ import annotations

import cv2
import numpy as np

Vertex = tuple[int, int]
Edge = tuple[Vertex, Vertex]

_INSIDE = {(1, 0): (0, 0), (-1, 0): (-1, -1), (0, -1): (0, -1), (0, 1): (-1, 0)}
"""For each step along an edge, where the pixel on its right hand lies, seen from where the step begins."""


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
    outgoing = _directed_edges(mask)
    outers: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    seen: set[Edge] = set()
    for start, steps in outgoing.items():
        for step in steps:
            if (start, step) in seen:
                continue
            corners, edges = _follow(outgoing, start, step)
            seen |= edges
            dx, dy = _INSIDE[step]
            label = int(labels[start[1] + dy, start[0] + dx])
            ring = np.asarray(corners, np.float64)
            if _signed_area(ring) > 0:
                outers[label] = ring * scale
            else:
                holes.setdefault(label, []).append(ring * scale)
    return [[outers[label], *holes.get(label, [])] for label in sorted(outers)]


def _directed_edges(mask: np.ndarray) -> dict[Vertex, list[Vertex]]:
    """Steps along pixel edges from each vertex, with the inside on the right hand (y points down)."""
    inside = np.pad(mask.astype(np.int8), 1)
    outgoing: dict[Vertex, list[Vertex]] = {}

    def add(rows: np.ndarray, columns: np.ndarray, step: Vertex) -> None:
        for x, y in zip(columns.tolist(), rows.tolist(), strict=True):
            outgoing.setdefault((x, y), []).append(step)

    vertical = np.diff(inside, axis=0)[:, 1:-1]  # [h + 1, w]: +1 where the inside begins below the edge
    rows, columns = np.nonzero(vertical == 1)
    add(rows, columns, (1, 0))
    rows, columns = np.nonzero(vertical == -1)
    add(rows, columns + 1, (-1, 0))
    horizontal = np.diff(inside, axis=1)[1:-1]  # [h, w + 1]: +1 where the inside begins right of the edge
    rows, columns = np.nonzero(horizontal == 1)
    add(rows + 1, columns, (0, -1))
    rows, columns = np.nonzero(horizontal == -1)
    add(rows, columns, (0, 1))
    return outgoing


def _follow(outgoing: dict[Vertex, list[Vertex]], start: Vertex, first: Vertex) -> tuple[list[Vertex], set[Edge]]:
    """The closed ring that an edge belongs to: its corners, and all its edges."""
    corners: list[Vertex] = []
    edges: set[Edge] = set()
    vertex, step, previous = start, first, (0, 0)
    while (vertex, step) not in edges:
        edges.add((vertex, step))
        if step != previous:
            corners.append(vertex)
        vertex, previous = (vertex[0] + step[0], vertex[1] + step[1]), step
        steps = outgoing[vertex]
        # Where two pixels touch by a corner, turning right stays with this one.
        step = steps[0] if len(steps) == 1 else (-previous[1], previous[0])
    return corners[1:] if previous == first else corners, edges


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
