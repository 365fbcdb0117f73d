"""Visual prompt tuning: learned tokens for a frozen transformer.

Source: Jia et al., Visual Prompt Tuning, ECCV 2022 (arXiv 2203.12119).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from pathotune_pipeline.adapt.backbone import Backbone
from pathotune_pipeline.adapt.spec import AdapterSpec


class VisualPrompts(nn.Module):
    """Learned tokens: one set for the first block, or one for each block.

    Attributes:
        prompts: float32 [sets, p, d_p], uniform within +-sqrt(6 / (3 P^2 + d_p)), or zeros.
        projection: Linear d_p -> D that all sets share, or Identity where d_p is D.
    """

    def __init__(self, spec: AdapterSpec, backbone: Backbone, *, sets: int) -> None:
        super().__init__()
        width = spec.prompt_projection or backbone.dim
        self.prompts = nn.Parameter(torch.zeros(sets, spec.n_prompts, width))
        if spec.prompt_init == "uniform":
            bound = prompt_bound(backbone.patch_px, width)
            nn.init.uniform_(self.prompts, -bound, bound)
        self.projection: nn.Module = nn.Identity()
        if spec.prompt_projection is not None:
            linear = nn.Linear(width, backbone.dim)
            nn.init.kaiming_normal_(linear.weight, mode="fan_out")
            self.projection = linear
        self.dropout = spec.prompt_dropout

    def forward(self, number: int, batch: int) -> torch.Tensor:
        """The tokens of a set, for each image: [B, p, D]."""
        tokens = self.projection(self.prompts[number]).expand(batch, -1, -1)
        return F.dropout(tokens, self.dropout, self.training)

    def first(self, batch: int) -> torch.Tensor:
        """The tokens of the first set: [B, p, D]."""
        return self(0, batch)


def prompt_bound(patch_px: int, width: int) -> float:
    """The largest entry of a fresh prompt: Xavier's bound for a patch embedding.

    Args:
        patch_px: side P of a patch of RGB.
        width: d_p of a prompt.
    """
    return math.sqrt(6.0 / (3 * patch_px**2 + width))
