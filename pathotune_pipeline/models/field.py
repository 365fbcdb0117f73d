"""AttentionField: one value a tile as a picture of any resolution, exact, overlaps averaged."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pathotune_pipeline.reports.overlay import HEAT_MAP

_SNAP_PX = 1.5
"""Edges of tiles this near to each other, in level-0 pixels, are one: corners are rounded, extents are not."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionField:
    """Values over a slide, constant within cells between the edges of tiles.

    Attributes:
        xs: float64 [X + 1], edges in level-0 pixels.
        ys: float64 [Y + 1], likewise.
        values: float64 [Y, X], the mean over the tiles that cover a cell; 0 where none does.
        covered: bool [Y, X].
    """

    xs: np.ndarray
    ys: np.ndarray
    values: np.ndarray
    covered: np.ndarray

    def sample(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values at the crossings of columns and rows.

        Args:
            x: float [w], level-0 pixels.
            y: float [h], level-0 pixels.

        Returns:
            float64 [h, w], and bool [h, w] where there is a tile.
        """
        column, row = (np.searchsorted(edges, at, side="right") - 1 for edges, at in ((self.xs, x), (self.ys, y)))
        inside_x = (column >= 0) & (column < len(self.xs) - 1)
        inside_y = (row >= 0) & (row < len(self.ys) - 1)
        column, row = np.clip(column, 0, len(self.xs) - 2), np.clip(row, 0, len(self.ys) - 2)
        inside = inside_y[:, None] & inside_x[None, :]
        return self.values[np.ix_(row, column)], self.covered[np.ix_(row, column)] & inside


def field_of(coords: np.ndarray, extent: tuple[float, float], values: np.ndarray) -> AttentionField:
    """The field of a slide's tiles.

    Args:
        coords: int64 [N, 2], corners (x, y) in level-0 pixels; N at least 1.
        extent: (width, height) of a tile in level-0 pixels.
        values: float [N].
    """
    corners = np.asarray(coords, np.float64)
    xs, left, right = _edges(corners[:, 0], extent[0])
    ys, top, bottom = _edges(corners[:, 1], extent[1])
    shape = (len(ys), len(xs))
    total, count = np.zeros(shape), np.zeros(shape, np.int64)
    weights = np.asarray(values, np.float64)
    # A tile adds to all cells between its edges: differences at its corners, summed along both axes.
    for rows, columns, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(total, (rows, columns), sign * weights)
        np.add.at(count, (rows, columns), sign)
    total, count = (each.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] for each in (total, count))
    covered = count > 0
    mean = np.divide(total, count, out=np.zeros(total.shape), where=covered)
    return AttentionField(xs, ys, mean, covered)


def colours(levels: np.ndarray) -> np.ndarray:
    """Colours of levels from 0 to 1, uint8 [..., 3] RGB."""
    steps = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(1, 256), HEAT_MAP)[0]
    return np.asarray(bgr[:, ::-1][steps])


def _edges(starts: np.ndarray, extent: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct edges [K], and the indices of each tile's first and last one [N]."""
    every = np.unique(np.concatenate([starts, starts + extent]))
    edges = [float(every[0])]
    for edge in every[1:].tolist():
        if edge - edges[-1] > min(_SNAP_PX, extent / 4):
            edges.append(edge)
    found = np.array(edges)
    first, last = (np.searchsorted(found, each, side="right") - 1 for each in (starts, starts + extent))
    return found, first, last
