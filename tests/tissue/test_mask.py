from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.tissue import TissueMask, TissueSpec, to_geojson
from pathotune_pipeline.tissue.geojson import geojson_text


def mask_of(mask: np.ndarray, per_px: int = 16) -> TissueMask:
    height, width = mask.shape
    size = Size(width * per_px, height * per_px)
    thumbnail = np.zeros((height, width, 3), np.uint8)
    return TissueMask(mask, 0.5 * per_px, 0.5 * per_px, Mpp.square(0.5), size, thumbnail)


def ring_area(ring) -> float:
    x, y = np.asarray(ring, float).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_area_and_share():
    mask = np.zeros((10, 20), bool)
    mask[2:6, 3:8] = True
    tissue = mask_of(mask)
    assert tissue.area_um2 == 20 * 64.0
    assert tissue.share == pytest.approx(0.1)


def test_fraction_is_exact_to_parts_of_a_pixel():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    boxes = [[16, 16, 16, 16], [8, 16, 16, 16], [20, 20, 4, 4], [0, 0, 64, 64], [24, 24, 16, 16], [48, 48, 64, 64]]
    assert mask_of(mask).fraction(np.array(boxes, float)).tolist() == [1, 0.5, 1, 0.0625, 0.25, 0]


def test_fraction_outside_the_slide_counts_as_none():
    tissue = mask_of(np.ones((4, 4), bool))
    boxes = np.array([[-32, 0, 64, 64], [48, 48, 32, 32], [500, 500, 10, 10], [0, 0, 0, 0]], float)
    assert tissue.fraction(boxes).tolist() == [0.5, 0.25, 0, 0]
    assert tissue.fraction(np.zeros((0, 4))).shape == (0,)


@settings(max_examples=40, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.integers(-20, 150), st.integers(-20, 150), st.integers(1, 120), st.integers(1, 120),
)  # fmt: skip
def test_fraction_equals_counting_level0_pixels(mask, x, y, width, height):
    level0 = np.pad(np.kron(mask, np.ones((16, 16), bool)), ((20, 300), (20, 300)))
    counted = level0[y + 20 : y + 20 + height, x + 20 : x + 20 + width].mean()
    assert mask_of(mask).fraction(np.array([[x, y, width, height]], float))[0] == pytest.approx(counted, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_have_the_area_of_the_mask_and_draw_it_again(mask):
    pieces = mask_of(mask).polygons()
    assert len(pieces) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    assert sum(ring_area(ring) for rings in pieces for ring in rings) == pytest.approx(mask.sum() * 256)
    drawn = np.zeros(mask.shape, bool)
    columns, rows = np.meshgrid(np.arange(mask.shape[1]) * 16 + 8.0, np.arange(mask.shape[0]) * 16 + 8.0)
    for rings in pieces:
        inside = np.zeros(mask.shape, bool)
        for ring in rings:  # even-odd rule at the middle of each mask pixel
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if x0 == x1:
                    inside ^= (columns < x0) & (rows > min(y0, y1)) & (rows < max(y0, y1))
        drawn |= inside
    np.testing.assert_array_equal(drawn, mask)


def test_geojson_is_what_qupath_reads():
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:40] = True
    mask[10:20, 20:30] = False
    mask[35:38, 50:55] = True
    collection = json.loads(json.dumps(to_geojson(mask_of(mask))))
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == 2
    first = collection["features"][0]
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["classification"]["name"] == "Tissue"
    outer, hole = first["geometry"]["coordinates"]
    assert first["geometry"]["type"] == "Polygon"
    assert outer[0] == outer[-1]
    assert sorted(map(tuple, outer[:-1])) == [(160, 80), (160, 480), (640, 80), (640, 480)]
    assert ring_area(outer) > 0 > ring_area(hole)
    area = sum(ring_area(ring) for feature in collection["features"] for ring in feature["geometry"]["coordinates"])
    assert area == pytest.approx(mask.sum() * 256, rel=0.03)


@settings(max_examples=30, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.sampled_from([16.0, 1 / 3, 12.345]))
def test_geojson_in_words_is_what_json_makes_of_it(mask, per_px):
    size = Size(round(mask.shape[1] * per_px * 7), round(mask.shape[0] * per_px * 7))
    tissue = replace(mask_of(mask), level0_size=size)
    assert geojson_text(tissue) == json.dumps(to_geojson(tissue), separators=(",", ":"))


def test_spec_refuses_odd_settings():
    with pytest.raises(SpecError, match="min_chroma"):
        TissueSpec.parse({"min_chrome": 3})
    with pytest.raises(SpecError, match="mpp"):
        TissueSpec.parse({"mpp": 0})
