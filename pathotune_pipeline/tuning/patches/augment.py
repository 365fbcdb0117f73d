"""Augmentation of whole batches on the device: uint8 in, uint8 out, and every draw from a generator that is handed in.

In this order: flips and quarter turns, exact; a random crop, resized; stain; brightness, contrast, saturation and hue;
blur. Between these, values are floats that are not cut off; they are clamped and rounded once, at the end.

Stain jitter: Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
distilled stain-invariant convolutional networks", IEEE TMI 2018, with the vectors of Ruifrok & Johnston 2001. Departure:
it fades out where there is no stain, for it would tint the glass. Hue is turned about the grey axis in YIQ, not in HSV:
so all of colour jitter is one matrix a patch, and brightness stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tiles.stain import MIN_DENSITY

_LUMA = (0.299, 0.587, 0.114)
_YIQ = np.array([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_HED = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
_HED /= np.linalg.norm(_HED, axis=1, keepdims=True)
_FLIP, _FLIP_TOO, _TURN, _AREA, _STRETCH, _LEFT, _TOP = range(7)
_STAIN, _ALPHA, _BETA = 7, slice(8, 11), slice(11, 14)
_COLOUR, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(14, 19)
_BLUR, _SIGMA = 19, 20
_DRAWS = 21
"""Numbers drawn for each patch: as many whatever is switched on, so that one setting does not shift another's draws."""


class AugmentSpec(Spec):
    """How patches are varied while a model learns from them."""

    flips: bool = setting(True, "Mirror patches at random.", flag="augment-flips")
    quarter_turns: bool = setting(True, "Turn patches by 0, 90, 180 or 270 degrees.", flag="augment-quarter-turns")
    min_area: float = setting(
        1.0,
        "Least share of a patch's area that a random crop keeps before it is resized; 1 does not crop.",
        flag="augment-min-area",
        gt=0.01,
        le=1,
    )
    max_stretch: float = setting(
        1.0, "How many times longer than wide, or wider than long, a crop may be.", flag="augment-max-stretch", ge=1
    )
    colour_share: float = setting(
        0.5,
        "Share of patches whose brightness, contrast, saturation and hue vary.",
        ge=0,
        le=1,
        flag="augment-colour-share",
    )
    brightness: float = setting(
        0.1, "Brightness times 1 plus or minus up to this.", ge=0, lt=1, flag="augment-brightness"
    )
    contrast: float = setting(
        0.1,
        "Distance from the patch's mean grey times 1 plus or minus up to this.",
        ge=0,
        lt=1,
        flag="augment-contrast",
    )
    saturation: float = setting(
        0.1, "Distance from grey times 1 plus or minus up to this.", ge=0, le=1, flag="augment-saturation"
    )
    hue: float = setting(
        0.02, "Turn of the colour circle up to this share of it, either way.", ge=0, le=0.5, flag="augment-hue"
    )
    stain_share: float = setting(0.5, "Share of patches whose stain varies.", ge=0, le=1, flag="augment-stain-share")
    stain: float = setting(
        0.05,
        "Haematoxylin, eosin and the rest each times 1 plus or minus up to this, and plus or minus it in optical density.",
        ge=0,
        lt=1,
        flag="augment-stain",
    )
    blur_share: float = setting(0.1, "Share of patches that are blurred.", ge=0, le=1, flag="augment-blur-share")
    blur_px: float = setting(1.0, "Largest sigma of the Gaussian blur in pixels.", ge=0, le=16, flag="augment-blur-px")


Change = Callable[[Tensor, Tensor, AugmentSpec], Tensor]
"""From float32 [B, P, P, 3], draws [B, 21] and settings to changed float32 [B, P, P, 3]."""


