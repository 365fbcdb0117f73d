from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from pathotune_pipeline.testing.overviews import draw_overview
from pathotune_pipeline.tissue import Quality, QualitySpec, TissueSpec, flags
from pathotune_pipeline.tissue.quality import measure_quality, stain_vectors
from pathotune_pipeline.tissue.segment import examine

HEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.10, 0.94, 0.32])


def quality_of(rgb: np.ndarray, mpp: float = 8.0) -> Quality:
    found = examine(rgb, TissueSpec(), mpp=mpp)
    return measure_quality(rgb, found.mask, found.pen, white=found.white, mpp=mpp)


def angle(a, b) -> float:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def test_measures_of_a_drawn_slide():
    overview = draw_overview(2)
    quality = quality_of(overview.rgb)
    assert quality.area_mm2 == pytest.approx(overview.tissue.sum() * 64e-6, rel=0.05)
    assert quality.coverage == pytest.approx(overview.tissue.mean(), rel=0.05)
    assert quality.pen_share == pytest.approx(overview.pen.mean(), rel=0.3)
    assert quality.blur_share < 0.02
    assert 0 < quality.fold_share < 0.03
    assert max(quality.background) > 230
    assert quality == quality_of(overview.rgb)
    assert Quality.from_dict(json.loads(json.dumps(quality.as_dict()))) == quality
    assert any(flag.startswith("pen covers") for flag in flags(quality, QualitySpec()))


def test_blur_is_seen_where_it_is():
    overview = draw_overview(1)
    half = overview.rgb.shape[1] // 2
    rgb = overview.rgb.copy()
    rgb[:, :half] = cv2.GaussianBlur(rgb, (0, 0), 3.0)[:, :half]  # 24 um
    quality = quality_of(rgb)
    left = overview.tissue[:, :half].sum() / overview.tissue.sum()
    assert quality.blur_share == pytest.approx(left, abs=0.15)
    assert any("blurred" in flag for flag in flags(quality, QualitySpec()))


def test_folds_are_seen():
    rng = np.random.default_rng(0)
    density = np.zeros((500, 500, 3))
    density[50:450, 50:450] = rng.uniform(0.8, 1.2, (400, 400, 1)) * (0.3 * HEMATOXYLIN + 0.2 * EOSIN)
    plain = quality_of(np.rint(240 * 10**-density).astype(np.uint8))
    band = cv2.line(np.zeros((500, 500), np.uint8), (100, 100), (400, 300), 1, 14) > 0
    density[band] *= 2.6
    folded = quality_of(np.rint(240 * 10**-density).astype(np.uint8))
    assert plain.fold_share == 0
    assert folded.fold_share == pytest.approx(band.sum() / 400**2, rel=0.3)


def test_stain_vectors_are_those_the_tissue_was_made_of():
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0, 1, (50_000, 2)) ** 2
    amounts[rng.random(50_000) < 0.1, 0] = 0
    amounts[rng.random(50_000) < 0.1, 1] = 0
    density = (amounts @ np.stack([HEMATOXYLIN, EOSIN])).astype(np.float32)
    vectors = stain_vectors(density)
    assert vectors is not None
    assert angle(vectors[0], HEMATOXYLIN) < 3
    assert angle(vectors[1], EOSIN) < 3
    assert stain_vectors(density[:10]) is None


def test_nothing_on_the_slide():
    quality = quality_of(np.full((100, 120, 3), 240, np.uint8))
    assert quality.hematoxylin is None
    assert (quality.area_mm2, quality.blur_share, quality.fold_share, quality.pen_share) == (0, 0, 0, 0)
    assert flags(quality, QualitySpec()) == ["no tissue"]


def test_flags_say_what_is_remarkable():
    quality = Quality(0.5, 0.004, 0.4, 0.1, 0.041, None, None, (180.0, 150.0, 170.0), 16.0)
    assert flags(quality, QualitySpec()) == [
        "only 0.50 mm2 of tissue",
        "tissue covers only 0.4 % of the slide",
        "40 % of the tissue is blurred",
        "10 % of the tissue is folded",
        "pen covers 4 % of the slide",
        "the glass is dark (180 of 255)",
        "the glass is tinted (its channels differ by 30)",
    ]
    lenient = QualitySpec(
        min_area_mm2=0, min_coverage=0, max_blur=1, max_folds=1, max_pen=1, min_background=0, max_tint=255
    )
    assert flags(quality, lenient) == []
