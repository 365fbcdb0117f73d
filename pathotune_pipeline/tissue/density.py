"""Optical density: light measured against the slide's own white."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np


@dataclass(frozen=True)
class Density:
    """Optical densities of the three channels, 0 to 2.41.

    Attributes:
        red, green, blue: float32, of one shape.
    """

    red: np.ndarray
    green: np.ndarray
    blue: np.ndarray

    @classmethod
    def of(cls, rgb: np.ndarray, white: np.ndarray) -> Density:
        """Of each pixel: float32 [h, w] three times. For the arguments see `optical_density`."""
        tables = np.ascontiguousarray(_table(white).T)
        return cls(*(np.asarray(cv2.LUT(plane, table)) for plane, table in zip(cv2.split(rgb), tables, strict=True)))

    def at(self, places: np.ndarray) -> Density:
        """Of some pixels, counted row by row: float32 [P] three times."""
        return Density(*(plane.ravel()[places] for plane in (self.red, self.green, self.blue)))

    @cached_property
    def total(self) -> np.ndarray:
        """Sum of the channels."""
        return self.red + self.green + self.blue

    @cached_property
    def uneven(self) -> np.ndarray:
        """Largest less smallest channel: stain takes more of one colour than of another."""
        high = np.maximum(np.maximum(self.red, self.green), self.blue)
        high -= np.minimum(np.minimum(self.red, self.green), self.blue)
        return high


def optical_density(rgb: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Optical density of each channel against the slide's own white: float32 [h, w, 3], 0 to 2.41.

    Args:
        rgb: uint8 [h, w, 3].
        white: float32 [3], 0-255.
    """
    return np.asarray(cv2.LUT(rgb, _table(white)[None]))


def mean_density(rgb: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Mean optical density of the channels: float32 [h, w]. For the arguments see `optical_density`."""
    return np.asarray(cv2.transform(optical_density(rgb, white), np.full((1, 3), 1 / 3, np.float32)))


def _table(white: np.ndarray) -> np.ndarray:
    scale = np.arange(256, dtype=np.float32)[:, None] / white  # [256, 3]
    return np.asarray(-np.log10(np.clip(scale, 1 / 255, 1)).astype(np.float32))
