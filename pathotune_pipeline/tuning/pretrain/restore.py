"""Turning tokens back into pixels: patches, positions, the light decoder, and the loss where pixels were taken away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pathotune_pipeline.tuning.pretrain.spec import DecoderSpec

_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back of a batch.

    Attributes:
        patches: [B, N, K] as the decoder restored them.
        target: [B, N, K] what they ought to be.
        taken: float32 [B, N]; 1 where a patch was taken away, and is judged.
        given: [B, 3, P, P] in 0 to 1: what the network was given to see, to be looked at.
    """

    patches: Tensor
    target: Tensor
    taken: Tensor
    given: Tensor


def to_patches(pixels: Tensor, patch_px: int) -> Tensor:
    """[B, C, H, W] -> [B, N, patch_px * patch_px * C]; patches in raster order, within each (row, column, channel)."""
    rows = pixels.unflatten(2, (-1, patch_px)).unflatten(4, (-1, patch_px))  # [B, C, h, p, w, q]
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, patch_px: int, columns: int) -> Tensor:
    """[B, N, patch_px * patch_px * C] -> [B, C, H, W], the inverse of `to_patches`; `columns` patches a row."""
    split = patches.unflatten(2, (patch_px, patch_px, -1)).unflatten(1, (-1, columns))  # [B, h, w, p, q, C]
    return split.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def sincos_positions(columns: int, rows: int, dim: int) -> Tensor:
    """float32 [rows * columns, dim]: sines and cosines of the column, then of the row (Vaswani et al. 2017, in 2-D).

    Args:
        columns: patches in a row.
        rows: rows of patches.
        dim: a multiple of 4.
    """
    rates = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (x, y)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()


def patch_targets(pixels: Tensor, patch_px: int, *, normalise: bool) -> Tensor:
    """What the decoder is to say: [B, N, K] patches, each freed of its own mean and spread with `normalise`."""
    patches = to_patches(pixels, patch_px)
    if not normalise:
        return patches
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + _EPS).sqrt()


def restoration_loss(restored: Tensor, target: Tensor, taken: Tensor) -> Tensor:
    """Mean squared error of the patches that were taken away, each with the same weight.

    Args:
        restored: [B, N, K].
        target: [B, N, K].
        taken: [B, N]; 1 where a patch is judged, 0 where not. At least one patch is.
    """
    error = (restored.float() - target.float()).square().mean(-1)
    return (error * taken).sum() / taken.sum()


class PixelDecoder(nn.Module):
    """A light transformer from tokens to the pixels of every patch (He et al. 2022, arXiv 2111.06377, section 3)."""

    positions: Tensor

    def __init__(self, spec: DecoderSpec, *, token_dim: int, grid: tuple[int, int], patch_px: int) -> None:
        """Build it.

        Args:
            spec: width, blocks, heads.
            token_dim: width of the encoder's tokens.
            grid: (rows, columns) of patches.
            patch_px: side of a patch.
        """
        super().__init__()
        rows, columns = grid
        self.embed = nn.Linear(token_dim, spec.width)
        self.blocks = nn.ModuleList(Block(spec.width, spec.heads, qkv_bias=True) for _ in range(spec.blocks))
        self.norm = nn.LayerNorm(spec.width)
        self.restore = nn.Linear(spec.width, patch_px * patch_px * 3)
        self.register_buffer("positions", sincos_positions(columns, rows, spec.width)[None], persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, prefix: Tensor, patches: Tensor) -> Tensor:
        """Restored patches.

        Args:
            prefix: [B, F, width] embedded tokens without a place, such as the class token; F may be 0.
            patches: [B, N, width] embedded tokens of every patch, in raster order.

        Returns:
            [B, N, patch_px * patch_px * 3].
        """
        tokens = torch.cat([prefix, patches + self.positions], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.restore(self.norm(tokens[:, prefix.shape[1] :]))
