"""A Vision Transformer whose patches are a slide's tiles, with distances as attention bias (2-D ALiBi): TITAN's layout, own code.

Tile features through Linear and GELU; a class token in front; pre-norm Transformer layers, where the score of two tiles falls with
the Euclidean distance of their cells, by a slope of each head's own, and the class token is at no distance from any; a norm; one
learnt query that attends to all tokens; a projection. The order of tiles does not matter, and bags larger than those of the
training are extrapolated to (Ding et al. 2024, TITAN; Press et al. 2022, ALiBi).

Attention is exact and quadratic in time, and linear in memory (`attention.py`).
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from pathotune_pipeline.slide_encoders.attention import Distances, attend
from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens, check_tiles, run_layers
from pathotune_pipeline.slide_encoders.positions import alibi_slopes, grid_cells
from pathotune_pipeline.spec import Spec, setting

_EPS = 1e-6


class AlibiViTSpec(Spec):
    """Settings of the ViT with ALiBi; the defaults are TITAN's."""

    dim: int = setting(768, "Width of the tokens; a multiple of heads and of pool_heads.", ge=1)
    layers: int = setting(6, "Layers.", ge=1)
    heads: int = setting(12, "Attention heads.", ge=1)
    mlp_ratio: float = setting(4.0, "Width of the feed-forward part over that of the tokens.", gt=0)
    pool_heads: int = setting(8, "Heads of the query that pools.", ge=1)
    dropout: float = setting(0.0, "Dropout behind each sub-layer, in training.", ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dim % self.heads or self.dim % self.pool_heads:
            raise ValueError(
                f"dim {self.dim} must be a multiple of heads, {self.heads}, and of pool_heads, {self.pool_heads}"
            )
        return self


class AlibiViT(StagedSlideEncoder):
    """ViT over tiles with 2-D ALiBi.

    Args:
        in_dim: length of a tile's feature vector.
        settings: of the network.
        name: as the user asked for it.
    """

    prefix = 1

    def __init__(self, in_dim: int, settings: AlibiViTSpec, *, name: str = "alibi-vit") -> None:
        super().__init__()
        self.name, self.in_dim, self.dim, self.n_layers = name, in_dim, settings.dim, settings.layers
        self.settings = settings
        self.embed_tile = nn.Sequential(nn.Linear(in_dim, settings.dim), nn.GELU())
        self.cls_token = nn.Parameter(torch.empty(1, 1, settings.dim))
        self.layers = nn.ModuleList(AlibiLayer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.dim, eps=_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls_token, std=1e-6)
        self.pool = QueryPool(settings.dim, settings.pool_heads)
        self.proj = nn.Parameter(torch.randn(settings.dim, settings.dim) * settings.dim**-0.5)

    def embed(self, features: Tensor, coords: Tensor, *, stride_px: float) -> Tokens:
        """Tokens; their context holds the tiles' places, of which each layer makes its bias."""
        check_tiles(self, features, coords, stride_px)
        x = self.embed_tile(features)
        cells = grid_cells(coords, stride_px)
        cells = cells - cells.amin(dim=0)  # small numbers keep whole in float32
        slopes = torch.tensor(alibi_slopes(self.settings.heads), dtype=torch.float32, device=x.device)
        return Tokens(
            torch.cat([self.cls_token, x[None]], dim=1), Distances(cells.float().to(x.device), slopes, self.prefix)
        )

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        return tokens.with_x(run_layers(self.layers[start:stop], tokens.x, tokens.context))

    def read_out(self, tokens: Tokens) -> Tensor:
        return self.pool(self.norm(tokens.x)) @ self.proj


class AlibiLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, settings: AlibiViTSpec) -> None:
        super().__init__()
        dim, width, self.heads = settings.dim, int(settings.dim * settings.mlp_ratio), settings.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(dim, eps=_EPS)
        self.qkv, self.out_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, width), nn.Linear(width, dim)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, distances: Distances) -> Tensor:
        """Tokens [1, n, D] in and out."""
        q, k, v = self.qkv(self.norm1(x[0])).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # [heads, n, d] each
        mixed, _ = attend(q, k, v, distances=distances)
        x = x + self.dropout(self.out_proj(mixed.transpose(0, 1).flatten(1)))[None]
        return x + self.dropout(self.fc2(nn.functional.gelu(self.fc1(self.norm2(x)))))


class QueryPool(nn.Module):
    """One learnt query that attends to all tokens: [1, n, D] to [D]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.ln_k(x)
        pooled, _ = self.attn(self.ln_q(self.query)[None], keys, keys, need_weights=False)
        return pooled[0, 0]
