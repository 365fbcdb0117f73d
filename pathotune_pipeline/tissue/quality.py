"""How good a slide is, measured on its overview: tissue, blur, folds, pen, stain.

An overview of 8 um/px shows no cells. What it can prove of sharpness is modest: tissue whose structures of 10 to 30 um
(glands, vessels, the edge of the piece) have been washed out. A blur of one or two micrometres, which harms nuclei, is
not seen there; `finest_provable_um` says from where on it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tissue.density import Density, mean_density, optical_density
from pathotune_pipeline.tissue.glass import coarsened
from pathotune_pipeline.tissue.pieces import Pieces
from pathotune_pipeline.tissue.slabs import in_slabs

_WINDOW_UM = 200.0
_SHARP_DETAIL = 0.10
_FOLD_DENSITY, _FOLD_CHROMA, _FOLD_WIDTH_UM, _FOLD_MIN_MM2 = 1.8, 0.20, 300.0, 0.005
_FOLD_MPP = 16.0
_STAIN_MIN, _STAIN_SAMPLE, _STAIN_PERCENT = 0.15, 200_000, 1.0
_STAIN_MIN_PIXELS = 100


class QualitySpec(Spec):
    """From where on a slide is flagged. A flag is a remark: nothing is left out for it."""

    min_area_mm2: float = setting(
        1.0, "Tissue under this many mm2 is flagged.", hashed=False, flag="flag-min-area-mm2", ge=0
    )
    min_coverage: float = setting(
        0.01,
        "Tissue under this share of the slide is flagged, 0 to 1.",
        hashed=False,
        flag="flag-min-coverage",
        ge=0,
        le=1,
    )
    max_blur: float = setting(
        0.25, "A share of blurred tissue above this is flagged, 0 to 1.", hashed=False, flag="flag-max-blur", ge=0, le=1
    )
    max_folds: float = setting(
        0.05, "A share of folded tissue above this is flagged, 0 to 1.", hashed=False, flag="flag-max-folds", ge=0, le=1
    )
    max_pen: float = setting(
        0.02,
        "A share of the slide under pen above this is flagged, 0 to 1.",
        hashed=False,
        flag="flag-max-pen",
        ge=0,
        le=1,
    )
    min_background: float = setting(
        190.0,
        "Empty glass darker than this, 0-255, is flagged.",
        hashed=False,
        flag="flag-min-background",
        ge=0,
        le=255,
    )
    max_tint: float = setting(
        20.0,
        "Empty glass whose colour channels differ by more, 0-255, is flagged.",
        hashed=False,
        flag="flag-max-tint",
        ge=0,
    )


@dataclass(frozen=True)
class Quality:
    """What was measured on a slide's overview.

    Attributes:
        area_mm2: tissue.
        coverage: share of the slide that is tissue.
        blur_share: share of the tissue without detail, as far as the overview can show it.
        fold_share: share of the tissue in dense, deeply coloured bands.
        pen_share: share of the slide under pen and its margin.
        hematoxylin: optical density of pure haematoxylin in red, green, blue, of unit length; None where the tissue
            is too little, or of one stain only.
        eosin: the same for eosin.
        background: colour of empty glass, 0-255.
        finest_provable_um: blur finer than this is not seen.
    """

    area_mm2: float
    coverage: float
    blur_share: float
    fold_share: float
    pen_share: float
    hematoxylin: tuple[float, float, float] | None
    eosin: tuple[float, float, float] | None
    background: tuple[float, float, float]
    finest_provable_um: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Quality:
        """What `as_dict` gave, read back from JSON."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


