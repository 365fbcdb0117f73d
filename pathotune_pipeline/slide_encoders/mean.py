"""The mean of a slide's tiles: no parameters, no layers; the baseline that every slide encoder has to beat."""

from __future__ import annotations

import torch

from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder, Tokens, check_tiles


class MeanSlideEncoder(StagedSlideEncoder):
    """The mean over tiles, summed in float64, so that it depends on the tiles' order by rounding alone."""

    n_layers = 0
    prefix = 0

    def __init__(self, in_dim: int, *, name: str = "mean") -> None:
        super().__init__()
        self.name = name
        self.in_dim = self.dim = in_dim

    def embed(self, features: torch.Tensor, coords: torch.Tensor, *, stride_px: float) -> Tokens:
        check_tiles(self, features, coords, stride_px)
        return Tokens(features.unsqueeze(0))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        return tokens

    def read_out(self, tokens: Tokens) -> torch.Tensor:
        return tokens.x[0].mean(0, dtype=torch.float64).to(tokens.x.dtype)
