"""An encoder without weights: colour, stain density and texture of a tile, in numbers that have names.

It needs no download and no accelerator, so tests, demonstrations and first looks at an archive can run anywhere.
Texture is measured at half resolution (1 um/px for tiles of 0.5 um/px) and two octaves below.

Sources: stains, Ruifrok and Johnston 2001; hue-saturation-density chroma, van der Laak et al. 2000; local binary
patterns, Ojala, Pietikainen and Maenpaa 2002; structure tensor, Bigun and Granlund 1987.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.errors import UsageError

REVISION = 1
"""Raised by hand whenever a feature's value changes; it enters the fingerprint."""

MIN_PX = 32
"""The smallest side of a tile: below it the coarsest texture octave would be smaller than its filters' margin."""

ORIENTATIONS = 6
BINS = 16
CHROMA_BINS = 8
KERNEL_PX = 7
WAVELENGTH_PX = 5.0
CELL_PX = 4
CPU_GROUP = 4  # tiles at a time: what they need fits the cache of one core
LBP_RADII = (1, 2)
LBP_TOLERANCE = 24  # of 3060, about 2 grey values: JPEG noise on white is no pattern

HEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)

STAINS = ("hematoxylin", "eosin", "residual")
COLOURS = ("red", "green", "blue")
TEXTURED = ("hematoxylin", "eosin")
STAINS_AT_OCTAVE = (1, 2, 2)  # the finest octave costs most, and eosin has little there that haematoxylin has not
DENSITY_RANGE = {"hematoxylin": (-0.15, 2.25), "eosin": (-0.15, 1.05)}
CHROMA_RANGE = {"cx": (-0.7, 0.5), "cy": (-0.3, 0.7)}

# Neighbours in order around the centre, so that a bit pattern's transitions are those on the circle.
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _density_table() -> np.ndarray:
    """Natural optical density of the sum of four 8-bit values, 0 for white: [1021] float32."""
    return -np.log((np.arange(4 * 255 + 1) / 4 + 1) / 256).astype(np.float32)


def _unmixing() -> np.ndarray:
    """From optical density (red, green, blue) to stain amounts: [3, 3] float32, `amounts = density @ matrix`."""
    h, e = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (HEMATOXYLIN, EOSIN))
    residual = np.cross(h, e)
    stains = np.stack([h, e, residual / np.linalg.norm(residual)])
    return np.linalg.inv(stains).astype(np.float32)


def _filters() -> np.ndarray:
    """Gabor pairs, a Laplacian of Gaussian and two derivatives of Gaussian: [2 * ORIENTATIONS + 3, 1, 7, 7]."""
    half = KERNEL_PX // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    wide = np.exp(-(x**2 + y**2) / (2 * 1.7**2))
    even, odd = [], []
    for i in range(ORIENTATIONS):
        angle = math.pi * i / ORIENTATIONS
        phase = 2 * math.pi / WAVELENGTH_PX * (x * math.cos(angle) + y * math.sin(angle))
        cosine = wide * np.cos(phase)
        even.append(cosine - wide * cosine.sum() / wide.sum())
        odd.append(wide * np.sin(phase))
    small = np.exp(-(x**2 + y**2) / (2 * 1.3**2))
    blob = small * (2 - (x**2 + y**2) / 1.3**2)
    blob -= small * blob.sum() / small.sum()
    bank = [*even, *odd, blob, x * small, y * small]
    return np.stack([k / np.abs(k).sum() for k in bank])[:, None].astype(np.float32)


def _lbp_classes() -> np.ndarray:
    """Which of the ten rotation-invariant uniform classes each 8-bit pattern has: [256, 10] float32, one 1 a row."""
    table = np.zeros((256, 10), np.float32)
    for code in range(256):
        bits = [code >> i & 1 for i in range(8)]
        changes = sum(bits[i] != bits[i - 1] for i in range(8))
        table[code, sum(bits) if changes <= 2 else 9] = 1
    return table


