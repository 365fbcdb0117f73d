"""Attention at a narrow width between two sets of tokens, and what stands around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class NarrowAttention(nn.Module):
    """Multi-head attention from tokens of width D at width e = D / reduction; without a residual of its own.

    The query goes D -> e -> e, keys and values D -> e, and the answer e -> e -> D: as published, where the second of
    two linear maps in a row is the attention's own. Scores are never held: memory is linear in both sets.

    Parameters: 3 D + 2 e + D e + e (to e) + e^2 + 2 e D + 3 e + e^2 + e (attention) + e D, with `self_attention` 2 D less.
    """

    def __init__(self, dim: int, *, n_heads: int, reduction: int, self_attention: bool = False) -> None:
        super().__init__()
        narrow = dim // reduction
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(dim)
        self.norm_source = None if self_attention else nn.LayerNorm(dim)
        self.narrow = nn.Linear(dim, narrow)
        self.query = nn.Linear(narrow, narrow)
        self.key = nn.Linear(dim, narrow)
        self.value = nn.Linear(dim, narrow)
        self.merge = nn.Linear(narrow, narrow)
        self.widen = nn.Linear(narrow, dim)

    def forward(self, tokens: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        """What `tokens` [1, n, D] find in `source` [1, m, D], or in themselves: [1, n, D]."""
        asking = self.norm(tokens)
        asked = asking if self.norm_source is None else self.norm_source(tokens if source is None else source)
        found = F.scaled_dot_product_attention(
            self._heads(self.query(self.narrow(asking))), self._heads(self.key(asked)), self._heads(self.value(asked))
        )
        return self.widen(self.merge(found.transpose(1, 2).flatten(2)))

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class NarrowMlp(nn.Module):
    """LayerNorm, D -> e, ReLU, e -> D; left out for a whole case with chance `drop_path` while training."""

    def __init__(self, dim: int, *, reduction: int, drop_path: float) -> None:
        super().__init__()
        narrow = dim // reduction
        self.drop_path = drop_path
        self.layers = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, narrow), nn.ReLU(), nn.Linear(narrow, dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[1, n, D] -> what is added to it."""
        found = self.layers(tokens)
        if not self.training or not self.drop_path:
            return found
        # Drawn on the CPU: nothing waits for the device, and a resumed run draws the same.
        kept = float(torch.rand(()) >= self.drop_path)
        return found * (kept / (1 - self.drop_path))
