"""TransMIL (Shao et al. 2021, "TransMIL: Transformer based Correlated Multiple Instance Learning")."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.heads.blocks import embed
from pathotune_pipeline.heads.head import HeadOutput, HeadSpec, MILHead, detached
from pathotune_pipeline.heads.nystrom import NystromAttention
from pathotune_pipeline.heads.streaming import CHUNK_ROWS, TileChunks
from pathotune_pipeline.spec import setting

KERNELS = (7, 5, 3)
"""Widths of the position encoding's convolutions."""
CHANNELS = 32
"""Channels that the position encoding of a long bag takes at a time."""


class TransMILSpec(HeadSpec):
    """Settings of TransMIL; the defaults are the published ones."""

    dim: int = setting(512, "Width of the tokens; a multiple of heads.", ge=1)
    heads: int = setting(8, "Attention heads.", ge=1)
    landmarks: int = setting(
        256, "Landmarks of the attention. 64 is about ten times faster for bags of a few hundred tiles.", ge=1
    )
    pinv_iterations: int = setting(6, "Steps of the pseudo-inverse.", ge=1)
    dropout: float = setting(0.1, "Dropout on the attention's output.", ge=0, lt=1)


class TransMIL(MILHead):
    """Embed, square, class token, attention, PPEG, attention, norm, classify the class token.

    The bag is squared by repeating its first instances, so its tiles' order matters: keep raster order. Layers have
    no feed-forward part. Departures: see `NystromAttention`; each bag of a batch goes through alone, so batches
    change nothing; the class token's attention is computed as one row, never as an N x N matrix.

    Attention is the second layer's, from the class token to the N tiles, mean over heads; the weights of padding,
    class token and repeated tiles are left out, so it need not sum to 1, and it may be negative.
    """

    Settings: ClassVar[type[HeadSpec]] = TransMILSpec
    settings: TransMILSpec
    applies_scale: ClassVar[bool] = True
    # Published: Lookahead over RAdam, 2e-4, decoupled decay 1e-5 but for 1-d parameters, accumulation 2, patience 10,
    # up to 200 epochs in fp16. Fewer epochs here, in fp32.
    preset: ClassVar[TrainSpec] = TrainSpec(
        optimizer="radam",
        lookahead=True,
        lr=2e-4,
        weight_decay=1e-5,
        decay_vectors=False,
        accumulate=2,
        epochs=30,
        patience=10,
    )

    def __init__(self, in_dim: int, n_classes: int, settings: TransMILSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        dim = settings.dim
        if dim % settings.heads:
            raise SpecError(f"transmil: dim {dim} is no multiple of heads {settings.heads}. Change one of them.")
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU())
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.layer1 = AttentionLayer(settings)
        self.position = PPEG(dim)
        self.layer2 = AttentionLayer(settings)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, n_classes)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C], and attention."""
        self.check(batch)
        embedded = embed(self.embed, batch)  # [sum of N, dim]
        tokens, rows = zip(*(self._bag(each) for each in batch.split(embedded)), strict=True)
        logits = self.classifier(self.norm(torch.cat(tokens)))  # [B, C]
        return HeadOutput(logits, detached(list(rows)))

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag; of all tiles there are a few arrays as wide as a token, and landmarks' weights in chunks."""
        n = len(tiles)
        x = torch.empty(1, 1 + _side(n) ** 2, self.settings.dim, dtype=tiles.dtype, device=tiles.device)
        x[:, 0], start = self.cls_token[0], 1
        for chunk in tiles:
            made = embed(self.embed, chunk)
            x[0, start : start + len(made)] = made
            start += len(made)
        x[:, start:] = x[:, 1 : 1 + x.shape[1] - start]
        token, weights = self._tokens(x, n)
        return HeadOutput(self.classifier(self.norm(token)), detached([weights]))

    def _bag(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(x)
        x = torch.cat([x, x[: _side(n) ** 2 - n]])  # [side^2, dim]
        return self._tokens(torch.cat([self.cls_token.to(x.dtype), x[None]], dim=1), n)

    def _tokens(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Class token and squared tiles, [1, 1 + side^2, dim], to the class token [1, dim] and weights [N]."""
        side = _side(n)
        x, _ = self.layer1(x)
        x = self.position(x, side)
        x, weights = self.layer2(x, first_only=True)  # [1, 1, dim], [1, heads, 1 + side^2]
        return x[:, 0], weights[0, :, 1 : 1 + n].mean(dim=0)  # [1, dim], [N]


def _side(n: int) -> int:
    """The root of n, rounded up."""
    return math.isqrt(n - 1) + 1


class AttentionLayer(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, settings: TransMILSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(settings.dim)
        self.attention = NystromAttention(
            settings.dim,
            heads=settings.heads,
            dim_head=settings.dim // settings.heads,
            landmarks=settings.landmarks,
            pinv_iterations=settings.pinv_iterations,
            dropout=settings.dropout,
        )

    def forward(self, x: Tensor, *, first_only: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens [B, n, dim] (or the first, [B, 1, dim]), and the first token's attention [B, heads, n]."""
        mixed, weights = self.attention(self.norm(x), first_only=first_only)
        return x[:, : mixed.shape[1]] + mixed, weights


class PPEG(nn.Module):
    """Position encoding: the square of tokens plus its depthwise 7, 5 and 3 convolutions; the class token passes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim) for kernel in KERNELS)

    def forward(self, x: Tensor, side: int) -> Tensor:
        """Tokens [B, 1 + side^2, dim] in and out."""
        if not torch.is_grad_enabled() and x.shape[1] > CHUNK_ROWS:
            return self._by_channels(x, side)
        cls, square = x[:, :1], x[:, 1:].mT.unflatten(2, (side, side))  # [B, 1, dim], [B, dim, side, side]
        placed = square + sum(conv(square) for conv in self.convs)
        return torch.cat([cls, placed.flatten(2).mT], dim=1)

    def _by_channels(self, x: Tensor, side: int) -> Tensor:
        """The same, a few channels at a time: a depthwise convolution knows no others."""
        out = x.clone()
        for start in range(0, x.shape[2], CHANNELS):
            part = slice(start, start + CHANNELS)
            square = x[:, 1:, part].mT.unflatten(2, (side, side)).contiguous()  # [B, c, side, side]
            for kernel, conv in zip(KERNELS, self.convs, strict=True):
                weight, bias = (each[part] for each in conv.parameters())
                made = F.conv2d(square, weight, bias, padding=kernel // 2, groups=len(weight))
                out[:, 1:, part] += made.flatten(2).mT
        return out
