"""The two heads of eva's protocol, small and without dropout.

Source: eva (kaiko-ai/eva, Apache-2.0), whose attention head pads bags and masks; here bags lie end to end.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.blocks import attention_pool

_WIDTH = 128
_HIDDEN = (128, 64)


class ClassHead(nn.Module):
    """Logits of classes, and their loss: of two classes one logit and binary cross-entropy, else cross-entropy."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.binary = classes == 2
        self.outputs = 1 if self.binary else classes

    def losses(self, batch: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Mean loss of a batch: what `forward` takes, and class indices [B]."""
        inputs, targets = batch
        logits = self(inputs)
        if self.binary:
            return {"class": F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype))}
        return {"class": F.cross_entropy(logits, targets)}

    @torch.no_grad()
    def probabilities(self, inputs: Any) -> Tensor:
        """Class probabilities, float64 [B, C]."""
        logits = self(inputs).double()
        if self.binary:
            return torch.cat([1 - logits.sigmoid(), logits.sigmoid()], dim=1)
        return logits.softmax(dim=1)


class LinearHead(ClassHead):
    """One Linear layer on the features of an image, float32 [B, D]."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(classes)
        self.linear = nn.Linear(dim, self.outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, outputs]."""
        logits: Tensor = self.linear(features)
        return logits


class AttentionHead(ClassHead):
    """Gated attention over the tiles of a slide: Linear without activation, attention, then an MLP with ReLU."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(classes)
        self.project = nn.Linear(dim, _WIDTH)
        self.v, self.u = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.w = nn.Linear(_WIDTH, 1)
        widths = (_WIDTH, *_HIDDEN)
        layers = [layer for wide, narrow in pairwise(widths) for layer in (nn.Linear(wide, narrow), nn.ReLU())]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], self.outputs))

    def forward(self, bags: BagBatch) -> Tensor:
        """Logits [B, outputs]."""
        logits, _ = self.read(bags)
        return logits

    def read(self, bags: BagBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits [B, outputs], and each bag's attention [N_b], which sums to 1."""
        pooled, weights = attention_pool(self.project(bags.scaled().features), bags.sizes, self.v, self.u, self.w)
        return self.mlp(pooled[:, 0]), tuple(each[:, 0] for each in weights)
