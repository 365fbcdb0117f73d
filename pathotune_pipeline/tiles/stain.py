"""Stain normalisation: the colours of one slide brought to those of a reference.

Sources: Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009; Reinhard et
al., "Color transfer between images", IEEE CG&A 2001; Ruifrok & Johnston, "Quantification of histochemical staining by
color deconvolution", Anal Quant Cytol Histol 2001, for the third axis across two stains.

Departures. What a slide looks like is measured once for the slide, on a sample of its tiles, not tile by tile: a tile of
one tissue alone has no two stains to measure. Both fade out where there is no stain, for they would tint the glass, which
is rarely pure white. Macenko: colours outside the plane of the two stains (pen, pigment) are carried along a third axis
instead of being lost. Reinhard: the transfer is done in CIELAB, as is usual for histology.

Made for haematoxylin and eosin: other stains need a reference of their own (`fit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.slides.pyramid import plan_region, read_planned
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.tiles.grid import TileGrid

REVISION = 1
"""Raised by hand whenever normalised pixels change: it is part of the features' fingerprint where stain is not none."""

Method = Literal["macenko", "reinhard"]
MIN_DENSITY = 0.15
"""Optical density of the darkest channel from which a pixel is stained: Macenko's beta."""
EXTREME_PERCENT = 1.0
"""Macenko's alpha: the stain vectors are the angles at this percentile and at 100 minus it."""
TOP_PERCENT = 99.0
SAMPLE_TILES = 64
SAMPLE_MPP = 1.0
"""um/px at which a slide's colours are measured: nuclei and what surrounds them are still apart."""
_MIN_PIXELS = 256
_MIN_ANGLE = np.deg2rad(4.0)
_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255.0).astype(np.float32)  # [256]


@dataclass(frozen=True, slots=True)
class StainVectors:
    """What two stains look like.

    Attributes:
        vectors: ((r, g, b), (r, g, b)), optical densities of haematoxylin and eosin, each of length 1.
        strengths: 99th percentile of the amount of each.
    """

    vectors: tuple[tuple[float, ...], ...]
    strengths: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LabStatistics:
    """Mean and standard deviation of stained pixels in CIELAB: L 0-100, a, b."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


# Means of what this module measures on two public H&E sections, rounded: a colorectal one scanned at 1.3 um/px and
# CMU-1-Small-Region of OpenSlide's test data at 0.5. The vectors that Ruifrok & Johnston give, (.65, .70, .29) and
# (.07, .99, .11), are those of sections with one stain each: as a target they make colours no H&E slide has.
MACENKO_REFERENCE = StainVectors(((0.677, 0.623, 0.392), (0.258, 0.833, 0.490)), (1.09, 0.68))
REINHARD_REFERENCE = LabStatistics((51.5, 21.5, -13.7), (15.0, 7.8, 6.0))


def density(rgb: np.ndarray) -> np.ndarray:
    """Optical density, base 10, against 255: uint8 [...] to float32 [...]; 0 where a channel is 255."""
    return np.asarray(_DENSITY[rgb])


def stained(rgb: np.ndarray) -> np.ndarray:
    """The pixels that hold stain: uint8 [..., 3] to uint8 [K, 3]."""
    pixels = rgb.reshape(-1, 3)
    return np.asarray(pixels[density(pixels.min(axis=1)) >= MIN_DENSITY])


def measure_vectors(rgb: np.ndarray) -> StainVectors | None:
    """Macenko's estimate of two stains.

    Args:
        rgb: uint8 [..., 3]; pixels without stain are left out.

    Returns:
        The stains, haematoxylin (the redder absorber) first; None where there is too little stain or only one.
    """
    pixels = stained(rgb)
    if len(pixels) < _MIN_PIXELS:
        return None
    od = density(pixels).astype(np.float64)  # [K, 3]
    _, vectors = np.linalg.eigh(np.cov(od.T))
    plane = vectors[:, [2, 1]]  # [3, 2]
    plane *= np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    flat = od @ plane
    angles = np.arctan2(flat[:, 1], flat[:, 0])
    low, high = np.percentile(angles, [EXTREME_PERCENT, 100 - EXTREME_PERCENT])
    if high - low < _MIN_ANGLE:
        return None
    pair = np.stack([plane @ (np.cos(angle), np.sin(angle)) for angle in (low, high)])  # [2, 3]
    pair = np.maximum(pair, 0)
    lengths = np.linalg.norm(pair, axis=1, keepdims=True)
    if lengths.min() < 1e-6:
        return None
    pair /= lengths
    pair = pair[np.argsort(-pair[:, 0])]
    if np.arccos(np.clip(pair[0] @ pair[1], -1, 1)) < _MIN_ANGLE:
        return None
    amounts = od @ np.linalg.pinv(pair)  # [K, 2]
    strengths = np.percentile(amounts, TOP_PERCENT, axis=0)
    if strengths.min() <= 1e-3:
        return None
    return StainVectors(tuple(tuple(map(float, row)) for row in pair), tuple(map(float, strengths)))


def measure_lab(rgb: np.ndarray) -> LabStatistics | None:
    """Mean and deviation of stained pixels, or None where there are too few or all alike. uint8 [..., 3]."""
    pixels = stained(rgb)
    if len(pixels) < _MIN_PIXELS:
        return None
    lab = _to_lab(pixels[None])[0].astype(np.float64)
    deviation = lab.std(axis=0)
    if deviation.min() < 1e-3:
        return None
    return LabStatistics(tuple(map(float, lab.mean(axis=0))), tuple(map(float, deviation)))


class Macenko:
    """From one pair of stains to another; call it with uint8 [..., 3].

    In optical density it is one 3 x 3 matrix: to the amounts of the source's stains, scaled, and back by the target's.
    """

    def __init__(self, source: StainVectors | None, target: StainVectors = MACENKO_REFERENCE) -> None:
        self.source, self.target = source, target
        self._matrix = np.eye(3, dtype=np.float32)
        if source is not None:
            scale = np.append(np.array(target.strengths) / source.strengths, 1.0)
            away, back = _basis(source), _basis(target)
            self._matrix = (np.linalg.inv(away) @ np.diag(scale) @ back).astype(np.float32)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        if self.source is None:
            return rgb
        od, m, share = density(rgb), self._matrix, _share(rgb)
        out = np.empty_like(rgb)
        for channel in range(3):  # sums written out: a matrix product may round differently for other shapes
            mixed = od[..., 0] * m[0, channel] + od[..., 1] * m[1, channel] + od[..., 2] * m[2, channel]
            np.exp(mixed * np.float32(-np.log(10)), out=mixed)
            was = rgb[..., channel]
            out[..., channel] = np.rint(was + share * (np.clip(mixed * np.float32(255), 0, 255) - was))
        return out

    def facts(self) -> dict[str, Any]:
        """The slide's stains in plain values, for its record."""
        source = self.source
        told = {"vectors": source.vectors, "strengths": source.strengths} if source else None
        return {"method": "macenko", "measured": told}