class Augmentation:
    """Vary a batch; call it with uint8 [B, H, W, 3] and a generator.

    What is drawn depends on the generator and on B alone, not on the device or on anything random in the process.
    """

    def __init__(self, spec: AugmentSpec | None = None, *, out_px: int | None = None) -> None:
        """Prepare.

        Args:
            spec: what is varied; the defaults where None.
            out_px: side of what comes out; None keeps that of the patches.
        """
        self.spec, self.out_px = spec or AugmentSpec(), out_px

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """One batch.

        Args:
            pixels: uint8 [B, H, H, 3], on any device; not changed.
            generator: on the CPU.

        Returns:
            uint8 [B, P, P, 3] on the same device.

        Raises:
            UsageError: `pixels` are something else.
        """
        if (
            pixels.dtype != torch.uint8
            or pixels.ndim != 4
            or pixels.shape[1] != pixels.shape[2]
            or pixels.shape[3] != 3
        ):
            raise UsageError(
                f"Augmentation takes square uint8 [B, P, P, 3]; found {pixels.dtype} {tuple(pixels.shape)}."
            )
        spec, draws = self.spec, torch.rand(len(pixels), _DRAWS, generator=generator)
        out_px = self.out_px or pixels.shape[1]
        turned = _turned(pixels, draws, spec)
        values = turned.permute(0, 3, 1, 2).float()
        if spec.min_area < 1 or spec.max_stretch > 1:
            values = _cropped(values, draws, spec, out_px)
        elif out_px != pixels.shape[1]:
            values = _resized(values, out_px)
        values = values.permute(0, 2, 3, 1)
        values = _on_some(values, _chosen(draws[:, _STAIN], spec.stain_share * (spec.stain > 0)), draws, spec, _stained)
        jitter = max(spec.brightness, spec.contrast, spec.saturation, spec.hue) > 0
        values = _on_some(values, _chosen(draws[:, _COLOUR], spec.colour_share * jitter), draws, spec, _coloured)
        values = _on_some(values, _chosen(draws[:, _BLUR], spec.blur_share * (spec.blur_px > 0)), draws, spec, _blurred)
        return values.clamp_(0, 255).round_().to(torch.uint8).contiguous()


def _chosen(draw: Tensor, share: float) -> Tensor:
    return (draw < share).nonzero()[:, 0]


def _on_some(values: Tensor, chosen: Tensor, draws: Tensor, spec: AugmentSpec, change: Change) -> Tensor:
    """Change the patches at some places in place, float [B, P, P, 3]."""
    if not len(chosen):
        return values
    places = chosen.to(values.device)
    values[places] = change(values[places], draws[chosen], spec)
    return values


def _signed(draw: Tensor, most: float) -> Tensor:
    """From 0 to 1, to plus or minus `most`."""
    return (2 * draw - 1) * most


def _turned(pixels: Tensor, draws: Tensor, spec: AugmentSpec) -> Tensor:
    if spec.flips:
        across = (draws[:, _FLIP] < 0.5).to(pixels.device)[:, None, None, None]
        pixels = torch.where(across, pixels.flip(2), pixels)
        down = (draws[:, _FLIP_TOO] < 0.5).to(pixels.device)[:, None, None, None]
        pixels = torch.where(down, pixels.flip(1), pixels)
    if not spec.quarter_turns:
        return pixels
    turns = (draws[:, _TURN] * 4).long().clamp(max=3)
    turned = pixels.clone()
    for turn in (1, 2, 3):
        places = (turns == turn).nonzero()[:, 0].to(pixels.device)
        turned[places] = torch.rot90(pixels[places], turn, (1, 2))
    return turned


def _cropped(values: Tensor, draws: Tensor, spec: AugmentSpec, out_px: int) -> Tensor:
    """A crop of each patch, float [B, 3, H, H] to [B, 3, out_px, out_px]. What would not fit is made to fit."""
    side = values.shape[2]
    area = (spec.min_area + draws[:, _AREA] * (1 - spec.min_area)) * side * side
    stretch = torch.exp(_signed(draws[:, _STRETCH], math.log(spec.max_stretch)))
    width = (area * stretch).sqrt().round().clamp(1, side)
    height = (area / stretch).sqrt().round().clamp(1, side)
    left = (draws[:, _LEFT] * (side - width + 1)).floor().clamp(max=side - 1)
    top = (draws[:, _TOP] * (side - height + 1)).floor().clamp(max=side - 1)
    boxes = torch.stack([left, top, left + width, top + height], dim=1).long().clamp(max=side).tolist()
    return torch.cat(
        [_resized(patch[None, :, y0:y1, x0:x1], out_px) for patch, (x0, y0, x1, y1) in zip(values, boxes, strict=True)]
    )