def feature_names() -> list[str]:
    """The name of each feature, in the order of `StainTexture`'s output."""
    names = [f"{kind}_{part}" for kind in (*(f"od_{c}" for c in COLOURS), *STAINS) for part in ("mean", "std", "skew")]
    names += [f"{stain}_share_{i:02d}" for stain in TEXTURED for i in range(BINS)]
    names += [f"chroma_{axis}_share_{i}" for axis in CHROMA_RANGE for i in range(CHROMA_BINS)]
    for octave, count in enumerate(STAINS_AT_OCTAVE):
        for stain in TEXTURED[:count]:
            prefix = f"{stain}_octave{octave}"
            degrees = [180 * i // ORIENTATIONS for i in range(ORIENTATIONS)]
            names += [f"{prefix}_gabor{d:03d}_{part}" for part in ("mean", "std") for d in degrees]
            names += [f"{prefix}_{part}" for part in ("blob_dark", "blob_light", "blob_std", "alignment", "coherence")]
    names += [f"lbp_radius{r}_class{i}" for r in LBP_RADII for i in range(10)]
    return names


DIM = len(feature_names())
"""Number of features."""


class StainTexture(nn.Module):
    """Describes each tile by named statistics of colour, stain and texture; it has no weights.

    Optical densities are natural logarithms of 256 / (value + 1), taken after pooling pixels two by two. Texture
    energies and structure come from the haematoxylin and eosin amounts at three octaves; local binary patterns from
    grey values at half resolution. Departures from the sources: the residual stain is the cross product of the other
    two; local binary patterns take their eight neighbours from a square ring and ignore differences of about two
    grey values.

    Each tile is reduced on its own, in a fixed order, and on the CPU tiles are always described four at a time: at one
    tile size and thread count a tile's features have the same bits whatever its neighbours, its place in the batch
    and the batch's length.
    """

    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        for name, array in (
            ("_density", _density_table()),
            ("_unmix", _unmixing()),
            ("_bank", _filters()),
            ("_classes", _lbp_classes()),
        ):
            # Kept as int32 bit patterns: `.half()` or `.to(bfloat16)` on a whole model must not round the tables.
            self.register_buffer(name, torch.from_numpy(array).view(torch.int32), persistent=False)

    def _table(self, name: str) -> Tensor:
        bits: Tensor = getattr(self, name)
        return bits.view(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """The features of a batch of tiles.

        Args:
            x: uint8 [B, H, W, 3], RGB; H and W at least 32. An odd last row or column is left out.

        Returns:
            float32 [B, DIM], finite, of order 1: safe as float16.

        Raises:
            UsageError: another dtype or shape.
        """
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[-1] != 3 or min(x.shape[1:3]) < MIN_PX:
            raise UsageError(
                f"StainTexture takes uint8 [B, H, W, 3] with H, W >= {MIN_PX}, found {x.dtype} {list(x.shape)}. "
                "Give RGB tiles as they were read, not normalised ones."
            )
        with torch.autocast(device_type=x.device.type, enabled=False):
            if len(x) == 0:
                return torch.zeros(0, DIM, device=x.device)
            if x.device.type != "cpu":
                return self._describe(x)
            missing = -len(x) % CPU_GROUP
            whole = torch.cat([x, x[:1].expand(missing, -1, -1, -1)]) if missing else x
            return torch.cat([self._describe(group) for group in whole.split(CPU_GROUP)])[: len(x)]

    def _describe(self, x: Tensor) -> Tensor:
        pooled = _sum_two_by_two(x)  # [B, 3, h, w] int32, 0..1020
        b, _, h, w = pooled.shape
        od = self._table("_density").index_select(0, pooled.view(-1)).view(b, 3, h, w)
        unmix = self._table("_unmix")
        red, green, blue = od.unbind(1)  # [B, h, w] each
        amounts = torch.stack([red * unmix[0, s] + green * unmix[1, s] + blue * unmix[2, s] for s in range(3)], 1)
        parts = [_moments(torch.cat([od, amounts], 1).flatten(2))]  # [B, 18]
        parts += [_shares(amounts[:, i], DENSITY_RANGE[stain], BINS) for i, stain in enumerate(TEXTURED)]
        parts += self._chroma(od)
        parts += self._texture(amounts[:, :2])
        parts += self._patterns(pooled)
        return torch.cat(parts, 1)  # [B, DIM]

    def _chroma(self, od: Tensor) -> list[Tensor]:
        red, green, blue = F.avg_pool2d(od, 2).unbind(1)  # [B, h/2, w/2] each
        mean = (red + green + blue) / 3 + 0.05  # the constant draws white towards neutral
        cx = red / mean - 1
        cy = (green - blue) / (math.sqrt(3) * mean)
        return [
            _shares(cx, CHROMA_RANGE["cx"], CHROMA_BINS),
            _shares(cy, CHROMA_RANGE["cy"], CHROMA_BINS),
        ]

    def _texture(self, amounts: Tensor) -> list[Tensor]:
        b = len(amounts)
        bank, margin, n = self._table("_bank"), KERNEL_PX // 2, ORIENTATIONS
        parts = []
        for octave, count in enumerate(STAINS_AT_OCTAVE):
            if octave:
                amounts = F.avg_pool2d(amounts, 2)
            image = amounts[:, :count].reshape(count * b, 1, *amounts.shape[2:])  # [SB, 1, h, w]
            response = F.conv2d(F.pad(image, [margin] * 4, mode="reflect"), bank)  # [SB, 15, h, w]
            power = (response[:, :n].square() + response[:, n : 2 * n].square()).flatten(2)  # [SB, 6, h*w]
            mean = power.sqrt().mean(-1)
            std = (power.mean(-1) - mean.square()).clamp_min(0).sqrt()
            blob = response[:, 2 * n].flatten(1)  # [SB, h*w]
            dark = blob.clamp_min(0).mean(-1)
            light = dark - blob.mean(-1)
            described = [8 * mean, 8 * std, 8 * torch.stack([dark, light, blob.square().mean(-1).sqrt()], 1)]
            described.append(_structure(response[:, 2 * n + 1], response[:, 2 * n + 2]))
            parts.append(torch.cat(described, 1).view(b, count * (2 * n + 5)))  # [B, S * 17]
        return parts

    def _patterns(self, pooled: Tensor) -> list[Tensor]:
        grey = pooled.sum(1, dtype=torch.int16)  # [B, h, w] 0..3060
        h, w = grey.shape[1:]
        parts = []
        for r in LBP_RADII:
            threshold = grey[:, r : h - r, r : w - r] + LBP_TOLERANCE
            code = torch.zeros_like(threshold, dtype=torch.uint8)
            for bit, (dy, dx) in enumerate(_RING):
                neighbour = grey[:, r + r * dy : h - r + r * dy, r + r * dx : w - r + r * dx]
                code = code | ((neighbour >= threshold).view(torch.uint8) << bit)
            counts = _count(code.flatten(1).long(), 256)  # [B, 256]
            # Whole numbers below 2**24: the product is exact in any order of summation.
            parts.append(counts @ self._table("_classes") / threshold[0].numel())  # [B, 10]
        return parts


def _sum_two_by_two(x: Tensor) -> Tensor:
    """Sums of 2 x 2 pixels: uint8 [B, H, W, 3] -> int32 [B, 3, H // 2, W // 2]."""
    b, h, w = x.shape[0], x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * h, : 2 * w]
    rows = x[:, 0::2].to(torch.int16) + x[:, 1::2]  # [B, h, 2w, 3]
    pairs = rows.view(b, h, w, 2, 3)
    return (pairs[..., 0, :] + pairs[..., 1, :]).permute(0, 3, 1, 2).to(torch.int32).contiguous()


def _moments(values: Tensor) -> Tensor:
    """Mean, standard deviation and a bounded skewness of each channel: [B, C, N] -> [B, 3C]."""
    mean = values.mean(-1, keepdim=True)  # [B, C, 1]
    centred = values - mean
    square = centred.square()
    std = square.mean(-1).sqrt()
    third = (square * centred).mean(-1)
    skew = third / (std + 0.05).pow(3)
    return torch.stack([mean.squeeze(-1), std, skew / (1 + skew.abs() / 4)], -1).flatten(1)


def _shares(values: Tensor, limits: tuple[float, float], bins: int) -> Tensor:
    """The share of pixels in each bin; the outer bins take what lies beyond: [B, h, w] -> [B, bins]."""
    low, high = limits
    index = ((values - low) * (bins / (high - low))).clamp(0, bins - 1).long().flatten(1)
    return _count(index, bins) / index.shape[1]


def _count(index: Tensor, bins: int) -> Tensor:
    """How often each value occurs in each row: int64 [B, N] -> float32 [B, bins]. Counts are exact."""
    b = len(index)
    offset = torch.arange(b, device=index.device)[:, None] * bins
    return torch.bincount((index + offset).view(-1), minlength=b * bins).view(b, bins).float()


def _structure(dx: Tensor, dy: Tensor) -> Tensor:
    """How far gradients agree in direction, over the tile and within small cells: [B, h, w] twice -> [B, 2].

    Both are the share of gradient energy that points one way (1: parallel lines; 0: all directions alike) and do not
    change when the tile is turned.
    """
    tensor = torch.stack([dx * dx, dy * dy, dx * dy], 1)  # [B, 3, h, w]
    cells = F.avg_pool2d(tensor, CELL_PX)  # [B, 3, h/4, w/4]
    xx, yy, xy = cells.unbind(1)
    energy = (xx + yy).flatten(1).mean(-1) + 1e-6
    difference = (xx - yy).flatten(1).mean(-1)
    alignment = torch.hypot(difference, 2 * xy.flatten(1).mean(-1)) / energy
    coherence = torch.hypot(xx - yy, 2 * xy).flatten(1).mean(-1) / energy
    return torch.stack([alignment, coherence], 1)
