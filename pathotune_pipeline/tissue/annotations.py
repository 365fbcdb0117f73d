"""Annotations of a slide by class: GeoJSON as QuPath writes it, or ASAP's XML; and drawing them into a mask.

A polygon is drawn by the even-odd rule at the middle of each mask pixel. So holes are exact, neighbours that share an
edge neither overlap nor leave a gap, and an outline made along the edges of mask pixels (`outline.trace`) is drawn as
the very mask that it came from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import AnnotationError
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.registry import nearest

Polygon = list[np.ndarray]
"""Rings, the outer one first and its holes after it; each float64 [K, 2], (x, y) in level-0 pixels, not closed."""

SUFFIXES = (".geojson", ".json", ".xml")
UNCLASSIFIED = "Unclassified"
"""The class of an annotation that was given none."""
_FARTHEST_PX = 1e8
_AREALESS = {"Point", "MultiPoint", "LineString", "MultiLineString"}


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotations of one slide.

    Attributes:
        classes: polygons by class, in the order of the names.
    """

    classes: dict[str, list[Polygon]]

    def of(self, name: str) -> list[Polygon]:
        """The polygons of one class.

        Raises:
            AnnotationError: there are none; the message names the classes found.
        """
        if name not in self.classes:
            found = ", ".join(self.classes) or "no annotation with an area"
            raise AnnotationError(
                f"class {name!r} was asked for, its annotations hold: {found}.{nearest(name, self.classes)}"
            )
        return self.classes[name]


def read_annotations(path: Path) -> Annotations:
    """Read a file of annotations. Messages name neither the file nor its folder.

    Args:
        path: a .geojson or .json (FeatureCollection, list of features, or one feature) or an .xml of ASAP.

    Raises:
        AnnotationError: it cannot be read, or is neither.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"its annotation file cannot be read ({error.strerror or 'unknown reason'}).") from None
    return parse_annotations(data, path.suffix)


def parse_annotations(data: bytes, suffix: str) -> Annotations:
    """The annotations in a file's bytes; `suffix` says of which kind it is.

    Raises:
        AnnotationError: they are not of that kind.
    """
    if suffix.lower() == ".xml":
        from pathotune_pipeline.tissue.asap import asap_polygons

        return _by_class(asap_polygons(data))
    return _by_class(_geojson_polygons(data))


def _by_class(pairs: Sequence[tuple[str, Polygon]]) -> Annotations:
    classes: dict[str, list[Polygon]] = {}
    for name, polygon in pairs:
        classes.setdefault(name, []).append(polygon)
    return Annotations(dict(sorted(classes.items())))


def ring_of(points: Any) -> np.ndarray:
    """Corners as float64 [K, 2], not closed.

    Raises:
        AnnotationError: they are no (x, y) numbers, or fewer than three.
    """
    try:
        ring = np.array([(float(point[0]), float(point[1])) for point in points], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, LookupError, OverflowError):
        raise AnnotationError("its annotation file holds a corner that is not two numbers. Export it again.") from None
    if not (np.abs(ring) < _FARTHEST_PX).all():
        raise AnnotationError("its annotation file holds a corner that is in no slide. Export it again.")
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3:
        raise AnnotationError(f"its annotation file holds an outline of {len(ring)} corners. Delete it there.")
    return ring


# --- GeoJSON -------------------------------------------------------------------------------------------------------


def _geojson_polygons(data: bytes) -> list[tuple[str, Polygon]]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        kind = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise AnnotationError(f"its annotation file is not JSON ({kind}). Export it again.") from None
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    features = document if isinstance(document, list) else [document]
    found: list[tuple[str, Polygon]] = []
    for feature in features:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise AnnotationError(
                "its annotation file is JSON and no GeoJSON: a FeatureCollection, a list of features or one Feature is "
                "needed. In QuPath: File, Export objects as GeoJSON."
            )
        name = _class_of(feature.get("properties"))
        found += [(name, polygon) for polygon in _polygons(feature.get("geometry"))]
    return found


def _class_of(properties: Any) -> str:
    """QuPath's class of an object, or its name where it has no class."""
    properties = properties if isinstance(properties, dict) else {}
    given = properties.get("classification")
    if isinstance(given, dict):
        names = given.get("names")
        given = ": ".join(map(str, names)) if isinstance(names, list) and names else given.get("name")
    return str(given or properties.get("name") or UNCLASSIFIED)


