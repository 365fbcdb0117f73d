"""Draws synthetic tissue: amounts of haematoxylin and eosin on a plane, then light through both.

Nothing here is meant to fool a pathologist. It has what the pipeline has to deal with: a near-white background,
irregular tissue, fibres, crowded and sparse nuclei, fat with thin septa, and staining that differs from slide to slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathotune_pipeline.testing.slides import SyntheticSlideSpec

NATIVE_MPP = 0.5
TILE_UM = 128.0
"""Side of a planted tile: 256 px at 0.5 um/px."""

COARSE = 16  # the plane's low-resolution maps are this much smaller
_FULL = 100.0  # an amount of 1.0 in the uint8 maps
_ANGLES = 24
_HEMATOXYLIN = np.array([0.650, 0.704, 0.286])
_EOSIN = np.array([0.092, 0.954, 0.283])
_SPINDLES_PER_TILE = 132


@dataclass(frozen=True)
class Scene:
    """A drawn slide.

    Attributes:
        rgb: uint8 [H, W, 3].
        tissue: share of tissue in each grid tile, float32 [rows, columns].
        planted: (column, row) of each tile with aligned nuclei, in raster order.
        decoys: (column, row) of each tile with disordered nuclei, in raster order.
    """

    rgb: np.ndarray
    tissue: np.ndarray
    planted: list[tuple[int, int]]
    decoys: list[tuple[int, int]]


@dataclass(frozen=True)
class _Look:
    """What differs between slides of either class alike."""

    hematoxylin: np.ndarray
    eosin: np.ndarray
    light: np.ndarray
    eosin_level: float
    fibre_contrast: float
    fibre_angle: float
    density: float
    ordered: float
    elongated: float
    tissue_share: float
    fat_share: float


def _draw_look(rng: np.random.Generator) -> _Look:
    def stain(base: np.ndarray, strength: float) -> np.ndarray:
        vector = np.clip(base + rng.normal(0, 0.03, 3), 0.02, None)
        return vector / np.linalg.norm(vector) * strength

    return _Look(
        hematoxylin=stain(_HEMATOXYLIN, rng.uniform(1.15, 1.7)),
        eosin=stain(_EOSIN, rng.uniform(0.75, 1.15)),
        light=rng.uniform(238, 247) + rng.uniform(-2, 2, 3),
        eosin_level=rng.uniform(0.42, 0.62),
        fibre_contrast=rng.uniform(0.4, 1.25),
        fibre_angle=rng.uniform(0, np.pi),
        density=rng.uniform(70, 130),
        ordered=rng.uniform(0, 2.5),
        elongated=rng.uniform(0, 0.8),
        tissue_share=rng.uniform(0.4, 0.7),
        fat_share=rng.uniform(0.05, 0.16),
    )


def draw_scene(spec: SyntheticSlideSpec) -> Scene:
    """Draw the slide that a spec describes; the same spec gives the same pixels.

    Args:
        spec: size, scale, seed and what is planted.

    Returns:
        The pixels and what is known about them.
    """
    # Three streams, so that what is planted changes nothing else on the slide.
    look_rng, base_rng, plant_rng = (np.random.default_rng([spec.seed, stream]) for stream in range(3))
    look = _draw_look(look_rng)
    width, height = spec.size_px
    scale = NATIVE_MPP / spec.mpp
    coarse = (-(-height // COARSE), -(-width // COARSE))
    tissue, fat = _outline(base_rng, coarse, look, scale)
    planted, decoys = _choose(plant_rng, tissue, fat, spec)

    eosin, angle = _stroma(base_rng, (height, width), coarse, look, scale)
    _carve(base_rng, eosin, tissue, fat, scale)
    hematoxylin = np.zeros((height, width), np.uint8)
    _scatter(base_rng, hematoxylin, tissue & ~fat, angle, look, scale=scale, keep_out=_boxes(planted + decoys, spec))
    sprites = _spindles(scale)
    amounts = _reference_amounts(sprites, spec.tile_px)
    for box in _boxes(planted, spec):
        _plant(plant_rng, hematoxylin, box, sprites, amounts=amounts, aligned=True)
    for box in _boxes(decoys, spec):
        _plant(plant_rng, hematoxylin, box, sprites, amounts=amounts, aligned=False)
    return Scene(_light_through(base_rng, hematoxylin, eosin, look), _tile_shares(tissue, spec), planted, decoys)


def _noise(rng: np.random.Generator, shape: tuple[int, int], period: float) -> np.ndarray:
    """Smooth noise in 0..1, with lumps of about `period` coarse cells: float32 [h, w]."""
    h, w = shape
    total = np.zeros(shape, np.float32)
    for octave, weight in enumerate((1.0, 0.5, 0.25)):
        step = max(period / 2**octave, 1.5)
        small = rng.random((int(h / step) + 4, int(w / step) + 4), np.float32)
        rows = (np.arange(h, dtype=np.float32) / step + 1)[:, None].repeat(w, 1)
        columns = (np.arange(w, dtype=np.float32) / step + 1)[None].repeat(h, 0)
        total += weight * cv2.remap(small, columns, rows, cv2.INTER_CUBIC)
    return total / 1.75


def _outline(
    rng: np.random.Generator, shape: tuple[int, int], look: _Look, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where there is tissue and where fat within it: bool [h, w] twice."""
    h, w = shape
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    cx, cy = rng.uniform(-0.15, 0.15, 2)
    height = 1.1 * _noise(rng, shape, max(h, w) / 4) - 0.55 * np.hypot(x - cx, y - cy) ** 2
    height += 0.08 * _noise(rng, shape, max(8 * scale, 3))
    height -= 3 * np.maximum(np.maximum(np.abs(x), np.abs(y)) - 0.8, 0) ** 1.3  # away from the slide's edge
    tissue = height > np.quantile(height, 1 - look.tissue_share)
    lumps = _noise(rng, shape, max(h, w) / 5)
    fat = tissue & (lumps > np.quantile(lumps[tissue], 1 - look.fat_share))
    return tissue, fat


