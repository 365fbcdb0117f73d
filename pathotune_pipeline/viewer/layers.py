"""What lies over a slide: tissue, the grid of tiles, a model's attention."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.reports.overlay import percentiles
from pathotune_pipeline.reports.predictions import Attention
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.viewer.catalogue import ShownSlide

MAP_COLUMNS = ("x", "y", "percentile")


def tissue_layer(store: FeatureStore, slide: ShownSlide) -> dict[str, Any]:
    """The tissue's outlines, as GeoJSON in level-0 pixels; empty where there is none.

    Raises:
        CorruptDataError: they cannot be read.
    """
    empty: dict[str, Any] = {"type": "FeatureCollection", "features": []}
    if slide.row.tissue is None:
        return empty
    told = parse_json(store.read(slide.row.tissue, "geojson").tobytes())
    return told if isinstance(told, dict) and isinstance(told.get("features"), list) else empty


def tile_layer(store: FeatureStore, slide: ShownSlide, attention: AttentionSource | None) -> dict[str, Any]:
    """The tiles in level-0 pixels, and what a model weighed.

    Returns:
        extent [width, height]; x and y of each corner; invalid, the places of tiles that could not be read; attention,
        percentiles 0 to 1 a tile (null where it has none), or null where nothing is known.

    Raises:
        CorruptDataError: they cannot be read.
    """
    row = slide.row
    if row.grid is None or row.features is None or row.extent_level0 is None:
        return {"extent": [0, 0], "x": [], "y": [], "invalid": [], "attention": None}
    coords = store.read(row.grid, "coords")
    valid = store.read(row.features, "valid").astype(bool)
    levels = attention.of(slide, coords[valid]) if attention is not None and len(valid) == len(coords) else None
    shown: list[float | None] | None = None
    if levels is not None:
        shown = [None] * len(coords)
        for place, level in zip(np.flatnonzero(valid).tolist(), levels.tolist(), strict=True):
            shown[place] = round(level, 4) if np.isfinite(level) else None
    return {
        "extent": [*row.extent_level0],
        "x": coords[:, 0].tolist(),
        "y": coords[:, 1].tolist(),
        "invalid": np.flatnonzero(~valid).tolist(),
        "attention": shown,
    }


class AttentionSource:
    """Attention as `pathotune heatmap` wrote it (`<slide>.csv`), or as a model's folder keeps it (`attention.npz`)."""

    def __init__(self, *, maps: Path | None = None, model: Path | None = None) -> None:
        self._maps, self._model = maps, model

    def of(self, slide: ShownSlide, coords: np.ndarray) -> np.ndarray | None:
        """Percentiles of a slide's readable tiles.

        Args:
            slide: which.
            coords: int64 [N, 2] of its readable tiles.

        Returns:
            float64 [N], 0 to 1, NaN where a tile has none; None where nothing is known or it is of other tiles.
        """
        for found in (self._of_maps(slide, coords), self._of_model(slide, coords)):
            if found is not None:
                return found
        return None

    def _of_maps(self, slide: ShownSlide, coords: np.ndarray) -> np.ndarray | None:
        if self._maps is None:
            return None
        try:
            with (self._maps / f"{slide.key}.csv").open(newline="", encoding="utf-8") as file:
                rows = [tuple(float(row[name]) for name in MAP_COLUMNS) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError, TypeError):
            return None
        known = {(round(x), round(y)): percent / 100 for x, y, percent in rows}
        levels = np.array([known.get((x, y), np.nan) for x, y in coords.tolist()])
        return levels if np.isfinite(levels).any() else None

    def _of_model(self, slide: ShownSlide, coords: np.ndarray) -> np.ndarray | None:
        if self._model is None:
            return None
        with Attention(self._model) as attention:
            values = attention.of(slide.slide_id)
        return percentiles(values) if values is not None and len(values) == len(coords) else None