def _polygons(geometry: Any) -> list[Polygon]:
    if geometry is None:
        return []
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind in _AREALESS:
        return []
    parts = geometry.get("geometries" if kind == "GeometryCollection" else "coordinates") if kind else None
    if isinstance(parts, list):
        if kind == "Polygon":
            return [[ring_of(ring) for ring in parts]] if parts else []
        if kind == "MultiPolygon":
            return [[ring_of(ring) for ring in _listed(rings)] for rings in parts if rings]
        if kind == "GeometryCollection":
            return [polygon for part in parts for polygon in _polygons(part)]
    raise AnnotationError(f"its annotation file holds a geometry that is no GeoJSON ({kind!r}). Export it again.")


def _listed(rings: Any) -> list[Any]:
    if not isinstance(rings, list):
        raise AnnotationError("its annotation file holds a polygon that is no list of rings. Export it again.")
    return rings


# --- drawing -------------------------------------------------------------------------------------------------------


def draw(polygons: Sequence[Polygon], shape: tuple[int, int], size: Size) -> np.ndarray:
    """Draw polygons into a mask that covers a whole slide.

    Args:
        polygons: in level-0 pixels. What reaches over the slide's edge is cut off.
        shape: (rows, columns) of the mask.
        size: of the slide's level 0.

    Returns:
        bool [h, w]: True where the middle of the pixel lies inside any of them.

    Raises:
        AnnotationError: one lies wholly outside the slide.
    """
    mask = np.zeros(shape, bool)
    scale = np.array([size.width / shape[1], size.height / shape[0]])
    for rings in polygons:
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        if (high <= 0).any() or low[0] >= size.width or low[1] >= size.height:
            raise AnnotationError(
                f"an annotation lies outside the slide: it begins at ({low[0]:.0f}, {low[1]:.0f}), the slide has "
                f"{size.width} x {size.height} px. Is the file another slide's, or not in level-0 pixels?"
            )
        _draw_one([ring / scale for ring in rings], mask)
    return mask


def _draw_one(rings: Polygon, mask: np.ndarray) -> None:
    """Set the pixels of one polygon, its rings in mask pixels."""
    low = np.clip(np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0)), 0, mask.shape[::-1]).astype(int)
    high = np.clip(np.ceil(np.max([ring.max(axis=0) for ring in rings], axis=0)), 0, mask.shape[::-1]).astype(int)
    rows, columns = high[1] - low[1], high[0] - low[0]
    if rows <= 0 or columns <= 0:
        return
    crossed = np.zeros((rows, columns + 1), np.uint8)
    for ring in rings:
        _cross(ring - low, crossed)
    # A pixel is inside where an odd number of edges crosses its row to the left of its middle.
    inside = np.bitwise_xor.accumulate(crossed, axis=1)[:, :-1]
    mask[low[1] : high[1], low[0] : high[0]] |= inside.astype(bool)


def _cross(ring: np.ndarray, crossed: np.ndarray) -> None:
    """Mark, in each row, the first pixel whose middle lies right of where an edge crosses the row's middle."""
    rows, columns = crossed.shape[0], crossed.shape[1] - 1
    start, end = ring, np.roll(ring, -1, axis=0)
    down = start[:, 1] <= end[:, 1]
    top, bottom = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
    first = np.clip(np.ceil(top[:, 1] - 0.5), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(bottom[:, 1] - 0.5), 0, rows).astype(np.int64)
    spans = last - first
    edge = np.repeat(np.arange(len(ring)), spans)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(spans) - spans, spans) + first[edge]
    run = (bottom[edge] - top[edge]).T
    x = top[edge, 0] + (row + 0.5 - top[edge, 1]) * run[0] / run[1]
    column = np.clip(np.ceil(x - 0.5), 0, columns).astype(np.int64)
    np.bitwise_xor.at(crossed, (row, column), 1)