def _tile_shares(mask: np.ndarray, spec: SyntheticSlideSpec) -> np.ndarray:
    """The share of each grid tile that a coarse mask covers: float32 [rows, columns]."""
    width, height = spec.size_px
    tile, (left, top) = spec.tile_px, spec.offset
    rows, columns = max(0, (height - top) // tile), max(0, (width - left) // tile)
    shares = np.zeros((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            y, x = (top + r * tile) // COARSE, (left + c * tile) // COARSE
            shares[r, c] = mask[y : y + -(-tile // COARSE), x : x + -(-tile // COARSE)].mean()
    return shares


def _choose(
    rng: np.random.Generator, tissue: np.ndarray, fat: np.ndarray, spec: SyntheticSlideSpec
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Random whole tiles of solid tissue, (column, row), in raster order: those to plant and the decoys.

    A small slide may have too few of them: then tissue is laid, in place, under the next best tiles.
    """
    if spec.pattern == "none":
        return [], []
    tissue_tiles = int((_tile_shares(tissue, spec) >= 0.5).sum())
    aligned = max(1, round(spec.planted_share * tissue_tiles))
    total = aligned + round(spec.decoy_share * tissue_tiles)
    shares = _tile_shares(tissue & ~fat, spec)
    whole = np.argwhere(shares >= 0.995)
    whole = whole[rng.permutation(len(whole))]
    best = np.argsort(-shares, axis=None, kind="stable")
    partial = np.stack(np.unravel_index(best, shares.shape), 1)[len(whole) :]
    picked = [(int(c), int(r)) for r, c in np.concatenate([whole, partial])[:total]]
    for x, y, side in _boxes(picked, spec):
        under = np.s_[y // COARSE : -(-(y + side) // COARSE), x // COARSE : -(-(x + side) // COARSE)]
        tissue[under], fat[under] = True, False
    split = aligned if spec.pattern == "planted" else 0
    return sorted(picked[:split], key=_raster), sorted(picked[split:], key=_raster)


def _raster(place: tuple[int, int]) -> tuple[int, int]:
    return place[1], place[0]


def _boxes(places: list[tuple[int, int]], spec: SyntheticSlideSpec) -> list[tuple[int, int, int]]:
    """(x, y, side) of each tile in level-0 pixels."""
    left, top = spec.offset
    return [(left + c * spec.tile_px, top + r * spec.tile_px, spec.tile_px) for c, r in places]


def _stroma(
    rng: np.random.Generator, shape: tuple[int, int], coarse: tuple[int, int], look: _Look, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Wavy eosin fibres: their amount, uint8 [H, W], and their direction in radians, float32 [h, w]."""
    h, w = shape
    side, around = 1024, 64
    white = rng.standard_normal((2, side, side), np.float32)
    white = np.pad(white, ((0, 0), (around, around), (around, around)), mode="wrap")
    inner = (slice(around, -around), slice(around, -around))
    fibres = cv2.GaussianBlur(white[0], (0, 0), sigmaX=14, sigmaY=1.3)[inner]
    grain = cv2.GaussianBlur(white[1], (0, 0), 1.2)[inner]
    pattern = look.fibre_contrast * fibres / fibres.std() + 0.5 * grain / grain.std()
    texture = np.clip(128 + 26 * pattern, 0, 255).astype(np.uint8)
    # The texture repeats, so it may be read at any place: turned, and bent by a smooth displacement across its fibres.
    y, x = (np.mgrid[: coarse[0], : coarse[1]] * (COARSE / scale)).astype(np.float32)
    cos, sin = np.cos(look.fibre_angle), np.sin(look.fibre_angle)
    across = y * cos - x * sin + 700 * _noise(rng, coarse, 75 * scale) + 60 * _noise(rng, coarse, 14 * scale)
    slope_y, slope_x = np.gradient(across)
    along = (x * cos + y * sin).astype(np.float32)
    full = [cv2.resize(m.astype(np.float32), (w, h), interpolation=cv2.INTER_LINEAR) for m in (along, across)]
    plane = cv2.remap(texture, full[0], full[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    level = look.eosin_level * (0.75 + 0.5 * _noise(rng, coarse, 24 * scale))
    level = cv2.resize((level * _FULL).astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(level, plane, scale=1 / 128), np.arctan2(-slope_x, slope_y).astype(np.float32)


def _carve(rng: np.random.Generator, eosin: np.ndarray, tissue: np.ndarray, fat: np.ndarray, scale: float) -> None:
    """Empty the glass around the tissue and the vacuoles of fat cells, in place."""
    h, w = eosin.shape
    quarter = (-(-w // 4), -(-h // 4))
    solid = cv2.resize(tissue.astype(np.uint8) * 255, quarter, interpolation=cv2.INTER_CUBIC)
    wobble = cv2.resize(rng.integers(0, 90, tissue.shape).astype(np.uint8), quarter, interpolation=cv2.INTER_CUBIC)
    solid = cv2.GaussianBlur(cv2.add(cv2.subtract(solid, 45), wobble) // 2 + 10, (0, 0), 1.5)
    keep = cv2.threshold(solid, 100, 255, cv2.THRESH_BINARY)[1]
    spacing = 36 * scale  # of fat cells, in quarter-size pixels: about 70 um
    rows, columns = int(quarter[1] / spacing) + 2, int(quarter[0] / spacing) + 2
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    x[::2] += 0.5
    seeds = np.full((quarter[1], quarter[0]), 255, np.uint8)
    sy = np.clip((y + rng.uniform(-0.28, 0.28, y.shape)) * spacing, 0, quarter[1] - 1).astype(int)
    sx = np.clip((x + rng.uniform(-0.28, 0.28, x.shape)) * spacing, 0, quarter[0] - 1).astype(int)
    seeds[sy, sx] = 0
    cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    septa = np.zeros_like(seeds)
    septa[:, 1:] |= np.where(cells[:, 1:] != cells[:, :-1], 255, 0).astype(np.uint8)
    septa[1:] |= np.where(cells[1:] != cells[:-1], 255, 0).astype(np.uint8)
    fat_quarter = cv2.resize(fat.astype(np.uint8) * 255, quarter, interpolation=cv2.INTER_LINEAR) > 127
    keep[fat_quarter] = cv2.min(keep, septa)[fat_quarter]
    keep = cv2.GaussianBlur(keep, (0, 0), 0.8)
    cv2.multiply(eosin, cv2.resize(keep, (w, h), interpolation=cv2.INTER_LINEAR), dst=eosin, scale=1 / 255)


def _sprite(rng: np.random.Generator, length: float, width: float, angle: float, amount: float) -> np.ndarray:
    """One nucleus with a firm rim and mottled chromatin: uint8 [s, s], s odd."""
    half = int(np.ceil(length / 2)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = np.sqrt((2 * u / length) ** 2 + (2 * v / width) ** 2)
    body = 1 / (1 + np.exp((radius - 1) * 3.0 * min(width, 8) / 2))
    rim = 0.25 * np.exp(-(((radius - 0.85) / 0.18) ** 2))
    mottle = cv2.GaussianBlur(rng.standard_normal(x.shape).astype(np.float32), (0, 0), 1.1)
    return np.clip(_FULL * amount * body * (0.85 + rim + 0.45 * mottle), 0, 255).astype(np.uint8)


def _spindles(scale: float) -> list[np.ndarray]:
    """The nuclei of special tiles, one for each direction from 0 to pi: uint8 [s, s] each, all of one amount."""
    rng = np.random.default_rng(7)
    return [_sprite(rng, 25 * scale, 7.5 * scale, np.pi * i / _ANGLES, amount=0.85) for i in range(_ANGLES)]


def _stamp(plane: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Add a sprite centred at (x, y), in place; amounts add up as stain in a thick section does."""
    half = sprite.shape[0] // 2
    top, left = y - half, x - half
    if top < 0 or left < 0 or top + len(sprite) > plane.shape[0] or left + len(sprite) > plane.shape[1]:
        return
    window = plane[top : top + len(sprite), left : left + len(sprite)]
    cv2.add(window, sprite, dst=window)


def _scatter(
    rng: np.random.Generator,
    plane: np.ndarray,
    where: np.ndarray,
    angle: np.ndarray,
    look: _Look,
    *,
    scale: float,
    keep_out: list[tuple[int, int, int]],
) -> None:
    """Ordinary nuclei: small round and oval ones, crowded here and sparse there, loosely along the fibres."""
    h, w = plane.shape
    margin = round(6 * scale)
    forbidden = np.zeros((h, w), np.uint8)
    for x, y, side in keep_out:
        forbidden[max(0, y - margin) : y + side + margin, max(0, x - margin) : x + side + margin] = 1
    shapes = [
        [_sprite(rng, s * scale * stretch, s * scale, np.pi * i / _ANGLES, amount) for i in range(_ANGLES)]
        for s, stretch, amount in ((9, 1.1, 1.0), (11, 1.25, 0.8), (9.5, 1.6, 0.8), (7.5, 2.9, 0.8))
    ]
    kinds = np.array([0.3, 0.4, 0.3, 0.0]) * (1 - look.elongated) + np.array([0, 0, 0.2, 0.8]) * look.elongated
    aggregate = _noise(rng, where.shape, 30 * scale) > 0.68
    crowd = 0.35 + 1.3 * _noise(rng, where.shape, 14 * scale) ** 2 + 1.4 * aggregate
    inside = cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    expected = np.where(inside, crowd, 0).astype(np.float64)
    expected *= look.density / (TILE_UM / NATIVE_MPP) ** 2 * (COARSE / scale) ** 2
    count = rng.poisson(expected)
    cy, cx = np.nonzero(count)
    times = count[cy, cx]
    cy, cx = cy.repeat(times), cx.repeat(times)
    x = np.minimum(((cx + rng.random(len(cx))) * COARSE).astype(int), w - 1)
    y = np.minimum(((cy + rng.random(len(cy))) * COARSE).astype(int), h - 1)
    kind = rng.choice(4, len(x), p=kinds / kinds.sum())
    kind[aggregate[cy, cx] & (rng.random(len(x)) < 0.9)] = 0  # crowds are of round nuclei: no spindles in dense streams
    turn = angle[cy, cx] + (rng.vonmises(0, look.ordered, len(x)) if look.ordered else rng.uniform(0, 7, len(x))) / 2
    index = np.round(turn / np.pi * _ANGLES).astype(int) % _ANGLES
    free = forbidden[y, x] == 0
    for px, py, k, i in zip(x[free], y[free], kind[free], index[free], strict=True):
        _stamp(plane, shapes[k][i], int(px), int(py))


def _plant(
    rng: np.random.Generator,
    plane: np.ndarray,
    box: tuple[int, int, int],
    sprites: list[np.ndarray],
    *,
    amounts: np.ndarray,
    aligned: bool,
) -> None:
    """Draw the special tile at a box, in place: one stream of spindles where aligned, all directions where not.

    Number, kind and spacing of nuclei do not depend on `aligned`. Overlaps do, a little; so the amounts of
    haematoxylin are replaced, rank for rank, by the same ones in every special tile.
    """
    left, top, side = box
    tile = _crowd_of_spindles(rng, sprites, side, aligned=aligned)
    near = cv2.GaussianBlur(tile.astype(np.float32), (0, 0), 1.0)
    ranked = np.argsort((tile + 0.01 * near).ravel(), kind="stable")
    matched = np.empty(side * side, np.uint8)
    matched[ranked] = amounts
    plane[top : top + side, left : left + side] = matched.reshape(side, side)


def _reference_amounts(sprites: list[np.ndarray], side: int) -> np.ndarray:
    """The sorted amounts of haematoxylin of every special tile: uint8 [side * side]."""
    return np.sort(_crowd_of_spindles(np.random.default_rng(11), sprites, side, aligned=True).ravel())


def _crowd_of_spindles(rng: np.random.Generator, sprites: list[np.ndarray], side: int, *, aligned: bool) -> np.ndarray:
    """Spindle nuclei at jittered places, whole within the tile: uint8 [side, side]."""
    tile = np.zeros((side, side), np.uint8)
    half = sprites[0].shape[0] // 2
    room = side - 2 * half - 2
    rows = round(np.sqrt(_SPINDLES_PER_TILE))
    columns = _SPINDLES_PER_TILE // rows
    stream, bend = rng.uniform(0, np.pi), rng.uniform(-0.35, 0.35)
    any_direction = rng.uniform(0, np.pi, (rows, columns))
    sway = rng.normal(0, 0.15, (rows, columns))
    jitter = rng.uniform(-0.4, 0.4, (2, rows, columns))
    for r in range(rows):
        for c in range(columns):
            x = half + 1 + (c + 0.5 + jitter[0, r, c]) * room / columns
            y = half + 1 + (r + 0.5 + jitter[1, r, c]) * room / rows
            turn = stream + bend * (c / columns - 0.5) + sway[r, c] if aligned else any_direction[r, c]
            _stamp(tile, sprites[round(turn / np.pi * _ANGLES) % _ANGLES], round(x), round(y))
    return tile


def _light_through(rng: np.random.Generator, hematoxylin: np.ndarray, eosin: np.ndarray, look: _Look) -> np.ndarray:
    """Beer-Lambert: light that passes both stains, in 8 bits with a little camera noise: uint8 [H, W, 3]."""
    amount = np.arange(256)[:, None] / _FULL
    h_table = np.clip(np.rint(look.light * np.exp(-amount * look.hematoxylin)), 0, 255).astype(np.uint8)
    e_table = np.clip(np.rint(255 * np.exp(-amount * look.eosin)), 0, 255).astype(np.uint8)
    through = [
        cv2.multiply(cv2.LUT(hematoxylin, h_table[:, c]), cv2.LUT(eosin, e_table[:, c]), scale=1 / 255)
        for c in range(3)
    ]
    rgb = cv2.merge(through)
    h, w = hematoxylin.shape
    noise = rng.integers(0, 5, (256, 256, 3), np.uint8)
    for top in range(0, h, 256):
        for left in range(0, w, 256):
            window = rgb[top : top + 256, left : left + 256]
            window -= noise[: window.shape[0], : window.shape[1]]
    return rgb
