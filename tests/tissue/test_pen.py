from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.testing.overviews import INKS, Overview, draw_overview
from pathotune_pipeline.tissue import TissueSpec, find_pen
from pathotune_pipeline.tissue.artefacts import find_lines_and_dust, find_shadow
from pathotune_pipeline.tissue.segment import examine, tissue_of

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SPEC = TissueSpec()
WHITE = np.full(3, 242, np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def light(density: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, density.shape)
    return (242 * 10**-density + noise).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module", params=range(6))
def overview(request: pytest.FixtureRequest) -> Overview:
    return draw_overview(request.param)


def test_a_drawn_slide_is_found_to_the_pixel(overview):
    found = tissue_of(overview.rgb, SPEC, mpp=overview.mpp)
    assert iou(found, overview.tissue) > 0.95
    assert found[overview.faint].mean() > 0.9
    assert found[overview.fat].mean() > 0.97
    folds = overview.folds & ~cv2.dilate(overview.pen.astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool)
    assert found[folds].sum() >= 0.95 * folds.sum()
    assert found[overview.dirt & ~overview.tissue & ~overview.pen].mean() < 0.02
    assert found[overview.pen].mean() < 0.05


def test_pen_and_artefacts_are_kept_where_told(overview):
    spec = SPEC.with_values(drop_pen=False, drop_artefacts=False)
    found = examine(overview.rgb, spec, mpp=overview.mpp)
    assert found.mask[overview.pen].mean() > 0.6  # black ink stays out as black
    assert found.pen[overview.pen].mean() > 0.9  # still known, for the flags


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("mpp", [4.0, 8.0, 30.0])
def test_each_ink_at_several_scales(ink, mpp):
    side = round(8_000 / mpp)
    density = np.zeros((side, side, 3), np.float32)
    stroke = cv2.line(
        np.zeros((side, side), np.uint8), (side // 5, side // 4), (side * 4 // 5, side // 2), 1, round(600 / mpp)
    )
    density[-side // 4 :] = (0.15, 0.35, 0.12)  # red ink is told by its distance from the slide's own tissue
    density[stroke > 0] = INKS[ink]
    found = find_pen(light(density), white=WHITE, mpp=mpp)
    assert iou(found, stroke > 0) > 0.9
    assert not tissue_of(light(density), SPEC, mpp=mpp)[: side * 2 // 3].any()


@pytest.mark.parametrize("stain", [(0.26, 0.28, 0.12), (0.04, 0.38, 0.13), (0.06, 0.35, 0.25), (0.5, 0.55, 0.25)])
def test_stain_is_no_pen(stain):
    density = np.zeros((600, 600, 3), np.float32)
    density[100:500, 100:500] = stain
    density[100:500, 100:500] *= np.random.default_rng(1).uniform(0.5, 2.0, (400, 400, 1)).astype(np.float32)
    assert not find_pen(light(density), white=WHITE, mpp=8.0).any()


def test_thin_blue_margin_dye_and_an_all_dark_field_are_no_pen():
    density = np.zeros((600, 600, 3), np.float32)
    cv2.line(density, (50, 50), (500, 300), INKS["blue"], 2)
    assert not find_pen(light(density), white=WHITE, mpp=8.0).any()
    assert not find_pen(np.zeros((300, 300, 3), np.uint8), white=WHITE, mpp=8.0).any()


def test_shadow_lies_along_a_side_and_a_black_stroke_does_not():
    density = np.zeros((800, 1000, 3), np.float32)
    density[:40] = 0.5
    density[200:, 400:470] = INKS["black"]
    shadow = find_shadow(light(density), white=WHITE, mpp=8.0)
    assert shadow[:38].all()
    assert not shadow[300:].any()
    pen = find_pen(light(density), white=WHITE, mpp=8.0)
    assert pen[220:, 405:465].all()
    assert not pen[:30].any()


def test_a_line_at_any_angle_goes_and_tissue_beneath_stays():
    density = np.zeros((800, 1000, 3), np.float32)
    density[300:600, 300:700] = (0.15, 0.35, 0.12)
    line = np.zeros((800, 1000), np.uint8)
    cv2.line(line, (20, 0), (180, 799), 1, 8)
    density[line > 0] += 0.25
    density[450:456] += 0.25  # a scanner's line across the piece
    found = tissue_of(light(density), SPEC, mpp=8.0)
    truth = np.zeros_like(found)
    truth[300:600, 300:700] = True
    assert iou(found, truth) > 0.97
    assert find_lines_and_dust(light(density), white=WHITE, mpp=8.0)[line > 0].mean() > 0.9


def test_a_small_stained_piece_is_no_dust():
    density = np.zeros((400, 400, 3), np.float32)
    cv2.circle(density, (100, 100), 20, (0.10, 0.28, 0.10), -1)
    cv2.circle(density, (300, 300), 20, (0.25, 0.25, 0.25), -1)
    found = tissue_of(light(density), SPEC, mpp=8.0)
    assert found[100, 100]
    assert not found[300, 300]


@pytest.mark.parametrize(("name", "mpp"), [("black", 10.0), ("red", 25.0), ("green", 25.0)])
def test_pen_on_real_slides(name, mpp):
    folder = SHARED / "data" / "truth" / "pen"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    rgb = cv2.cvtColor(cv2.imread(str(folder / f"histoqc_pen_{name}.png")), cv2.COLOR_BGR2RGB)
    truth = cv2.imread(str(folder / f"histoqc_pen_{name}_mask.png"), cv2.IMREAD_GRAYSCALE) > 0
    found = examine(rgb, SPEC, mpp=mpp)
    assert found.pen[truth].mean() > 0.95
    assert found.mask[truth].mean() < 0.05
