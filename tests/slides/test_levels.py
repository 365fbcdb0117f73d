"""The scale rule over hand-made pyramids: which level, by what factor, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pathotune_pipeline.errors import ScaleError
from pathotune_pipeline.geometry import ENLARGEMENT_TOLERANCE, Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo, SlideSpec, check_scale, plan_region, read_at_mpp

SIZE = Size(80_000, 60_000)


def info_of(mpp: Mpp | float | None, downsamples: tuple[float, ...], size: Size = SIZE) -> SlideInfo:
    levels = tuple(
        Level(Size(max(1, round(size.width / factor)), max(1, round(size.height / factor))), factor)
        for factor in downsamples
    )
    scale = Mpp.square(mpp) if isinstance(mpp, float) else mpp
    return SlideInfo("made", "made", levels, scale, "openslide" if scale else None, None)


TWO, FOUR = (1.0, 2.0, 4.0, 8.0), (1.0, 4.0, 16.0)
SCANNER = (1.0, 4.000127, 8.0011, 16.0039)  # what rounded level sizes make of 4, 8 and 16

TABLE = [
    # name, slide's mpp, downsamples, target, level, shrink, enlargement
    ("exact at level 0", 0.25, TWO, 0.25, 0, 1.0, 0.0),
    ("exact at level 1", 0.25, TWO, 0.5, 1, 1.0, 0.0),
    ("exact at the last level", 0.25, TWO, 2.0, 3, 1.0, 0.0),
    ("off by rounding, a little coarser", 0.25, SCANNER, 2.0, 2, 8 / 8.0011, 8.0011 / 8 - 1),
    ("off by rounding, level 1", 0.25, SCANNER, 1.0, 1, 4 / 4.000127, 4.000127 / 4 - 1),
    ("off by rounding, a little finer", 0.25, (1.0, 3.9989), 1.0, 1, 4 / 3.9989, 0.0),
    ("between levels the finer one", 0.25, FOUR, 0.5, 0, 2.0, 0.0),
    ("between levels, near the coarser", 0.25, FOUR, 0.9, 0, 3.6, 0.0),
    ("just within 5 % of the coarser", 0.25, FOUR, 1.0 / 1.049, 1, 1 / 1.049, 0.049),
    ("just beyond 5 % of the coarser", 0.25, FOUR, 1.0 / 1.051, 0, 4 / 1.051, 0.0),
    ("exactly 5 %", 0.525, (1.0,), 0.5, 0, 0.5 / 0.525, 0.05),
    ("coarser than the last level", 0.25, FOUR, 10.0, 2, 2.5, 0.0),
    ("single level", 0.25, (1.0,), 2.0, 0, 8.0, 0.0),
    ("single level at its own scale", 0.5, (1.0,), 0.5, 0, 1.0, 0.0),
    ("0.502 at 0.5", 0.502, TWO, 0.5, 0, 0.5 / 0.502, 0.004),
    ("0.502 at 1", 0.502, TWO, 1.0, 1, 1 / 1.004, 0.004),
    ("0.4987 at 0.5", 0.4987, TWO, 0.5, 0, 0.5 / 0.4987, 0.0),
    ("0.2325 at 0.5: a 40x scanner of its own", 0.2325, TWO, 0.5, 1, 0.5 / 0.465, 0.0),
    ("0.2435 at 0.25", 0.2435, TWO, 0.25, 0, 0.25 / 0.2435, 0.0),
    ("two levels alike: the finest of them", 0.5, (1.0, 1.0, 2.0), 0.5, 0, 1.0, 0.0),
    ("levels out of order", 0.25, (1.0, 8.0, 4.0), 1.0, 2, 1.0, 0.0),
]


@pytest.mark.parametrize(
    ("mpp", "downsamples", "target", "level", "shrink", "enlargement"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_chosen_level(mpp, downsamples, target, level, shrink, enlargement):
    info = info_of(mpp, downsamples)
    plan = plan_region(info, target, (256, 256))
    assert plan.level == level
    assert plan.shrink == pytest.approx(shrink, rel=1e-9)
    assert plan.enlargement == pytest.approx(enlargement, abs=1e-9)
    assert plan.enlargement <= ENLARGEMENT_TOLERANCE + 1e-9
    assert plan.extent_level0 == pytest.approx((256 * target / mpp,) * 2)  # the physical extent holds, whatever is read
    side = 256 * target / mpp / downsamples[level]
    assert plan.read_size_px == (round(side), round(side))
    # Nothing coarser would have done.
    limit = target * (1 + ENLARGEMENT_TOLERANCE)
    assert all(mpp * other <= mpp * downsamples[level] or mpp * other > limit for other in downsamples)


@pytest.mark.parametrize(
    ("mpp", "target", "words"),
    [
        (0.5, 0.25, ("0.25 um/px", "0.5 um/px", "invent detail", "--mpp 0.5")),
        (0.5, 0.475, ("invent detail",)),
        (0.526, 0.5, ("0.526", "invent detail")),
        (None, 0.5, ("no mpp", "manifest")),
    ],
)
def test_refused_at_a_target(mpp, target, words):
    info = info_of(mpp, TWO)
    with pytest.raises(ScaleError) as told:
        plan_region(info, target, (224, 224))
    assert all(word in str(told.value) for word in words)


def test_axes_of_a_little_different_mpp_keep_their_own_extents():
    info = info_of(Mpp(0.50, 0.51), TWO)
    plan = plan_region(info, 1.0, (200, 200))
    assert plan.extent_level0 == pytest.approx((400.0, 200 / 0.51))
    assert plan.read_size_px == (200, round(200 / 0.51 / 2))
    assert plan.enlargement == pytest.approx((0.50 * 0.51) ** 0.5 * 2 - 1)


@pytest.mark.parametrize(
    ("mpp", "passes", "word"),
    [
        (Mpp.square(0.25), True, ""),
        (Mpp.square(0.1), True, ""),
        (Mpp.square(10.0), True, ""),
        (Mpp(0.25, 0.2624), True, ""),
        (None, False, "no mpp"),
        (Mpp(0.25, 0.27), False, "not square"),
        (Mpp(0.25, 0.5), False, "not square"),
        (Mpp.square(0.09), False, "outside"),
        (Mpp.square(10.5), False, "outside"),
        (Mpp.square(1000.0), False, "outside"),  # mm taken for um
        (Mpp.square(352.8), False, "outside"),  # 72 dpi, what an image editor writes
        (Mpp.square(2.5e-4), False, "outside"),  # um taken for mm
    ],
)
def test_missing_anisotropic_and_absurd_mpp(mpp, passes, word):
    info = info_of(mpp, TWO)
    if passes:
        check_scale(info, SlideSpec())
        return
    with pytest.raises(ScaleError, match=word):
        check_scale(info, SlideSpec())
    if mpp is None:  # nothing stands in for a scale that is not there
        with pytest.raises(ScaleError, match=word):
            check_scale(info, SlideSpec(allow_odd_mpp=True), overridden=True)
    else:
        check_scale(info, SlideSpec(allow_odd_mpp=True))
        check_scale(info, SlideSpec(), overridden=True)


class RampSlide:
    """Each pixel of each level tells where it lies: red by x, green by y, in 64ths of the slide."""

    def __init__(self, info: SlideInfo) -> None:
        self.info = info

    def read_region(self, location, level, size):
        factor = self.info.levels[level].downsample
        x = location[0] + (np.arange(size[0]) + 0.5) * factor
        y = location[1] + (np.arange(size[1]) + 0.5) * factor
        out = np.zeros((size[1], size[0], 3), np.uint8)
        out[..., 0] = (x / self.info.size.width * 255)[None].round()
        out[..., 1] = (y / self.info.size.height * 255)[:, None].round()
        return out

    def close(self):
        pass


@pytest.mark.parametrize("target", [0.25, 0.45, 0.5, 1.3, 2.0, 2.6])
@pytest.mark.parametrize("downsamples", [(1.0,), TWO, SCANNER])
def test_whatever_the_level_the_place_is_the_same(downsamples, target):
    size = Size(8000, 6000)
    slide = RampSlide(info_of(0.25, downsamples, size))
    pixels = read_at_mpp(slide, target, location=(1000, 1500), size_px=(200, 100))
    assert pixels.shape == (100, 200, 3)
    x = 1000 + (np.arange(200) + 0.5) * target / 0.25
    y = 1500 + (np.arange(100) + 0.5) * target / 0.25
    assert np.abs(pixels[50, :, 0] - x / 8000 * 255).max() < 1.2
    assert np.abs(pixels[:, 50, 1] - y / 6000 * 255).max() < 1.2