def measure_quality(rgb: np.ndarray, mask: np.ndarray, pen: np.ndarray, *, white: np.ndarray, mpp: float) -> Quality:
    """Measure a slide's quality on its overview.

    Args:
        rgb: uint8 [h, w, 3].
        mask: bool [h, w], the tissue.
        pen: bool [h, w], the pen.
        white: colour of empty glass, float32 [3], 0-255.
        mpp: um/px of the overview.
    """
    area = int(np.count_nonzero(mask))
    # Only the box around the tissue is looked at: on many slides it is a small part.
    rows, columns = _extent(mask)
    inside = np.ascontiguousarray(mask[rows, columns])
    rgb = np.ascontiguousarray(rgb[rows, columns])
    every = max(1, int((inside.size / _STAIN_SAMPLE) ** 0.5))
    sample = rgb[::every, ::every][inside[::every, ::every]]
    vectors = stain_vectors(optical_density(sample[None], white)[0] if len(sample) else np.zeros((0, 3), np.float32))
    coarse, coarse_mpp = coarsened(rgb, mpp, _FOLD_MPP)
    body = cv2.resize(inside.view(np.uint8), coarse.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    return Quality(
        area_mm2=round(area * mpp**2 / 1e6, 4),
        coverage=round(area / max(1, mask.size), 5),
        blur_share=_share(_blurred(rgb, inside, white, mpp), inside),
        fold_share=_share(_folds(Density.of(coarse, white), body, coarse_mpp), body),
        pen_share=round(float(np.count_nonzero(pen)) / max(1, pen.size), 5),
        hematoxylin=_plain(vectors[0]) if vectors else None,
        eosin=_plain(vectors[1]) if vectors else None,
        background=_plain(white),
        finest_provable_um=round(2 * mpp, 2),
    )


def stain_vectors(density: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Haematoxylin and eosin as a slide has them, after Macenko et al., ISBI 2009.

    Departures: natural order instead of random draws, so the answer is always the same; an evenly spaced sample of at
    most 200,000 pixels; None where the tissue shows one stain only.

    Args:
        density: float32 [pixels, 3], optical density of tissue.

    Returns:
        Two float64 [3] of unit length, haematoxylin (more red absorbed) first.
    """
    stained = density[density.sum(axis=1) > 3 * _STAIN_MIN]
    if len(stained) < _STAIN_MIN_PIXELS:
        return None
    stained = stained[:: max(1, len(stained) // _STAIN_SAMPLE)].astype(np.float64)
    _, axes = np.linalg.eigh(np.cov(stained.T))
    plane = axes[:, [2, 1]]  # [3, 2]
    plane *= np.where(stained.mean(axis=0) @ plane < 0, -1.0, 1.0)
    flat = stained @ plane
    angles = np.arctan2(flat[:, 1], flat[:, 0])
    ends = np.percentile(angles, [_STAIN_PERCENT, 100 - _STAIN_PERCENT])
    if ends[1] - ends[0] < 0.02:
        return None
    pure = [np.clip(plane @ (np.cos(angle), np.sin(angle)), 0, None) for angle in ends]
    first, second = (vector / max(float(np.linalg.norm(vector)), 1e-9) for vector in pure)
    return (first, second) if first[0] > second[0] else (second, first)


def flags(quality: Quality, spec: QualitySpec) -> list[str]:
    """What is remarkable about a slide, a sentence each; empty where nothing is."""
    background = quality.background
    tint = max(background) - min(background)
    checks = (
        (quality.area_mm2 <= 0, "no tissue"),
        (0 < quality.area_mm2 < spec.min_area_mm2, f"only {quality.area_mm2:.2f} mm2 of tissue"),
        (0 < quality.coverage < spec.min_coverage, f"tissue covers only {_percent(quality.coverage)} of the slide"),
        (quality.blur_share > spec.max_blur, f"{_percent(quality.blur_share)} of the tissue is blurred"),
        (quality.fold_share > spec.max_folds, f"{_percent(quality.fold_share)} of the tissue is folded"),
        (quality.pen_share > spec.max_pen, f"pen covers {_percent(quality.pen_share)} of the slide"),
        (max(background) < spec.min_background, f"the glass is dark ({max(background):.0f} of 255)"),
        (tint > spec.max_tint, f"the glass is tinted (its channels differ by {tint:.0f})"),
    )
    return [sentence for holds, sentence in checks if holds]


def _extent(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return _even(rows, mask.shape[0]), _even(columns, mask.shape[1])


def _even(found: np.ndarray, length: int) -> slice:
    """From the first to the last, and one more where that makes an even number: to halve an image is quick then."""
    first, stop = int(found[0]), int(found[-1]) + 1
    odd = (stop - first) % 2
    return slice(first, stop + 1) if odd and stop < length else slice(first - (odd and first > 0), stop)


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return round(int(np.count_nonzero(part)) / max(1, int(np.count_nonzero(whole))), 5)


def _plain(vector: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in vector)
    return red, green, blue


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %" if share >= 0.01 else f"{share * 100:.1f} %"


def _blurred(rgb: np.ndarray, mask: np.ndarray, white: np.ndarray, mpp: float) -> np.ndarray:
    """Tissue whose finest detail is small against its density: pixels differ little from their neighbours' mean."""
    if not mask.any():
        return mask

    def look(part: np.ndarray) -> np.ndarray:
        mean = mean_density(part, white)
        detail = np.abs(cv2.Laplacian(mean, cv2.CV_32F, ksize=1))
        return np.asarray(detail - _SHARP_DETAIL * mean)

    beyond = in_slabs(rgb, look, margin=1, dtype=np.float32)
    # The rim of the tissue is an edge of its own.
    beyond *= cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8))
    side = max(3, 2 * round(_WINDOW_UM / mpp / 2) + 1)
    return np.asarray(mask & (cv2.blur(beyond, (side, side)) < 0))


def _folds(density: Density, mask: np.ndarray, mpp: float) -> np.ndarray:
    """Bands where tissue lies double: about twice as dense as the tissue around, deep in colour, and narrow."""
    if not mask.any():
        return mask
    middle, upper = np.percentile(density.total[mask], [50, 75])
    least = max(_FOLD_DENSITY * middle, 1.15 * upper, 3 * _STAIN_MIN)
    dark = (mask & (density.total > least) & (density.uneven > _FOLD_CHROMA)).view(np.uint8)
    side = max(3, 2 * round(_FOLD_WIDTH_UM / mpp / 2) + 1)
    dark = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    narrow = dark & ~cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    pieces = Pieces.of(narrow, connectivity=8)
    spans = np.hypot(pieces.boxes[:, 2], pieces.boxes[:, 3])
    keep = (pieces.areas * mpp**2 >= _FOLD_MIN_MM2 * 1e6) & (spans**2 >= 4 * pieces.areas)
    return pieces.only(keep)
