"""Views: what they are when nothing is random, how far they may go, and that they hang on the numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.spec import ViewSpec
from pathotune_pipeline.tuning.pretrain.views import random_views, whole_views
from tests.tuning.pretrain.toy import textures

WHOLE = {"crop_min": 1.0, "crop_max": 1.0, "crop_ratio": 1.0}


def draws(number: int = 0, rows: int = 16) -> Draws:
    return Draws(3, number, rows=rows)


def test_a_whole_crop_is_the_image():
    images = torch.from_numpy(textures(16))
    plain = images.permute(0, 3, 1, 2) / 255
    spec = ViewSpec(**WHOLE, flips=False)
    torch.testing.assert_close(random_views(images, 32, spec, draws()), plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(whole_views(images, 32), plain, atol=1e-4, rtol=0)


def test_smaller_views_are_means_of_blocks():
    images = torch.from_numpy(textures(4))
    blocks = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2) / 255, 2)
    torch.testing.assert_close(whole_views(images, 16), blocks, atol=1e-4, rtol=0)


def test_flips_are_the_eight_ways_to_lay_a_square():
    images = torch.from_numpy(textures(64))
    views = random_views(images, 32, ViewSpec(**WHOLE), draws(rows=64))
    seen = set()
    for image, view in zip(images.permute(0, 3, 1, 2) / 255, views, strict=True):
        ways = [torch.rot90(turned, k, (1, 2)) for turned in (image, image.flip(2)) for k in range(4)]
        errors = [float((way - view).abs().max()) for way in ways]
        assert min(errors) < 1e-3
        seen.add(int(np.argmin(errors)))
    assert seen == set(range(8))


def test_crops_have_the_shares_that_were_asked_for():
    ramp = torch.arange(64, dtype=torch.uint8).repeat(64, 1)
    images = torch.stack([ramp, ramp.T, torch.zeros_like(ramp)], -1)[None].repeat(200, 1, 1, 1)
    spec = ViewSpec(crop_min=0.2, crop_max=0.6, crop_ratio=1.5, flips=False)
    views = random_views(images, 16, spec, draws(rows=200)) * 255
    width = (views[:, 0, :, -1] - views[:, 0, :, 0]).mean(1) / 15 * 16 / 64
    height = (views[:, 1, -1] - views[:, 1, 0]).mean(1) / 15 * 16 / 64
    area, ratio = width * height, width / height
    assert area.min() > 0.18
    assert area.max() < 0.62
    assert area.mean() == pytest.approx(0.4, abs=0.03)
    assert 1 / 1.55 < ratio.min() < 0.75
    assert 1.33 < ratio.max() < 1.55


def test_views_hang_on_seed_and_number_alone_and_are_shared_out_by_rows():
    images = torch.from_numpy(textures(16))
    whole = random_views(images, 32, ViewSpec(jitter=0.2), draws())
    torch.manual_seed(99)
    assert torch.equal(random_views(images, 32, ViewSpec(jitter=0.2), draws()), whole)
    assert not torch.equal(random_views(images, 32, ViewSpec(jitter=0.2), draws(1)), whole)
    for rank in range(2):
        part = Draws(3, 0, rows=16, rank=rank, world=2)
        torch.testing.assert_close(random_views(images[rank::2], 32, ViewSpec(jitter=0.2), part), whole[rank::2])
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_a_smallest_crop_above_the_largest_is_refused():
    with pytest.raises(SpecError, match="Exchange"):
        ViewSpec(crop_min=0.9, crop_max=0.5).check()
