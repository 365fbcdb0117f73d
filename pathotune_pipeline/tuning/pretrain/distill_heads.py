"""What stands between a student's tokens and what they are held against; all of it is thrown away in the end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightNormed(nn.Module):
    """A linear layer without bias whose rows have the length of a gain.

    Salimans and Kingma 2016, "Weight Normalization", arXiv 1602.07868.
    """

    def __init__(self, width: int, out: int, *, gain: bool) -> None:
        """Build it.

        Args:
            width: of what comes in.
            out: of what goes out.
            gain: learn each row's length, from 1 on; else all stay 1.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, width))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.gain = nn.Parameter(torch.ones(out)) if gain else None

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., width] -> [..., out]."""
        rows = F.normalize(self.weight, dim=1)
        return F.linear(inputs, rows if self.gain is None else rows * self.gain[:, None])


class TeacherHead(nn.Module):
    """A student's token as a teacher would say it: linear, onto the unit sphere, weight-normed linear (GPFM)."""

    def __init__(self, dim: int, teacher_dim: int, bottleneck: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(dim, bottleneck)
        self.widen = WeightNormed(bottleneck, teacher_dim, gain=True)
        nn.init.trunc_normal_(self.narrow.weight, std=0.02)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D of the teacher]."""
        return self.widen(F.normalize(self.narrow(tokens), dim=-1))


class PrototypeHead(nn.Module):
    """Logits of prototypes: three linear layers, onto the unit sphere, cosines with the prototypes (DINO)."""

    def __init__(self, dim: int, *, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        widths = ((dim, hidden), (hidden, hidden), (hidden, bottleneck))
        first, second, third = (nn.Linear(*width) for width in widths)
        for layer in (first, second, third):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(first, nn.GELU(), second, nn.GELU(), third)
        self.prototypes = WeightNormed(bottleneck, prototypes, gain=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., K]."""
        return self.prototypes(F.normalize(self.layers(tokens), dim=-1))
