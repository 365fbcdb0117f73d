"""Tissue as GeoJSON that QuPath reads: drag the file onto the open slide."""

from __future__ import annotations

from typing import Any

import numpy as np

from pathotune_pipeline.tissue.mask import TissueMask

COLOUR = [0, 160, 90]


def to_geojson(mask: TissueMask) -> dict[str, Any]:
    """A FeatureCollection with one annotation for each piece of tissue.

    Args:
        mask: where the tissue is.

    Returns:
        Polygons with holes in level-0 pixels, rings closed. No slide name, no vendor tag.
    """
    return {"type": "FeatureCollection", "features": [_feature(rings) for rings in mask.polygons()]}


def _feature(rings: list[np.ndarray]) -> dict[str, Any]:
    coordinates = [np.round(np.concatenate([ring, ring[:1]]), 2).tolist() for ring in rings]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": coordinates},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Tissue", "color": COLOUR},
        },
    }
