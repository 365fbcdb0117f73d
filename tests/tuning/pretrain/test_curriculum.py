"""The curricula, row by row, as the published scheduler goes when it is run; and two that the loss drives."""

from __future__ import annotations

import pytest

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.curriculum import Curriculum, Stage, Standing, piece_sizes

SIZES = (16, 32, 112)


def stages(strategy: str, epochs: int = 200, **settings) -> list[Stage]:
    course = Curriculum(strategy, SIZES, epochs=epochs, warmup=20, **settings)
    return [course.stage(epoch, Standing())[0] for epoch in range(epochs)]


def test_sizes_are_those_that_divide_image_and_patch():
    assert piece_sizes(224, 16) == SIZES
    assert piece_sizes(384, 16) == (16, 32, 48, 64, 96, 128, 192)
    assert piece_sizes(64, 8) == (8, 16, 32)
    with pytest.raises(SpecError, match="cannot be cut"):
        piece_sizes(16, 16)


def test_loop():
    found = stages("loop")
    assert {each.fix_share for each in found} == {0.25}
    assert [each.piece_px for each in found[:32]] == [32] * 20 + [16] * 3 + [32] * 3 + [112] * 3 + [16] * 3
    assert found[198].piece_px == SIZES[(198 - 20) // 3 % 3]


def test_linear_and_reverse():
    parts = [range(20), range(20, 80), range(80, 140), range(140, 200)]
    for strategy, sides in (("linear", (32, 16, 32, 112)), ("reverse", (32, 112, 32, 16))):
        found = stages(strategy)
        for part, side in zip(parts, sides, strict=True):
            assert {found[epoch] for epoch in part} == {Stage(side, 0.25)}


def test_decay():
    found = stages("decay")
    assert {each.piece_px for each in found} == {16}
    shares = [each.fix_share for each in found]
    assert set(shares[:20]) == {0.25}
    assert shares[20] == 0.75
    assert shares[21] == pytest.approx(0.7458, abs=5e-5)
    assert shares[151] == pytest.approx(49 / 180 * 0.75)
    assert shares[151] > 0.2
    assert set(shares[152:]) == {0.2}
    assert max(stages("decay", fix_share=0.4)[20:], key=lambda each: each.fix_share).fix_share == 0.9


def test_fixed_and_random():
    assert set(stages("fixed")) == {Stage(16, 0.25)}
    assert set(stages("fixed", piece_px=112, fix_share=0.5)) == {Stage(112, 0.5)}
    found = stages("random", seed=1)
    assert found == stages("random", seed=1) != stages("random", seed=2)
    assert {each.piece_px for each in found[20:]} == set(SIZES)
    with pytest.raises(SpecError, match="16, 32, 112"):
        Curriculum("fixed", SIZES, epochs=10, warmup=1, piece_px=48)


def driven(strategy: str, losses: list[float | None]) -> list[tuple[int, float]]:
    course = Curriculum(strategy, SIZES, epochs=200, warmup=1)
    standing, found = Standing(), []
    for epoch, loss in enumerate(losses):
        stage, standing = course.stage(epoch, standing, loss)
        found.append((stage.piece_px, round(stage.fix_share, 6)))
    return found


def test_the_loss_drives():
    losses = [None, 9.0, 1.0, 0.95, 0.93, 0.92, 0.86, 0.5]
    assert driven("loss-hold", losses) == [
        (32, 0.25),  # the warm-up
        (112, 0.75),  # what the warm-up came to does not count
        (112, 0.75),  # 1.0 is the mark
        (112, 0.75),  # 0.95 is above 0.933: hold
        (32, 0.675),  # 0.93 is not: a step harder
        (32, 0.675),  # 0.92 is the new mark
        (32, 0.675),
        (16, 0.6075),
    ]
    assert driven("loss-hold", [None, None, 1.0, 0.9, 1.5, 1.5, 1.7])[-3:] == [(32, 0.675)] * 3
    back = driven("loss-back", [None, None, 1.0, 0.9, 1.5, 1.5, 1.7, 9.0])
    assert back[-5:] == [(32, 0.675), (32, 0.675), (32, 0.675), (112, 0.7425), (112, 0.7425)]
