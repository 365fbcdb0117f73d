"""Triptychs: the image, what the network was given, and what came back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.tuning.pretrain.network import Trunk
from pathotune_pipeline.tuning.pretrain.restore import Restored, from_patches, to_patches

_GAP_PX = 4
_LEAST_PX = 128


def restored_pixels(views: Tensor, restored: Restored, trunk: Trunk, *, patch_norm: bool) -> Tensor:
    """The views with what came back where something was taken away: float32 [B, 3, P, P] in 0 to 1.

    With `patch_norm` each patch is given the mean and spread of the true one, which the network never said.
    """
    true = to_patches(trunk.normalised(views), trunk.patch_px)
    said = restored.patches.float()
    if patch_norm:
        said = said * true.var(-1, keepdim=True).sqrt() + true.mean(-1, keepdim=True)
    patches = torch.where(restored.taken[:, :, None] > 0, said, true)
    return trunk.shown(from_patches(patches, trunk.patch_px, trunk.grid[1]))


def write_triptychs(path: Path, views: Tensor, restored: Restored, trunk: Trunk, *, patch_norm: bool) -> None:
    """Write a PNG with a row for each view: the view, what was given, what came back.

    Args:
        path: of the PNG; its folder is made.
        views: float32 [B, 3, P, P] in 0 to 1.
        restored: of these views.
        trunk: the encoder.
        patch_norm: whether patches were restored freed of their mean and spread.
    """
    columns = (views, restored.given, restored_pixels(views, restored, trunk, patch_norm=patch_norm))
    scale = max(1, -(-_LEAST_PX // views.shape[-1]))
    side = views.shape[-1] * scale
    count = len(views)
    page = np.full((count * (side + _GAP_PX) - _GAP_PX, 3 * (side + _GAP_PX) - _GAP_PX, 3), 255, np.uint8)
    for column, pictures in enumerate(columns):
        pixels = (pictures.float().cpu().permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        for row, picture in enumerate(pixels):
            top, left = row * (side + _GAP_PX), column * (side + _GAP_PX)
            page[top : top + side, left : left + side] = picture.repeat(scale, 0).repeat(scale, 1)
    done, data = cv2.imencode(".png", page[..., ::-1])
    if done:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data.tobytes())