def _resized(values: Tensor, out_px: int) -> Tensor:
    if values.shape[2:] == (out_px, out_px):
        return values
    return F.interpolate(values, size=(out_px, out_px), mode="bilinear", antialias=True)


def _stained(values: Tensor, draws: Tensor, spec: AugmentSpec) -> Tensor:
    basis = torch.from_numpy(_HED)  # [3 stains, 3 channels]
    alpha = 1 + _signed(draws[:, _ALPHA].double(), spec.stain)
    beta = _signed(draws[:, _BETA].double(), spec.stain)
    matrix = torch.linalg.inv(basis) @ torch.diag_embed(alpha) @ basis  # [B, 3, 3]
    shift = (beta @ basis)[:, None, None, :].float().to(values.device) * math.log(10)
    # Natural logarithms, negated, and in place: half of the time otherwise goes to memory and to other bases.
    density = values.clamp(min=1).div_(255).log_().neg_()
    share = density.amax(dim=3, keepdim=True).div_(MIN_DENSITY * math.log(10)).clamp_(max=1)
    changed = _mixed(density, matrix).add_(shift).neg_().exp_().mul_(255)
    return changed.sub_(values).mul_(share).add_(values)


def _coloured(values: Tensor, draws: Tensor, spec: AugmentSpec) -> Tensor:
    bright = 1 + _signed(draws[:, _BRIGHTNESS], spec.brightness)
    contrast = 1 + _signed(draws[:, _CONTRAST], spec.contrast)
    saturation = 1 + _signed(draws[:, _SATURATION], spec.saturation)
    matrix = (bright * contrast)[:, None, None].double() * _tint(saturation, _signed(draws[:, _HUE], spec.hue))
    luma = values.mean(dim=(1, 2)) @ torch.tensor(_LUMA, device=values.device)  # [B]
    grey = luma * ((1 - contrast) * bright).to(values.device)
    return _mixed(values, matrix).add_(grey[:, None, None, None])


def _tint(saturation: Tensor, hue: Tensor) -> Tensor:
    """The matrix that scales colours' distance from grey and turns them about it: float64 [B, 3, 3], for rows of RGB."""
    angle = 2 * math.pi * hue.double()
    cos, sin = angle.cos() * saturation, angle.sin() * saturation
    turn = torch.zeros(len(hue), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, sin, -sin, cos
    to_yiq = torch.from_numpy(_YIQ.T.copy())
    return to_yiq @ turn @ torch.linalg.inv(to_yiq)


def _mixed(values: Tensor, matrix: Tensor) -> Tensor:
    """Each patch's channels, as rows, times its matrix: float32 [B, P, P, 3] by [B, 3, 3]."""
    flat = values.reshape(len(values), -1, 3)
    return torch.bmm(flat, matrix.float().to(values.device)).reshape(values.shape)


def _blurred(values: Tensor, draws: Tensor, spec: AugmentSpec) -> Tensor:
    count, side = values.shape[0], values.shape[1]
    radius = min(math.ceil(3 * spec.blur_px), side - 1)
    sigma = (draws[:, _SIGMA] * spec.blur_px).clamp(min=1e-3)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(values.device).repeat_interleave(3, dim=0)  # [3 B, K]
    planes = values.permute(0, 3, 1, 2).reshape(1, count * 3, side, side)
    planes = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=count * 3)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=count * 3)
    return planes.reshape(count, 3, side, side).permute(0, 2, 3, 1)
