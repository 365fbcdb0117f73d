"""Annotations of QuPath and ASAP: what is read, what is drawn, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathotune_pipeline.errors import AnnotationError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.tissue import TissueMask, to_geojson
from pathotune_pipeline.tissue.annotations import UNCLASSIFIED, draw, parse_annotations, read_annotations

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[25, 25], [75, 25], [75, 75], [25, 75], [25, 25]]


def feature(geometry: dict[str, Any] | None, kind: str | None = "Tumor", **properties: Any) -> dict[str, Any]:
    if kind is not None:
        properties["classification"] = {"name": kind, "color": [200, 0, 0]}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **properties}}


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def parse(document: Any) -> Any:
    return parse_annotations(json.dumps(document).encode(), ".geojson").classes


def asap(*annotations: str) -> bytes:
    inner = "".join(annotations)
    return (
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{inner}</Annotations>'
        '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups></ASAP_Annotations>'
    ).encode()


def annotation(corners: list[tuple[float, float]], kind: str = "Polygon", group: str = "Tumor") -> str:
    listed = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
    return (
        f'<Annotation Name="A 0" Type="{kind}" PartOfGroup="{group}"><Coordinates>{listed}</Coordinates></Annotation>'
    )


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature(polygon(SQUARE))]},
        [feature(polygon(SQUARE))],
        feature(polygon(SQUARE)),
        feature({"type": "MultiPolygon", "coordinates": [[SQUARE]]}),
        feature({"type": "GeometryCollection", "geometries": [polygon(SQUARE), {"type": "Point", "coordinates": [1, 2]}]}),
    ],
)  # fmt: skip
def test_every_way_to_write_one_polygon(document: Any) -> None:
    found = parse(document)
    assert list(found) == ["Tumor"]
    [[ring]] = found["Tumor"]
    np.testing.assert_array_equal(ring, SQUARE[:-1])


def test_classes_come_from_classification_then_name() -> None:
    found = parse(
        [
            feature(polygon(SQUARE), None, name="by name"),
            feature(polygon(SQUARE), None),
            feature(polygon(SQUARE), None, classification="plain"),
            feature(polygon(SQUARE), None, classification={"names": ["Tumor", "Positive"]}),
            feature(polygon(SQUARE), "Stroma", name="not this"),
            feature({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}, "Ruler"),
            feature(None, "Nothing"),
        ]
    )
    assert list(found) == ["Stroma", "Tumor: Positive", UNCLASSIFIED, "by name", "plain"]


def test_a_hole_is_no_part_and_what_lies_in_it_may_be() -> None:
    inner = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]
    found = parse([feature(polygon(SQUARE, HOLE)), feature(polygon(inner))])
    mask = draw(found["Tumor"], (100, 100), Size(200, 200))
    assert mask.sum() * 4 == 100 * 100 - 50 * 50 + 20 * 20
    assert mask[25, 25]
    assert not mask[15, 15]
    assert mask[5, 5]


def test_what_reaches_over_the_edge_is_cut_and_what_lies_outside_refused() -> None:
    over = [np.array([[-50, -50], [50, -50], [50, 50], [-50, 50]], float)]
    assert draw([over], (10, 10), Size(100, 100)).sum() == 25
    for shift in ((200, 0), (0, 200), (-100, 0)):
        with pytest.raises(AnnotationError, match="outside the slide"):
            draw([[over[0] + shift]], (10, 10), Size(100, 100))


@settings(max_examples=80, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))), st.floats(3, 40), st.floats(3, 40)
)  # fmt: skip
def test_an_exported_mask_is_drawn_as_itself(mask: np.ndarray, across: float, down: float) -> None:
    size = Size(round(mask.shape[1] * across), round(mask.shape[0] * down))
    tissue = TissueMask(mask, 8.0, 8.0, Mpp.square(0.5), size, np.zeros((4, 4, 3), np.uint8))
    found = parse(to_geojson(tissue))
    np.testing.assert_array_equal(draw(found.get("Tissue", []), mask.shape, size), mask)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 120), st.floats(-20, 120)), min_size=3, max_size=9))
def test_drawing_is_the_even_odd_rule_at_the_middle_of_each_pixel(corners: list[tuple[float, float]]) -> None:
    ring = np.array(corners)
    low, high = ring.min(axis=0), ring.max(axis=0)
    if (high <= 0).any() or (low >= 100).any():
        return
    mask = draw([[ring]], (20, 20), Size(100, 100))
    expected = np.zeros((20, 20), bool)
    for row in range(20):
        for column in range(20):
            x, y = column + 0.5, row + 0.5
            for (x0, y0), (x1, y1) in zip(ring / 5, np.roll(ring / 5, -1, axis=0), strict=True):
                if (y0 <= y) != (y1 <= y):
                    if y0 > y1:
                        x0, y0, x1, y1 = x1, y1, x0, y0
                    expected[row, column] ^= x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    assert (mask != expected).sum() <= 1  # one that a rounding may tip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"type": "Topology"}', "no GeoJSON"),
        (b"[3]", "no GeoJSON"),
        (b"null", "no GeoJSON"),
        (json.dumps(feature(polygon([[0, 0], [1, 1]]))).encode(), "2 corners"),
        (json.dumps(feature(polygon([["a", 0], [1, 1], [2, 0]]))).encode(), "not two numbers"),
        (json.dumps(feature(polygon([0, 1, 2]))).encode(), "not two numbers"),
        (b'{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [2, 0]]]}}', "in no slide"),
        (b'{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1e300], [2, 0]]]}}', "in no slide"),
        (json.dumps(feature({"type": "Circle", "coordinates": [1]})).encode(), "'Circle'"),
        (json.dumps(feature({"type": "MultiPolygon", "coordinates": [7]})).encode(), "no list of rings"),
        (json.dumps(feature({"type": "Polygon"})).encode(), "no GeoJSON"),
    ],
)  # fmt: skip
def test_a_bad_geojson_has_one_clear_reason(data: bytes, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        parse_annotations(data, ".json")


def test_asap_polygons_rectangles_and_splines() -> None:
    square = [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0)]
    data = asap(
        annotation(square), annotation(square, "Rectangle", "Stroma"), annotation(square, "Spline", "None"),
        annotation([(3, 3)], "Dot", "Cell"),
    )  # fmt: skip
    found = parse_annotations(data, ".XML").classes
    assert list(found) == ["Stroma", "Tumor", UNCLASSIFIED]
    np.testing.assert_array_equal(found["Tumor"][0][0], square)
    curve = found[UNCLASSIFIED][0][0]
    for corner in square:  # a curve through the points, bulging outwards
        assert (np.abs(curve - corner).sum(axis=1) < 1e-9).any()
    assert draw([[curve + 50]], (200, 200), Size(200, 200)).sum() > 100 * 100


def test_corners_of_asap_come_in_their_order() -> None:
    text = annotation([(0, 0), (9, 0), (9, 9), (0, 9)])
    text = text.replace('Order="1"', 'Order="x"').replace('Order="2"', 'Order="1"').replace('Order="x"', 'Order="2"')
    [[ring]] = parse_annotations(asap(text), ".xml").classes["Tumor"]
    assert ring.tolist() == [[0, 0], [9, 9], [9, 0], [0, 9]]


BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><ASAP_Annotations>&c;</ASAP_Annotations>'
OUTSIDE = b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><ASAP_Annotations/>'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BOMB, "document type"),
        (OUTSIDE, "document type"),
        (BOMB.decode().encode("utf-16"), "document type"),
        (b"", "not XML"),
        (b"<ASAP_Annotations>", "not XML"),
        (b"<Annotations/>", "<Annotations>"),
        (asap(annotation([(0, 0), (1, 1)])), "2 corners"),
        (asap(annotation([(0, 0), (1, 1), (2, 0)])).replace(b'X="1"', b""), "not two numbers"),
        (asap(annotation([(0, 0), (1, 1), (2, 0)])).replace(b'Order="1"', b'Order="one"'), "without its place"),
    ],
)
def test_a_bad_xml_has_one_clear_reason(data: bytes, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        parse_annotations(data, ".xml")


def test_messages_name_the_classes_found_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "doe-john.geojson"
    path.write_text(json.dumps([feature(polygon(SQUARE), "Tumor"), feature(polygon(SQUARE), "Stroma")]))
    with pytest.raises(AnnotationError, match=r"'Tumour'.*Stroma, Tumor. Did you mean 'Tumor'"):
        read_annotations(path).of("Tumour")
    with pytest.raises(AnnotationError) as caught:
        read_annotations(tmp_path / "doe-jane.geojson")
    assert "doe" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".xml"])
def test_damaged_files_are_read_or_refused_and_nothing_else(suffix: str) -> None:
    square = [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0)]
    sound = (
        asap(annotation(square, "Spline"))
        if suffix == ".xml"
        else json.dumps([feature(polygon(SQUARE, HOLE))]).encode()
    )
    tokens = [b"null", b"{}", b"[]", b"1e308", b"-1e308", b"NaN", b'"a"', b"[[[[]]]]", b"\xff", b"<!DOCTYPE a>", b"&x;"]
    rng = np.random.default_rng(7)
    for _ in range(400):
        data = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            at, length = int(rng.integers(len(data))), int(rng.integers(0, 9))
            data[at : at + length] = tokens[rng.integers(len(tokens))] if rng.random() < 0.5 else rng.bytes(1)
        try:
            found = parse_annotations(bytes(data), suffix)
            for polygons in found.classes.values():
                draw(polygons, (30, 30), Size(300, 300))
        except AnnotationError:
            continue
