"""Synthetic overviews whose tissue, pen and folds are known to the pixel.

A slide as it is seen at some 8 um/px: stained pieces with texture, pale pieces, fat, and everything that is not tissue
and lies on slides all the same. Light passes through stain, ink and dust in turn, so densities add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

INKS = {
    "blue": (0.95, 0.62, 0.16),
    "green": (0.95, 0.27, 0.36),
    "black": (1.10, 1.15, 1.25),
    "red": (0.10, 0.95, 0.70),
}
"""Optical densities of a full stroke in red, green and blue."""
_HEMATOXYLIN, _EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.94, 0.32])


@dataclass(frozen=True)
class Overview:
    """A drawn overview.

    Attributes:
        rgb: uint8 [h, w, 3].
        mpp: um/px.
        tissue: bool [h, w], all tissue that no pen covers, faint tissue, fat and folds among it.
        faint: bool [h, w], the pale piece.
        fat: bool [h, w].
        folds: bool [h, w].
        pen: bool [h, w], pen of all four colours.
        dirt: bool [h, w], dust, coverslip line and edge shadow.
    """

    rgb: np.ndarray
    mpp: float
    tissue: np.ndarray
    faint: np.ndarray
    fat: np.ndarray
    folds: np.ndarray
    pen: np.ndarray
    dirt: np.ndarray


def draw_overview(seed: int, *, size_px: tuple[int, int] = (1500, 1100), mpp: float = 8.0) -> Overview:
    """Draw an overview; the same seed gives the same pixels.

    Args:
        seed: decides everything that is drawn.
        size_px: width and height.
        mpp: um/px.
    """
    rng = np.random.default_rng([seed, 77])
    width, height = size_px
    shape = (height, width)
    density = np.zeros((height, width, 3), np.float32)
    body = _blob(rng, shape, (0.35, 0.5), 0.24)
    faint = _blob(rng, shape, (0.76, 0.28), 0.11) & ~body
    fat = _blob(rng, shape, (0.74, 0.72), 0.15) & ~body & ~faint
    stains = rng.uniform(0.8, 1.2, 2)
    _stain(rng, density, body, amounts=(0.35 * stains[0], 0.45 * stains[1]))
    _stain(rng, density, faint, amounts=(0.03 * stains[0], 0.075 * stains[1]))
    _draw_fat(rng, density, fat, mpp)
    folds = _fold(rng, density, body, mpp)
    dirt = _dirt(rng, density, body | faint | fat, mpp)
    pen = np.zeros(shape, bool)
    for place, ink in zip(rng.permutation(4), INKS, strict=True):
        pen |= _stroke(rng, density, int(place), ink=ink, mpp=mpp)
    white = rng.uniform(236, 246) + rng.uniform(-2, 2, 3)
    light = white * 10 ** -cv2.GaussianBlur(density, (0, 0), 0.6) + rng.normal(0, 1.2, density.shape)
    rgb = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return Overview(rgb, mpp, (body | faint | fat) & ~pen, faint & ~pen, fat & ~pen, folds & ~pen, pen, dirt)


def _noise(rng: np.random.Generator, shape: tuple[int, int], period: float) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1, with lumps of about so many px: float32 [h, w]."""
    small = rng.standard_normal((int(shape[0] / period) + 3, int(shape[1] / period) + 3)).astype(np.float32)
    large = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray((large - large.mean()) / large.std())


def _blob(rng: np.random.Generator, shape: tuple[int, int], at: tuple[float, float], radius: float) -> np.ndarray:
    """A piece with a wavy outline: bool [h, w]."""
    turns = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    reach = np.ones_like(turns)
    for wave in range(2, 8):
        reach += rng.normal(0, 0.18 / wave) * np.cos(wave * turns + rng.uniform(0, 7))
    side = min(shape)
    x = at[0] * shape[1] + rng.uniform(-0.02, 0.02) * side + radius * side * 1.2 * reach * np.cos(turns)
    y = at[1] * shape[0] + rng.uniform(-0.02, 0.02) * side + radius * side * reach * np.sin(turns)
    ring = np.stack([x, y], axis=1).round().astype(np.int32)
    return np.asarray(cv2.fillPoly(np.zeros(shape, np.uint8), [ring], 1) > 0)


def _stain(rng: np.random.Generator, density: np.ndarray, where: np.ndarray, *, amounts: tuple[float, float]) -> None:
    grain = 1 + 0.25 * _noise(rng, where.shape, 2.0) + 0.15 * _noise(rng, where.shape, 25.0)
    mix = np.clip(1 + 0.5 * _noise(rng, where.shape, 40.0), 0.2, 2.0)
    hematoxylin = np.clip(amounts[0] * mix * grain, 0.6 * amounts[0] * mix, None)[..., None] * _HEMATOXYLIN
    eosin = np.clip(amounts[1] * (2 - mix).clip(0.5) * grain, 0.3 * amounts[1], None)[..., None] * _EOSIN
    density[where] += (hematoxylin + eosin)[where].astype(np.float32)


