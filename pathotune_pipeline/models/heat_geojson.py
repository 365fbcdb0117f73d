"""Attention as GeoJSON that QuPath reads: annotations for bands of percentiles, and detections for tiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pathotune_pipeline.models.field import AttentionField, colours
from pathotune_pipeline.tissue.outline import trace

ATTENTION, PERCENTILE = "Attention", "Attention percentile"


def band_features(field: AttentionField, edges: Sequence[float]) -> list[dict[str, Any]]:
    """An annotation for each connected piece of each band of percentiles, from the lowest band.

    Args:
        field: levels from 0 to 1.
        edges: between bands, rising, within 0 and 1; the last band ends at 1, and what lies under the first is left out.
    """
    features = []
    for low, high in pairwise([*edges, 1.0]):
        inside = field.covered & (field.values >= low) & ((field.values < high) | (high >= 1))
        name = f"{PERCENTILE} {low * 100:g}-{high * 100:g}"
        for rings in trace(inside, (1.0, 1.0)):
            corners = [_at(field, ring) for ring in rings]
            # A class of QuPath's has one colour, so a band is a class.
            shown = {"name": name, "color": colours(np.array((low + high) / 2)).tolist()}
            features.append(_feature("annotation", corners, classification=shown))
    return features


def tile_features(
    coords: np.ndarray, extent: tuple[float, float], *, attention: np.ndarray, levels: np.ndarray
) -> list[dict[str, Any]]:
    """A detection for each tile in its percentile's colour, with attention and percentile as measurements (QuPath 0.4 on).

    Args:
        coords: int64 [N, 2], corners (x, y) in level-0 pixels.
        extent: (width, height) of a tile in level-0 pixels.
        attention: float [N].
        levels: float [N], 0 to 1.
    """
    width, height = extent
    features = []
    for (x, y), raw, level in zip(coords.tolist(), attention.tolist(), levels.tolist(), strict=True):
        ring = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
        measured = {ATTENTION: raw, PERCENTILE: round(100 * level, 3)}
        colour = colours(np.array(level)).tolist()
        features.append(_feature("detection", [ring], color=colour, measurements=measured))
    return features


def collection(features: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A FeatureCollection."""
    return {"type": "FeatureCollection", "features": list(features)}


def _at(field: AttentionField, ring: np.ndarray) -> np.ndarray:
    columns, rows = ring.astype(np.int64).T
    return np.stack([field.xs[columns], field.ys[rows]], axis=1)


def _feature(kind: str, rings: Sequence[np.ndarray], **properties: Any) -> dict[str, Any]:
    closed = [np.round(np.concatenate([ring, ring[:1]]), 2).tolist() for ring in rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": closed},
        "properties": {"objectType": kind, **properties},
    }
