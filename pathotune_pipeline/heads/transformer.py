"""A small Transformer over all tiles of a slide: Wagner et al. 2023 (Cancer Cell), as in STAMP's second version."""

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
from pathotune_pipeline.heads.streaming import CHUNK_ROWS, TileChunks
from pathotune_pipeline.spec import setting

QUERY_ROWS = 1024
"""Tokens of a long bag that look at all others at a time."""


class TransformerSpec(HeadSpec):
    """Settings of the small Transformer; the defaults are STAMP's."""

    dim: int = setting(512, "Width of the tokens; a multiple of heads.", ge=1)
    heads: int = setting(8, "Attention heads.", ge=1)
    layers: int = setting(2, "Transformer layers.", ge=1)
    feedforward: int = setting(512, "Width of the feed-forward part.", ge=1)
    dropout: float = setting(
        0.25, "Dropout on embedded tiles, on attention's output and in the feed-forward part.", ge=0, lt=1
    )


class Transformer(MILHead):
    """Embed, class token, pre-norm Transformer layers, norm, classify the class token.

    Exact attention among all tiles, without positions, so the order of tiles does not matter. Time grows with the
    square of the number of tiles, memory does not; the last layer computes the class token alone. For bags of many
    ten thousand tiles take TransMIL or an attention head.

    Departures from STAMP: each bag goes through alone, so nothing is padded and nothing masked (there, padding takes
    part in training); all tiles instead of 512 random ones; dropout is one setting (there, the feed-forward part
    always has 0.5); no attention dropout.

    Attention is the last layer's, from the class token to the tiles, each head's brought to the sum 1, mean over heads.
    """

    Settings: ClassVar[type[HeadSpec]] = TransformerSpec
    settings: TransformerSpec
    applies_scale: ClassVar[bool] = True
    # Published: AdamW with a one-cycle rate of at most 1e-4, 32 epochs, patience 16, batch 64.
    preset: ClassVar[TrainSpec] = TrainSpec(
        optimizer="adamw", lr=1e-4, weight_decay=1e-2, epochs=32, patience=16, schedule="cosine", warmup_epochs=3
    )
    preset_batch: ClassVar[int] = 8

    def __init__(self, in_dim: int, n_classes: int, settings: TransformerSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        dim = settings.dim
        if dim % settings.heads:
            raise SpecError(f"transformer: dim {dim} is no multiple of heads {settings.heads}. Change one of them.")
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.GELU(), nn.Dropout(settings.dropout))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers - 1))
        self.last = Layer(settings)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, n_classes)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C], and attention."""
        self.check(batch)
        tokens, rows = zip(*(self._bag(each) for each in batch.split(embed(self.embed, batch))), strict=True)
        return HeadOutput(self.classifier(self.norm(torch.cat(tokens))), detached(list(rows)))

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag; of all tiles there are a few arrays as wide as a token."""
        x = torch.empty(len(tiles), self.settings.dim, dtype=tiles.dtype, device=tiles.device)
        start = 0
        for chunk in tiles:
            made = embed(self.embed, chunk)
            x[start : start + len(made)] = made
            start += len(made)
        token, weights = self._bag(x)
        return HeadOutput(self.classifier(self.norm(token)), detached([weights]))

    def _bag(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.cls_token.to(x.dtype), x[None]], dim=1)  # [1, 1 + N, dim]
        for layer in self.layers:
            x = layer(x)
        token, weights = self.last.first_only(x)
        return token[:, 0], weights[0].mean(dim=0)  # [1, dim], [N]


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, settings: TransformerSpec) -> None:
        super().__init__()
        dim, self.heads = settings.dim, settings.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, settings.feedforward),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.feedforward, dim),
            nn.Dropout(settings.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, n, dim] in and out."""
        if not torch.is_grad_enabled() and x.shape[1] > CHUNK_ROWS:
            return self._in_chunks(x)
        q, k, v = self.to_qkv(self.norm1(x)).chunk(3, dim=2)
        return self._mix(x, self._split(q), self._split(k), self._split(v))

    def first_only(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first token alone, [B, 1, dim], and how it looks at the others, [B, heads, n - 1], of the sum 1."""
        q, k, v = self._queries(x[:, :1]), *self._keys_and_values(x)
        with torch.no_grad():
            scores = (q @ k[:, :, 1:].mT).squeeze(2) / math.sqrt(q.shape[-1])
            weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
        return self._mix(x[:, :1], q, k, v), weights

    def _in_chunks(self, x: Tensor) -> Tensor:
        """What `forward` gives, some tokens after others."""
        k, v = self._keys_and_values(x)
        out = torch.empty_like(x)
        for start in range(0, x.shape[1], QUERY_ROWS):
            part = slice(start, start + QUERY_ROWS)
            out[:, part] = self._mix(x[:, part], self._queries(x[:, part]), k, v)
        return out

    def _queries(self, x: Tensor) -> Tensor:
        dim = x.shape[2]
        return self._split(F.linear(self.norm1(x), self.to_qkv.weight[:dim], self.to_qkv.bias[:dim]))

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dim = x.shape[2]
        k, v = F.linear(self.norm1(x), self.to_qkv.weight[dim:], self.to_qkv.bias[dim:]).chunk(2, dim=2)
        return self._split(k), self._split(v)

    def _mix(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, n, dim]
        x = x + self.dropout(self.to_out(mixed))
        return x + self.feedforward(self.norm2(x))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, tokens, dim / heads]
