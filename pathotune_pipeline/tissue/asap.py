"""ASAP's annotation XML: Polygon, Rectangle and Spline, each of the class its PartOfGroup names.

A document type declaration is refused before anything is expanded, so no entity ever is.
"""

from __future__ import annotations

from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from pathotune_pipeline.errors import AnnotationError
from pathotune_pipeline.tissue.annotations import UNCLASSIFIED, Polygon, ring_of

_WITH_AREA = {"polygon", "rectangle", "spline"}
_STEPS = 16
"""Straight pieces that stand for a spline's curve from one of its points to the next."""


class _PrologueRead(Exception):  # noqa: N818 - no error: the part that was to be looked at is over
    pass


def asap_polygons(data: bytes) -> list[tuple[str, Polygon]]:
    """Classes and polygons of an ASAP file, in its order. Dots, point sets and measurements have no area.

    Args:
        data: the file's bytes.

    Raises:
        AnnotationError: it is no XML of ASAP, or has a document type declaration.
    """
    try:
        _refuse_doctype(data)
        root = ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise AnnotationError(f"its annotation file is not XML ({error}). Save it again in ASAP.") from None
    if root.tag != "ASAP_Annotations":
        raise AnnotationError(f"its annotation file is XML, but of <{root.tag}>: <ASAP_Annotations> is needed.")
    found = []
    for annotation in root.iter("Annotation"):
        kind = annotation.get("Type", "").lower()
        if kind not in _WITH_AREA:
            continue
        corners = sorted(annotation.iter("Coordinate"), key=_order)
        ring = ring_of([(corner.get("X"), corner.get("Y")) for corner in corners])
        group = annotation.get("PartOfGroup", "")
        name = group if group not in ("", "None") else UNCLASSIFIED
        found.append((name, [_spline(ring) if kind == "spline" else ring]))
    return found


def _order(corner: ElementTree.Element) -> float:
    try:
        return float(corner.get("Order", "0"))
    except ValueError:
        raise AnnotationError("its annotation file holds a corner without its place. Save it again in ASAP.") from None


def _refuse_doctype(data: bytes) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AnnotationError("its annotation file declares a document type, which is refused. Save it again in ASAP.")

    def stop(*_: object) -> NoReturn:
        raise _PrologueRead

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = stop  # a declaration stands before the first element or nowhere
    try:
        parser.Parse(data, True)
    except _PrologueRead:
        return


def _spline(points: np.ndarray) -> np.ndarray:
    """The closed Catmull-Rom curve through some points, as straight pieces.

    Args:
        points: float64 [K, 2].

    Returns:
        float64 [K * 16, 2]. ASAP's own curve bends a little otherwise between the points, which both pass through.
    """
    before, after, beyond = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0), np.roll(points, -2, axis=0)
    t = (np.arange(_STEPS) / _STEPS)[None, :, None]  # [1, S, 1]
    a, b, c, d = (side[:, None, :] for side in (before, points, after, beyond))  # [K, 1, 2]
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.asarray(curve.reshape(-1, 2))
