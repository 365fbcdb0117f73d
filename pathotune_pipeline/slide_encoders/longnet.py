"""LongNet over a slide's tiles, in the layout of Prov-GigaPath's slide encoder (Xu et al. 2024, Nature): own code.

Tile features through a Linear layer, plus sines and cosines of each tile's cell; a class token in front; pre-norm Transformer
layers with dilated attention and a norm inside each sub-layer (sub-LN); two norms; the class token or the mean of tiles.
Result and gradient depend on the tiles' order, which cuts the segments: take them in raster order, as stores hold them.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from pathotune_pipeline.slide_encoders.dilated import dilated_attention
from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens, check_tiles, run_layers
from pathotune_pipeline.slide_encoders.positions import grid_cells, sincos_2d
from pathotune_pipeline.spec import Spec, setting


class LongNetSpec(Spec):
    """Settings of LongNet; the defaults are Prov-GigaPath's, but for padding."""

    dim: int = setting(768, "Width of the tokens; a multiple of heads and of 4.", ge=4)
    layers: int = setting(12, "Layers.", ge=1)
    heads: int = setting(16, "Attention heads.", ge=1)
    mlp_ratio: float = setting(4.0, "Width of the feed-forward part over that of the tokens.", gt=0)
    segments: tuple[int, ...] = setting((1024, 5792, 32768, 185363, 1048576), "Tokens of a segment in each branch.")
    dilations: tuple[int, ...] = setting(
        (1, 2, 4, 8, 16), "Distance between the tokens that a head takes, in each branch."
    )
    attends_padding: bool = setting(
        False, "Let zeros behind the last tile take part in attention, as the published code and so its weights do."
    )
    pooling: Literal["cls", "mean"] = setting("cls", "What is read out: the class token, or the mean of the tiles.")
    dropout: float = setting(0.0, "Dropout on tokens and behind each sub-layer, in training.", ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of heads, {self.heads}, and of 4")
        if len(self.segments) != len(self.dilations) or min((*self.segments, *self.dilations), default=0) < 1:
            raise ValueError(
                f"segments {self.segments} and dilations {self.dilations} must be as many, each at least 1"
            )
        if 1 not in self.dilations:
            raise ValueError(f"dilations {self.dilations} must hold a 1, or some heads would not see some tiles")
        return self


class LongNet(StagedSlideEncoder):
    """LongNet over tiles.

    Args:
        in_dim: length of a tile's feature vector.
        settings: of the network.
        name: as the user asked for it.
    """

    prefix = 1

    def __init__(self, in_dim: int, settings: LongNetSpec, *, name: str = "longnet") -> None:
        super().__init__()
        self.name, self.in_dim, self.dim, self.n_layers = name, in_dim, settings.dim, settings.layers
        self.settings = settings
        self.embed_tile = nn.Linear(in_dim, settings.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, settings.dim))
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(LongNetLayer(settings) for _ in range(settings.layers))
        self.layer_norm = nn.LayerNorm(settings.dim)
        self.norm = nn.LayerNorm(settings.dim, eps=1e-6)
        nn.init.normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def embed(self, features: Tensor, coords: Tensor, *, stride_px: float) -> Tokens:
        check_tiles(self, features, coords, stride_px)
        x = self.embed_tile(features)
        x = x + sincos_2d(grid_cells(coords, stride_px), self.dim, dtype=x.dtype).to(x.device)
        return Tokens(self.dropout(torch.cat([self.cls_token, x[None]], dim=1)))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        return tokens.with_x(run_layers(self.layers[start:stop], tokens.x, tokens.context))

    def read_out(self, tokens: Tokens) -> Tensor:
        """The class token through both norms; or the mean of tiles through the first, then the second, as published."""
        if self.settings.pooling == "cls":
            return self.norm(self.layer_norm(tokens.x[0, 0]))
        return self.norm(self.layer_norm(tokens.x[0, 1:]).mean(dim=0))


class LongNetLayer(nn.Module):
    """x + out(norm(attention(norm(x)))), then x + fc2(norm(gelu(fc1(norm(x)))))."""

    def __init__(self, settings: LongNetSpec) -> None:
        super().__init__()
        dim, width = settings.dim, int(settings.dim * settings.mlp_ratio)
        self.heads, self.attends_padding = settings.heads, settings.attends_padding
        self.branches = tuple(zip(settings.segments, settings.dilations, strict=True))
        self.attention_norm = nn.LayerNorm(dim)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.inner_norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, width), nn.Linear(width, dim)
        self.inner_ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, context: object = None) -> Tensor:
        """Tokens [1, n, D] in and out."""
        x = x + self.dropout(self._mix(self.attention_norm(x[0])))[None]
        return x + self.dropout(self.fc2(self.inner_ffn_norm(F.gelu(self.fc1(self.ffn_norm(x))))))

    def _mix(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(1, (self.heads, -1)) for each in (self.q_proj, self.k_proj, self.v_proj))
        mixed = dilated_attention(q, k, v, self.branches, attends_padding=self.attends_padding)
        return self.out_proj(self.inner_norm(mixed.flatten(1)))
