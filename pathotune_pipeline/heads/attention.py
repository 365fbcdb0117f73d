"""Scores of instances and sums weighted by them: what CLAM and DTFD-MIL have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pathotune_pipeline.heads.blocks import attention_pool


class AttentionScores(nn.Module):
    """w(tanh(V h) * sigmoid(U h)), or w(tanh(V h)) without the gate (Ilse et al. 2018, equations 9 and 8).

    Args:
        dim: width of h.
        width: of the hidden layer.
        columns: scores for each instance.
        gated: whether there is a U.
        dropout: on both branches of the hidden layer.
    """

    def __init__(self, dim: int, width: int, *, columns: int = 1, gated: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.v = nn.Linear(dim, width)
        self.u = nn.Linear(dim, width) if gated else None
        self.w = nn.Linear(width, columns)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Instances [N, dim] to scores [N, columns], at least float32, before any softmax."""
        features = self.dropout(self.v(hidden).tanh())  # [N, width]
        if self.u is not None:
            features = features * self.dropout(self.u(hidden).sigmoid())
        scores = self.w(features)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def pool(self, hidden: Tensor, sizes: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Each bag's sums, weighted by a softmax over its scores, [B, columns, dim], and the weights [N_b, columns].

        Weights carry no gradient.
        """
        if not (self.training and self.dropout.p):
            return attention_pool(hidden, sizes, self.v, self.u, self.w)
        weights = [each.softmax(dim=0) for each in self(hidden).split(list(sizes))]
        sums = [weighted_sums(w, rows) for w, rows in zip(weights, hidden.split(list(sizes)), strict=True)]
        return torch.stack(sums), tuple(each.detach() for each in weights)


def weighted_sums(weights: Tensor, values: Tensor) -> Tensor:
    """For each column of `weights` [N, K] the sum of `values` [N, M] weighted by it, [K, M]."""
    return weights.to(values.dtype).mT @ values


def attention_to_predicted(weights: list[Tensor], logits: Tensor) -> list[Tensor]:
    """The attention of the class that each bag is taken for.

    Args:
        weights: for each bag [N_b, K]; K is 1, or one column a class.
        logits: [B, C].

    Returns:
        For each bag [N_b].
    """
    said = logits.argmax(dim=1).tolist()
    return [w[:, k if w.shape[1] > 1 else 0] for w, k in zip(weights, said, strict=True)]
