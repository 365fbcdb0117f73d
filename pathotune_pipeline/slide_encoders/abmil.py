"""Gated attention pooling (Ilse et al. 2018) as a slide encoder, in FEATHER's layout (Shao et al. 2025): own code.

No layers: tiles do not see each other before they are pooled, and their places do not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens, check_tiles
from pathotune_pipeline.spec import Spec, setting


class GatedPoolSpec(Spec):
    """Settings of gated attention pooling; the defaults are FEATHER's."""

    dim: int = setting(512, "Width of a tile's token.", ge=1)
    attention_dim: int = setting(384, "Width of the attention's hidden layer.", ge=1)
    dropout: float = setting(0.25, "Dropout in the attention's hidden layer, in training.", ge=0, lt=1)


class GatedPool(StagedSlideEncoder):
    """h = ReLU(Linear(x)); a = softmax over tiles of w(tanh(V h) * sigmoid(U h)); the slide's vector is the sum of a h.

    Args:
        in_dim: length of a tile's feature vector.
        settings: of the network.
        name: as the user asked for it.
    """

    n_layers = 0
    prefix = 0

    def __init__(self, in_dim: int, settings: GatedPoolSpec, *, name: str = "abmil") -> None:
        super().__init__()
        self.name, self.in_dim, self.dim = name, in_dim, settings.dim
        self.settings = settings
        self.embed_tile = nn.Sequential(nn.Linear(in_dim, settings.dim), nn.ReLU())
        self.v, self.u = (nn.Linear(settings.dim, settings.attention_dim) for _ in range(2))
        self.w = nn.Linear(settings.attention_dim, 1)
        self.dropout = nn.Dropout(settings.dropout)

    def embed(self, features: Tensor, coords: Tensor, *, stride_px: float) -> Tokens:
        check_tiles(self, features, coords, stride_px)
        return Tokens(self.embed_tile(features)[None])

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        return tokens

    def read_out(self, tokens: Tokens) -> Tensor:
        hidden = tokens.x[0]
        scores = self.w(self.dropout(self.v(hidden).tanh()) * self.dropout(self.u(hidden).sigmoid()))  # [N, 1]
        shares = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=0)
        return (shares.to(hidden.dtype).mT @ hidden)[0]
