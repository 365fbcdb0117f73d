"""Augmentation: exact where it should be, within what is asked for, and decided by its generator alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from pathotune_pipeline.errors import SpecError, UsageError
from pathotune_pipeline.tuning.patches import Augmentation, AugmentSpec

OFF = {"flips": False, "quarter_turns": False, "colour_share": 0.0, "stain_share": 0.0, "blur_share": 0.0}


def varied(pixels: Tensor, seed: int = 0, **settings: object) -> Tensor:
    spec = AugmentSpec.parse({**OFF, **settings})
    return Augmentation(spec)(pixels, torch.Generator().manual_seed(seed))


@pytest.fixture
def tissue() -> Tensor:
    """64 patches with the colours of H&E, and some white glass in the corner of each."""
    rng = np.random.default_rng(0)
    rgb = rng.normal((190, 120, 180), (25, 35, 20), (64, 24, 24, 3)).clip(0, 255).astype(np.uint8)
    rgb[:, :6, :6] = 255
    return torch.from_numpy(rgb)


def test_nothing_switched_on_changes_nothing(tissue: Tensor) -> None:
    assert torch.equal(varied(tissue), tissue)
    none = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "stain": 0, "blur_px": 0}
    on = {"colour_share": 1.0, "stain_share": 1.0, "blur_share": 1.0}
    assert torch.equal(varied(tissue, **on, **none), tissue)


def test_flips_and_turns_are_the_eight_symmetries(tissue: Tensor) -> None:
    before = tissue.clone()
    out = varied(tissue, flips=True, quarter_turns=True)
    assert torch.equal(tissue, before)
    seen = set()
    for was, now in zip(tissue, out, strict=True):
        ways = [
            (flip, turn)
            for flip, turn in product((False, True), range(4))
            if torch.equal(torch.rot90(was.flip(1) if flip else was, turn, (0, 1)), now)
        ]
        assert len(ways) == 1
        seen.update(ways)
    assert len(seen) == 8
    mirrored = varied(tissue, flips=True)
    assert {
        (torch.equal(was.flip(0), now) or torch.equal(was.flip(1), now) or torch.equal(was.flip(0, 1), now))
        or torch.equal(was, now)
        for was, now in zip(tissue, mirrored, strict=True)
    } == {True}


def test_the_generator_decides_and_the_process_does_not(tissue: Tensor) -> None:
    full = {
        "flips": True,
        "quarter_turns": True,
        "min_area": 0.5,
        "colour_share": 0.5,
        "stain_share": 0.5,
        "blur_share": 0.5,
    }
    torch.manual_seed(1)
    one = varied(tissue, seed=5, **full)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(varied(tissue, seed=5, **full), one)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(varied(tissue, seed=6, **full), one)
    # One setting does not shift another's draws.
    assert torch.equal(varied(tissue, seed=5, flips=True), varied(tissue, seed=5, flips=True, stain_share=1.0, stain=0))


def test_crops_keep_their_share_and_cover_the_whole_patch() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    ramp = torch.stack([x * 4, y * 4, torch.zeros_like(x)], dim=2).to(torch.uint8).expand(200, 64, 64, 3)
    out = varied(ramp, min_area=0.25, max_stretch=1.5).float()
    left, right = out[:, 32, 0, 0], out[:, 32, -1, 0]
    top, bottom = out[:, 0, 32, 1], out[:, -1, 32, 1]
    # Resizing by interpolation loses half an output pixel at each side.
    width, height = (right - left) / 4 * 64 / 63, (bottom - top) / 4 * 64 / 63
    share = width * height / 64**2
    assert share.min() > 0.22
    assert share.max() < 1.03
    assert share.std() > 0.15
    ratio = width / height
    assert 1 / 1.6 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.6
    assert left.min() < 8
    assert right.max() > 240
    small = Augmentation(AugmentSpec.parse(OFF), out_px=32)(ramp, torch.Generator())
    assert small.shape == (200, 32, 32, 3)
    assert torch.equal(small[0, :, :, 0].float().diff(dim=1)[:, 1:-1], torch.full((32, 29), 8.0))


def test_a_crop_of_the_whole_patch_is_the_patch(tissue: Tensor) -> None:
    assert torch.equal(varied(tissue, min_area=0.9999), tissue)


def test_brightness_and_contrast_and_saturation(tissue: Tensor) -> None:
    values = tissue[:, 8:, 8:].float().clamp(60, 180).to(torch.uint8)
    was = values.float()
    only = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "colour_share": 1.0}
    factor = varied(values, **{**only, "brightness": 0.2}).float().mean(dim=(1, 2, 3)) / was.mean(dim=(1, 2, 3))
    assert 0.8 <= factor.min() < 0.85
    assert 1.15 < factor.max() <= 1.2
    spread = varied(values, **{**only, "contrast": 0.2}).float()
    assert torch.allclose(spread.mean(dim=(1, 2, 3)), was.mean(dim=(1, 2, 3)), rtol=0.03)
    ratio = spread.std(dim=(1, 2)).mean(dim=1) / was.std(dim=(1, 2)).mean(dim=1)
    assert 0.79 < ratio.min() < 0.85
    assert 1.15 < ratio.max() < 1.21
    grey = torch.tensor([0.299, 0.587, 0.114])
    faded = varied(values, **{**only, "saturation": 1.0}).float()
    inside = ((faded > 0) & (faded < 255)).all(dim=3)
    assert ((faded - was) @ grey)[inside].abs().max() < 1.5
    chroma = (faded.amax(3) - faded.amin(3)).mean(dim=(1, 2)) / (was.amax(3) - was.amin(3)).mean(dim=(1, 2))
    assert chroma.min() < 0.15
    assert chroma.max() > 1.6


def test_hue_turns_colours_and_keeps_grey_and_brightness(tissue: Tensor) -> None:
    only = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.1, "colour_share": 1.0}
    out = varied(tissue, **only).float()
    assert (out[:, :6, :6] == 255).all()
    grey = torch.tensor([0.299, 0.587, 0.114])
    inside = ((out > 0) & (out < 255)).all(dim=3)
    assert ((out - tissue.float()) @ grey)[inside].abs().max() < 1.5
    assert (out - tissue.float()).abs().amax(dim=(1, 2, 3)).median() > 20


def test_stain_scales_what_the_pixels_hold_and_leaves_glass(tissue: Tensor) -> None:
    out = varied(tissue, stain_share=1.0, stain=0.1)
    assert (out[:, :6, :6] == 255).all()
    changed = (out != tissue).any(dim=3)[:, 8:, 8:].float().mean(dim=(1, 2))
    assert changed.min() > 0.8
    hed = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
    hed /= np.linalg.norm(hed, axis=1, keepdims=True)

    def amounts(rgb: Tensor) -> np.ndarray:
        density = -np.log10(np.maximum(rgb[:, 8:, 8:].numpy().astype(float), 1) / 255)
        return density @ np.linalg.inv(hed)  # [B, h, w, 3]

    dark = (tissue[:, 8:, 8:].amin(dim=3) < 100) & (out[:, 8:, 8:].amax(dim=3) < 250) & (out[:, 8:, 8:].amin(dim=3) > 5)
    fits = []
    for was, now, chosen in zip(amounts(tissue), amounts(out), dark.numpy(), strict=True):
        for stain in range(3):
            slope, shift = np.polyfit(was[chosen][:, stain], now[chosen][:, stain], 1)
            fits.append((slope, shift))
    slopes, shifts = np.array(fits).T
    assert 0.88 < slopes.min() < 0.93
    assert 1.07 < slopes.max() < 1.12
    assert np.abs(shifts).max() < 0.115
    assert np.abs(shifts).max() > 0.07


def test_blur_keeps_the_mean_and_lowers_the_contrast(tissue: Tensor) -> None:
    out = varied(tissue, blur_share=1.0, blur_px=1.5)
    was, now = (each.float()[:, 8:, 8:] for each in (tissue, out))
    assert torch.allclose(was.mean(dim=(1, 2)), now.mean(dim=(1, 2)), atol=4)
    ratio = now.std(dim=(1, 2)) / was.std(dim=(1, 2))
    assert ratio.max() < 1.02
    assert ratio.min() < 0.4
    flat = torch.full((4, 9, 9, 3), 77, dtype=torch.uint8)
    assert torch.equal(varied(flat, blur_share=1.0, blur_px=16), flat)


def test_shares_of_patches(tissue: Tensor) -> None:
    many = tissue.repeat(16, 1, 1, 1)
    for name, settings in {"stain_share": {"stain": 0.2}, "blur_share": {"blur_px": 3.0}, "colour_share": {}}.items():
        changed = (varied(many, **{name: 0.3}, **settings) != many).flatten(1).any(dim=1).float().mean()
        assert 0.23 < changed < 0.36


def test_what_it_does_not_take() -> None:
    with pytest.raises(UsageError, match=r"square uint8 .*torch\.float32"):
        varied(torch.zeros(2, 8, 8, 3))
    with pytest.raises(UsageError, match=r"\(2, 8, 9, 3\)"):
        varied(torch.zeros(2, 8, 9, 3, dtype=torch.uint8))
    with pytest.raises(SpecError, match="hue"):
        AugmentSpec.parse({"hue": 0.7})
    assert varied(torch.zeros(0, 8, 8, 3, dtype=torch.uint8), stain_share=1.0).shape == (0, 8, 8, 3)


@pytest.mark.gpu
def test_the_device_changes_no_draw(tissue: Tensor) -> None:
    spec = AugmentSpec(min_area=0.5, blur_share=0.5)
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here = Augmentation(spec)(tissue, torch.Generator().manual_seed(3))
    there = Augmentation(spec)(tissue.cuda(), torch.Generator().manual_seed(3)).cpu()
    assert (here.int() - there.int()).abs().max() <= 1
