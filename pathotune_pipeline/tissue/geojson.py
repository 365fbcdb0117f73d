"""Tissue as GeoJSON that QuPath reads: drag the file onto the open slide."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np

from pathotune_pipeline.tissue.mask import TissueMask

COLOUR = [0, 160, 90]
_PROPERTIES = {"objectType": "annotation", "classification": {"name": "Tissue", "color": COLOUR}}
_COMPACT = (",", ":")


def to_geojson(mask: TissueMask) -> dict[str, Any]:
    """A FeatureCollection with one annotation for each piece of tissue.

    Args:
        mask: where the tissue is.

    Returns:
        Polygons with holes in level-0 pixels, rings closed. No slide name, no vendor tag.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_closed(ring).tolist() for ring in rings]},
            "properties": deepcopy(_PROPERTIES),
        }
        for rings in mask.polygons()
    ]
    return {"type": "FeatureCollection", "features": features}


def geojson_text(mask: TissueMask) -> str:
    """`to_geojson` as compact JSON.

    Outlines have tens of thousands of corners, and hardly more different coordinates than the mask has rows and columns:
    each is put into words once, and no list is made of each corner.
    """
    properties = json.dumps(_PROPERTIES, separators=_COMPACT)
    features = (
        f'{{"type":"Feature","geometry":{{"type":"Polygon","coordinates":[{rings}]}},"properties":{properties}}}'
        for rings in _ring_texts(mask.polygons())
    )
    return f'{{"type":"FeatureCollection","features":[{",".join(features)}]}}'


def _ring_texts(polygons: list[list[np.ndarray]]) -> list[str]:
    """The rings of each polygon, in words."""
    closed = [[_closed(ring) for ring in rings] for rings in polygons]
    values = {value for rings in closed for ring in rings for value in ring.ravel().tolist()}
    words = {value: repr(value) for value in values}

    def text(ring: np.ndarray) -> str:
        across, down = ([words[value] for value in axis] for axis in ring.T.tolist())
        return f"[[{'],['.join(map('{},{}'.format, across, down))}]]"

    return [",".join(map(text, rings)) for rings in closed]


def _closed(ring: np.ndarray) -> np.ndarray:
    return np.round(np.concatenate([ring, ring[:1]]), 2)
