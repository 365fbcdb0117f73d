"""Patches and pixels there and back, positions, and a loss that sees only what was taken away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.tuning.pretrain.rankme import rankme
from pathotune_pipeline.tuning.pretrain.restore import (
    from_patches,
    patch_targets,
    restoration_loss,
    sincos_positions,
    to_patches,
)
from pathotune_pipeline.tuning.pretrain.schedule import lr_share


def test_patches_are_pixels_in_raster_order_and_go_back():
    pixels = torch.arange(2 * 3 * 8 * 12).float().view(2, 3, 8, 12)
    patches = to_patches(pixels, 4)
    assert patches.shape == (2, 6, 48)
    for number, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)]):
        block = pixels[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(patches[1, number], block.permute(1, 2, 0).flatten())
    assert torch.equal(from_patches(patches, 4, 3), pixels)


def test_positions_tell_every_place_apart_and_turn_with_the_grid():
    places = sincos_positions(5, 3, 16)
    assert places.shape == (15, 16)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.1
    rates = 10000.0 ** (-np.arange(4) / 4)
    waves = [wave(angle * rates) for angle in (3, 2) for wave in (np.sin, np.cos)]  # column 3, row 2
    np.testing.assert_allclose(places[2 * 5 + 3], np.concatenate(waves), atol=1e-6)


def test_the_loss_is_that_of_numpy_and_knows_only_what_was_taken():
    rng = np.random.default_rng(0)
    restored, target = rng.normal(size=(2, 2, 5, 12)).astype(np.float32)
    taken = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0]], np.float32)
    loss = restoration_loss(*map(torch.from_numpy, (restored, target, taken)))
    by_patch = ((restored - target) ** 2).mean(-1)
    assert float(loss) == pytest.approx(by_patch[taken > 0].mean(), rel=1e-6)
    target[taken == 0] += 100
    assert float(restoration_loss(*map(torch.from_numpy, (restored, target, taken)))) == float(loss)
    assert float(restoration_loss(*map(torch.from_numpy, (target, target, taken)))) == 0


def test_normalised_targets_have_no_mean_and_unit_spread():
    pixels = torch.rand(2, 3, 16, 16)
    plain = to_patches(pixels, 8)
    assert torch.equal(patch_targets(pixels, 8, normalise=False), plain)
    found = patch_targets(pixels, 8, normalise=True)
    expected = (plain - plain.mean(-1, keepdim=True)) / (plain.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(found, expected)
    flat = patch_targets(torch.full((1, 3, 8, 8), 0.4), 8, normalise=True)
    assert flat.isfinite().all()


def test_the_rate_rises_and_falls_step_by_step():
    shares = [lr_share(step, warmup=4, total=12) for step in range(12)]
    assert shares[:5] == [0, 0.25, 0.5, 0.75, 1]
    assert shares[8] == pytest.approx(0.5)
    assert shares == sorted(shares[:5]) + sorted(shares[5:], reverse=True)
    assert lr_share(0, warmup=0, total=5) == 1


def test_rankme_counts_directions():
    generator = torch.Generator().manual_seed(0)
    line = torch.rand(50, 1, generator=generator) * torch.rand(1, 8, generator=generator)
    assert rankme(line) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.eye(8).repeat(5, 1)) == pytest.approx(8, abs=1e-3)
    spread = torch.diag(torch.tensor([2.0, 1.0, 1.0]))
    shares = np.array([0.5, 0.25, 0.25])
    assert rankme(spread) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert rankme(torch.zeros(4, 3)) == 1
