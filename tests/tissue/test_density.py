from __future__ import annotations

import cv2
import numpy as np
import pytest

from pathotune_pipeline.tissue.density import Density, mean_density, optical_density
from pathotune_pipeline.tissue.slabs import in_slabs

WHITE = np.array([240.0, 242.0, 231.5], np.float32)


def some_pixels(height: int, width: int = 37) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def test_densities_are_measured_against_white():
    rgb = np.array([[[240, 242, 255], [24, 121, 0]]], np.uint8)
    density = optical_density(rgb, WHITE)
    np.testing.assert_allclose(density[0], [[0, 0, 0], [1, np.log10(2), np.log10(255)]], atol=1e-6)
    np.testing.assert_allclose(mean_density(rgb, WHITE), density.mean(axis=2), atol=1e-6)


def test_planes_hold_what_pixels_hold():
    rgb = some_pixels(9)
    density, planes = optical_density(rgb, WHITE), Density.of(rgb, WHITE)
    np.testing.assert_array_equal(np.dstack([planes.red, planes.green, planes.blue]), density)
    np.testing.assert_array_equal(planes.total, density.sum(axis=2))
    np.testing.assert_array_equal(planes.uneven, density.max(axis=2) - density.min(axis=2))
    places = np.array([3, 37, 200])
    np.testing.assert_array_equal(planes.at(places).total, planes.total.ravel()[places])


@pytest.mark.parametrize("height", [1, 2, 63, 64, 65, 129, 200])
@pytest.mark.parametrize("side", [3, 5, 11])
def test_slabs_tell_what_the_whole_tells(height, side):
    rgb = some_pixels(height)

    def look(part: np.ndarray) -> np.ndarray:
        grey = part[..., 0].astype(np.float32)
        mean = cv2.blur(grey, (side, side))
        return np.asarray(cv2.blur(grey * grey, (side, side)) - mean * mean)

    np.testing.assert_array_equal(in_slabs(rgb, look, margin=side // 2, dtype=np.float32), look(rgb))