class Reinhard:
    """From one mean and deviation to another in CIELAB; call it with uint8 [..., H, W, 3]."""

    def __init__(self, source: LabStatistics | None, target: LabStatistics = REINHARD_REFERENCE) -> None:
        self.source, self.target = source, target

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        if self.source is None:
            return rgb
        flat = rgb.reshape(-1, rgb.shape[-2], 3)
        lab = _to_lab(flat)
        gain = np.array(self.target.deviation, np.float32) / np.array(self.source.deviation, np.float32)
        lab -= np.array(self.source.mean, np.float32)
        lab *= gain
        lab += np.array(self.target.mean, np.float32)
        moved = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * np.float32(255)
        mixed = flat + _share(flat)[..., None] * (np.clip(moved, 0, 255) - flat)
        return np.rint(mixed).astype(np.uint8).reshape(rgb.shape)

    def facts(self) -> dict[str, Any]:
        """The slide's colours in plain values, for its record."""
        source = self.source
        told = {"lab_mean": source.mean, "lab_deviation": source.deviation} if source else None
        return {"method": "reinhard", "measured": told}


Normaliser = Macenko | Reinhard


def fit(method: Method, pixels: np.ndarray, *, reference: np.ndarray | None = None) -> Normaliser:
    """A normaliser from the colours of some pixels to a reference.

    Args:
        method: "macenko" or "reinhard".
        pixels: uint8 [..., 3] of the slide.
        reference: uint8 [..., 3] of an image to match; the built-in reference where None or where it holds too little
            stain.

    Returns:
        A normaliser; it changes nothing where `pixels` hold too little stain to measure.
    """
    if method == "macenko":
        vectors = measure_vectors(reference) if reference is not None else None
        return Macenko(measure_vectors(pixels), vectors or MACENKO_REFERENCE)
    statistics = measure_lab(reference) if reference is not None else None
    return Reinhard(measure_lab(pixels), statistics or REINHARD_REFERENCE)


def fit_slide(slide: Slide, grid: TileGrid, method: Literal["none", "macenko", "reinhard"]) -> Normaliser | None:
    """The normaliser of one slide, measured on up to 64 of its tiles, evenly spread over the grid.

    Args:
        slide: the open slide the grid was made for.
        grid: its tiles.
        method: "none" gives None, and no pixel is read.
    """
    return None if method == "none" else fit(method, slide_pixels(slide, grid))


def slide_pixels(slide: Slide, grid: TileGrid) -> np.ndarray:
    """Stained pixels of up to 64 tiles, evenly spread over the grid, at about 1 um/px; unreadable ones are left out.

    Returns:
        uint8 [K, 3].
    """
    side = max(1, round(grid.tile_px * grid.mpp / max(SAMPLE_MPP, grid.mpp)))
    plan = plan_region(slide.info, grid.tile_px * grid.mpp / side, (side, side))
    places = np.unique(np.linspace(0, len(grid) - 1, min(len(grid), SAMPLE_TILES)).round().astype(int))
    parts = [np.zeros((0, 3), np.uint8)]
    for place in places:
        x, y = grid.coords[place]
        try:
            parts.append(stained(read_planned(slide, plan, location=(int(x), int(y)))))
        except TileReadError:
            continue
    return np.concatenate(parts)


def _share(rgb: np.ndarray) -> np.ndarray:
    """How much of the change each pixel takes: 0 at 255, rising to 1 where a pixel counts as stained."""
    darkest = np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    return np.asarray(np.minimum(_DENSITY / np.float32(MIN_DENSITY), 1)[darkest])


def _basis(stains: StainVectors) -> np.ndarray:
    pair = np.array(stains.vectors, np.float64)
    pair = pair / np.linalg.norm(pair, axis=1, keepdims=True)
    third = np.cross(pair[0], pair[1])
    return np.vstack([pair, third / np.linalg.norm(third)])  # [3, 3]


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab))
