"""Tiles and heat land on the right pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.geometry import Size
from pathotune_pipeline.reports import overlay
from pathotune_pipeline.reports.figures.heat import colour_bar
from pathotune_pipeline.reports.predictions import Prediction, pick_slides

FRAME = overlay.Frame(Size(4000, 2000), Size(400, 200))


def test_rectangles() -> None:
    coords = np.array([[0, 0], [1000, 500], [3600, 1600]])
    found = FRAME.rectangles(coords, (400, 400))
    assert found.tolist() == [[0, 0, 40, 40], [100, 50, 140, 90], [360, 160, 400, 200]]
    assert overlay.Frame(Size(4000, 2000), Size(40, 10)).rectangles(coords[1:2], (10, 10)).tolist() == [[10, 2, 11, 3]]
    assert FRAME.rectangles(np.array([[3999, 1999]]), (400, 400)).tolist() == [[399, 199, 400, 200]]
    assert FRAME.rectangles(np.zeros((0, 2), np.int64), (400, 400)).shape == (0, 4)


def test_neighbouring_tiles_leave_no_gap() -> None:
    starts = np.rint(np.arange(30) * 123.4).astype(np.int64)
    found = FRAME.rectangles(np.stack([starts, np.zeros_like(starts)], axis=1), (123.4, 123.4))
    assert np.abs(found[1:, 0] - found[:-1, 2]).max() <= 1


def test_a_tile_is_drawn_where_it_lies_and_nowhere_else() -> None:
    image = np.full((200, 400, 3), 255, np.uint8)
    overlay.draw_tiles(image, np.array([[100, 50, 140, 90]]))
    changed = (image != 255).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 89, 100, 139)
    assert image[50, 120].astype(int).sum() < image[70, 120].astype(int).sum() < 3 * 255  # edge darker than inside


def test_small_tiles_are_one_area_with_one_outline() -> None:
    image = np.full((100, 100, 3), 255, np.uint8)
    tiles = [[x, y, x + 4, y + 4] for x in range(20, 60, 4) for y in range(20, 60, 4)]
    overlay.draw_tiles(image, np.array(tiles))
    assert tuple(image[20, 40]) == overlay.TILE_RGB
    assert len(np.unique(image[24:56, 24:56].reshape(-1, 3), axis=0)) == 1
    assert (image[:20] == 255).all()


def test_tissue_outline_follows_the_mask() -> None:
    image = np.full((200, 400, 3), 255, np.uint8)
    mask = np.zeros((50, 100), bool)
    mask[10:30, 20:60] = True
    overlay.draw_tissue(image, mask)
    rows, columns = np.nonzero((image != 255).any(axis=-1))
    assert abs(rows.min() - 40) <= 1
    assert abs(rows.max() - 119) <= 1
    assert abs(columns.min() - 80) <= 1
    assert abs(columns.max() - 239) <= 1
    assert (image[80, 160] == 255).all()


def test_percentiles() -> None:
    assert overlay.percentiles(np.array([3.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.5]
    assert overlay.percentiles(np.array([1.0, 1.0, 5.0])).tolist() == [0.25, 0.25, 1.0]
    assert overlay.percentiles(np.array([7.0])).tolist() == [0.5]
    assert overlay.percentiles(np.array([2.0, 2.0])).tolist() == [0.5, 0.5]
    assert overlay.percentiles(np.array([np.nan, 1.0, np.inf])).tolist() == [0.0, 0.5, 1.0]
    assert overlay.percentiles(np.zeros(0)).tolist() == []


def test_heat_is_high_where_attention_is_high() -> None:
    thumbnail = np.full((200, 400, 3), 200, np.uint8)
    coords = np.array([[0, 0], [2000, 1000], [2400, 1000]])
    rectangles = FRAME.rectangles(coords, (400, 400))
    image = overlay.heat_map(thumbnail, rectangles, overlay.percentiles(np.array([0.01, 0.9, 0.09])))
    low, high, middle = image[20, 20], image[120, 220], image[120, 260]
    grey = 200 * (1 - overlay.HEAT_ALPHA)
    bar = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in overlay.heat_colours(3)]
    for found, expected in zip((low, middle, high), bar, strict=True):
        assert np.abs(found - (grey + overlay.HEAT_ALPHA * expected)).max() <= 2
    assert (image[150:, :100] == 200).all()


def test_overlapping_tiles_show_their_mean() -> None:
    thumbnail = np.full((10, 10, 3), 200, np.uint8)
    both = overlay.heat_map(thumbnail, np.array([[0, 0, 6, 6], [4, 0, 10, 6]]), np.array([0.0, 1.0]))
    half = overlay.heat_map(thumbnail, np.array([[0, 0, 10, 6]]), np.array([0.5]))
    assert (both[2, 5] == half[2, 5]).all()


def test_jpeg_keeps_to_its_size_and_fit_to_its_side() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 320, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    assert len(overlay.to_jpeg(smooth, 12_000)) <= 12_000
    assert len(overlay.to_jpeg(noise, 12_000)) < len(overlay.to_jpeg(noise, 10**6))
    assert overlay.fit(noise, 160).shape == (150, 160, 3)
    assert overlay.fit(noise, 1000).shape == noise.shape


def test_a_thumbnail_that_is_none() -> None:
    for data in (np.zeros(0, np.uint8), np.zeros(50, np.uint8)):
        with pytest.raises(CorruptDataError, match="no JPEG"):
            overlay.decode_thumbnail(data)


def test_colour_bar_has_the_maps_colours() -> None:
    bar = colour_bar("x")
    assert overlay.heat_colours()[0] in bar
    assert overlay.heat_colours()[-1] in bar


def test_picks_are_the_surest_of_each_class_and_the_worst_error() -> None:
    rows = [
        Prediction("a", "", "x", "x", 0.7, 0.7),
        Prediction("b", "", "x", "x", 0.9, 0.9),
        Prediction("c", "", "y", "y", 0.6, 0.6),
        Prediction("d", "", "y", "x", 0.8, 0.2),
        Prediction("e", "", "y", "x", 0.95, 0.05),
    ]
    assert [row.slide_id for _, row in pick_slides(rows, ["x", "y"])] == ["b", "c", "e"]
    assert pick_slides([], ["x", "y"]) == []
