"""Views: random crops, resized and turned over, of a whole batch at once on its device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.spec import ViewSpec


def random_views(images: Tensor, side: int, spec: ViewSpec, draws: Draws) -> Tensor:
    """A random view of each image.

    The crop's share of the area is uniform and the logarithm of its sides' ratio is too, as RandomResizedCrop has it;
    a crop that would reach beyond the image is made to fit. Resampling is bilinear on a finer raster that is then
    averaged where the image shrinks, so that nothing aliases.

    Args:
        images: uint8 [B, S, S, 3].
        side: of the views, in pixels.
        spec: how they are cropped, turned over and coloured.
        draws: random numbers for these rows.

    Returns:
        float32 [B, 3, side, side] in 0 to 1, on the images' device.
    """
    area, ratio, left, top, flip, colour = draws.uniform(12).split([1, 1, 1, 1, 3, 5], 1)
    share = spec.crop_min + (spec.crop_max - spec.crop_min) * area
    skew = torch.exp((ratio * 2 - 1) * 0.5 * math.log(spec.crop_ratio))
    width, height = (share.sqrt() * skew).clamp(max=1), (share.sqrt() / skew).clamp(max=1)  # of the image's side
    x, y = (1 - width) * (2 * left - 1), (1 - height) * (2 * top - 1)  # the crop's centre, from -1 to 1
    sign = torch.where(flip < 0.5, -1.0, 1.0) if spec.flips else torch.ones_like(flip)
    along_x, along_y = sign[:, :1] * width, sign[:, 1:2] * height
    none = torch.zeros_like(x)
    rows = torch.stack([torch.cat([along_x, none, x], 1), torch.cat([none, along_y, y], 1)], 1)
    turned = torch.stack([torch.cat([none, along_x, x], 1), torch.cat([along_y, none, y], 1)], 1)
    placed = torch.where((sign[:, 2:] < 0)[:, None], turned, rows) if spec.flips else rows
    views = _resample(images, placed.to(images.device), side)
    if spec.jitter:
        gain = 1 + spec.jitter * (colour[:, :1] * 2 - 1) + 0.5 * spec.jitter * (colour[:, 1:4] * 2 - 1)
        views = (views * gain.to(views.device)[:, :, None, None]).clamp(0, 1)
    return views


def whole_views(images: Tensor, side: int) -> Tensor:
    """The images themselves, resized: uint8 [B, S, S, 3] to float32 [B, 3, side, side] in 0 to 1."""
    place = torch.eye(2, 3).expand(len(images), 2, 3)
    return _resample(images, place.to(images.device), side)


def _resample(images: Tensor, placed: Tensor, side: int) -> Tensor:
    """Affine windows [B, 2, 3] of the images, in torch's coordinates from -1 to 1."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    finer = max(1, math.ceil(pixels.shape[-1] / side - 0.25))
    grid = F.affine_grid(placed, [len(images), 3, side * finer, side * finer], align_corners=False)
    views = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(views, finer) if finer > 1 else views
