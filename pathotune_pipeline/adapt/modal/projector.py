"""The frozen random projector that brings a text encoder's vectors to the length of a case's embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class TextProjector(nn.Module):
    """Linear, LayerNorm, ReLU, Linear: drawn once from a seed, never trained, and kept in the file of the network.

    Without it the texts of a trained network would be other vectors: a seed alone gives the same numbers only as long as
    torch draws as it does now.

    Attributes:
        in_dim: length of a text's vector.
        out_dim: length of its projection.
        seed: of the draw.
    """

    def __init__(self, in_dim: int, out_dim: int, *, seed: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.seed = in_dim, out_dim, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(in_dim, out_dim), nn.LayerNorm(out_dim), nn.ReLU(), nn.Linear(out_dim, out_dim)
            )
        self.requires_grad_(False)

    def forward(self, texts: torch.Tensor) -> torch.Tensor:
        """Vectors of texts [..., in_dim] -> unit vectors [..., out_dim]."""
        return F.normalize(self.layers(texts), dim=-1)