def _draw_fat(rng: np.random.Generator, density: np.ndarray, where: np.ndarray, mpp: float) -> None:
    """A net of thin walls around cells of some 70 um."""
    height, width = where.shape
    walls = np.zeros((height, width), np.float32)
    cell = 70 / mpp
    grid = cv2.Subdiv2D((0, 0, width, height))
    rows, columns = np.nonzero(where)
    box = (columns.min(), rows.min(), columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
    for y in np.arange(box[1], box[1] + box[3], cell):
        for x in np.arange(box[0], box[0] + box[2], cell):
            px, py = x + rng.uniform(-0.4, 0.4) * cell, y + rng.uniform(-0.4, 0.4) * cell
            grid.insert((float(np.clip(px, 0, width - 1)), float(np.clip(py, 0, height - 1))))
    for facet in grid.getVoronoiFacetList([])[0]:
        cv2.polylines(walls, [np.rint(facet).astype(np.int32)], True, 0.09, 1)
    rim = where & ~(cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    walls[rim] = 0.09
    density[where] += (walls[..., None] * (_EOSIN * 1.2)).astype(np.float32)[where]


def _fold(rng: np.random.Generator, density: np.ndarray, body: np.ndarray, mpp: float) -> np.ndarray:
    """A band where the tissue lies threefold: bool [h, w]."""
    height, width = body.shape
    turn = rng.uniform(0, np.pi)
    step = np.array([np.cos(turn), np.sin(turn)]) * 0.13 * min(body.shape)
    middle = np.array([0.35 * width, 0.5 * height])
    ends = [tuple(int(value) for value in np.rint(middle + sign * step)) for sign in (-1, 1)]
    band = cv2.line(np.zeros(body.shape, np.uint8), ends[0], ends[1], 1, max(2, round(90 / mpp))) > 0
    band &= body
    density[band] *= 2.6
    return np.asarray(band)


def _dirt(rng: np.random.Generator, density: np.ndarray, tissue: np.ndarray, mpp: float) -> np.ndarray:
    """Dust beside the tissue, a line of the coverslip, and the shadow of one edge: bool [h, w]."""
    height, width = tissue.shape
    near = cv2.dilate(tissue.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
    dust = np.zeros(tissue.shape, np.float32)
    for _ in range(40):
        at = (int(rng.integers(width)), int(rng.integers(height)))
        if not near[at[1], at[0]]:
            cv2.circle(dust, at, round(rng.uniform(20, 160) / mpp), float(rng.uniform(0.12, 0.6)), -1)
    line = np.zeros(tissue.shape, np.float32)
    x, lean = int(width * rng.uniform(0.03, 0.06)), int(width * rng.uniform(-0.01, 0.01))
    cv2.line(line, (x, 0), (x + lean, height), float(rng.uniform(0.15, 0.35)), max(2, round(60 / mpp)))
    depth = round(rng.uniform(250, 500) / mpp)
    shadow = np.zeros(tissue.shape, np.float32)
    shadow[:depth] = np.linspace(rng.uniform(0.4, 0.8), 0.0, depth, dtype=np.float32)[:, None]
    grey = cv2.GaussianBlur(dust, (0, 0), 1.5) + line + shadow
    density += grey[..., None]
    return np.asarray(grey > 0.03)


def _stroke(rng: np.random.Generator, density: np.ndarray, slot: int, *, ink: str, mpp: float) -> np.ndarray:
    """A stroke in one of four places, the first of them across the tissue: bool [h, w]."""
    height, width = density.shape[:2]
    starts = ((0.22, 0.30), (0.10, 0.90), (0.55, 0.93), (0.60, 0.11))
    ends = ((0.45, 0.68), (0.42, 0.94), (0.92, 0.92), (0.95, 0.11))
    along = np.linspace(0, 1, 30)[:, None]
    path = np.array(starts[slot]) * (1 - along) + np.array(ends[slot]) * along
    path = (path + rng.normal(0, 0.004, (1, 2)) + 0.01 * np.sin(along * rng.uniform(2, 6))) * (width, height)
    drawn = np.zeros((height, width), np.uint8)
    cv2.polylines(drawn, [path.round().astype(np.int32)], False, 1, round(rng.uniform(350, 800) / mpp))
    strength = cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), 20 / mpp) * rng.uniform(0.8, 1.5)
    strength *= 1 + 0.08 * _noise(rng, drawn.shape, 60.0)
    density += strength[..., None] * np.array(INKS[ink], np.float32)
    return np.asarray(drawn > 0)
