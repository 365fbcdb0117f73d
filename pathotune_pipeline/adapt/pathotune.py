"""PathoTune: visual prompts of the task in every block, its text as tokens, and tokens made from each image.

A reconstruction. The paper (Lu et al., MICCAI 2024, arXiv 2403.16497) names the three kinds of prompts and what they
are for; its code is not public, and the text encoder, the template, the numbers of tokens, the refine module and the
blocks that take them are choices made here, each a setting. No result of the paper is claimed for it.
"""

from __future__ import annotations

import torch
from torch import nn

from pathotune_pipeline.adapt.backbone import Backbone
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.adapt.vpt import prompt_bound
from pathotune_pipeline.errors import SpecError

REFINE_WIDTHS = (32, 64, 128, 256)
"""Channels of the refine module at strides 4, 8, 16 and 32."""


class TextPrompts(nn.Module):
    """Task-specific textual prompts: a frozen embedding of the task's text, made into tokens.

    token_j = LayerNorm(W e_j + b + s_j), where e_j is the mean of the j-th part of the text's embedded tokens, and s_j
    is learned: it keeps the tokens apart where the encoder gives one vector for the whole text.

    Attributes:
        embeddings: float32 [K, n_text, d_t], the texts of K tasks; not trained.
        projection: Linear d_t -> D.
        slots: float32 [n_text, D].
    """

    embeddings: torch.Tensor

    def __init__(self, spec: AdapterSpec, backbone: Backbone, texts: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("embeddings", pool_texts(texts, spec.n_text))
        self.projection = nn.Linear(texts.shape[-1], backbone.dim)
        self.slots = fresh_slots(spec.n_text, backbone)
        self.norm = nn.LayerNorm(backbone.dim)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Numbers of texts, int64 [B] or [1] -> tokens, as many times [n_text, D]."""
        embedded = self.embeddings[index].to(self.slots.dtype)
        return self.norm(self.projection(embedded) + self.slots)


class InstancePrompts(nn.Module):
    """Instance-specific visual prompts, by a small CNN, the Visual Refine Module.

    token_j = s_j + gate LayerNorm(c_j), where c_j is cell j of the CNN's map. The gate is 0 at the start, so that the
    tokens are the same for every image. The learned s_j, not part of the paper, keeps the tokens from being zero
    vectors then: at zero a block's LayerNorm is so steep that the first step would open the gate wide.
    Each image is normalised by itself, so that its tokens do not depend on the batch.

    Attributes:
        slots: float32 [n_instance, D].
        gate: float32 scalar.
    """

    def __init__(self, spec: AdapterSpec, backbone: Backbone) -> None:
        super().__init__()
        stem, *widths = REFINE_WIDTHS
        layers: list[nn.Module] = [nn.Conv2d(3, stem, 4, stride=4), nn.GELU()]
        before = stem
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(1, width), nn.GELU()]
            before = width
        layers += [nn.AdaptiveAvgPool2d(cells(spec.n_instance)), nn.Conv2d(before, backbone.dim, 1)]
        self.refine = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(backbone.dim)
        self.slots = fresh_slots(spec.n_instance, backbone)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, P, P] -> tokens [B, n_instance, D]."""
        found = self.refine(pixels.to(self.slots.dtype)).flatten(2).transpose(1, 2)
        return self.slots + self.gate * self.norm(found)


def fresh_slots(count: int, backbone: Backbone) -> nn.Parameter:
    """Learned offsets of tokens, [count, D], drawn as visual prompts are."""
    bound = prompt_bound(backbone.patch_px, backbone.dim)
    return nn.Parameter(torch.empty(count, backbone.dim).uniform_(-bound, bound))


def cells(count: int) -> tuple[int, int]:
    """The grid of so many cells that is nearest to a square: (rows, columns)."""
    rows = next(rows for rows in range(int(count**0.5), 0, -1) if count % rows == 0)
    return rows, count // rows


def pool_texts(texts: torch.Tensor, count: int) -> torch.Tensor:
    """Embedded tokens to a fixed number of them: the means of equal parts of each text, in order.

    Args:
        texts: float [K, T, d_t], or [K, d_t]; rows of zeros are padding.
        count: how many tokens each text gets.

    Returns:
        float32 [K, count, d_t].

    Raises:
        SpecError: another shape, or a text without tokens.
    """
    if texts.ndim == 2:
        texts = texts[:, None]
    if texts.ndim != 3 or not texts.numel():
        raise SpecError(f"pathotune: texts must be embedded as [K, T, d_t]; found {tuple(texts.shape)}.")
    parts = []
    for number, text in enumerate(texts.detach().float()):
        tokens = text[(text != 0).any(-1)]
        if not len(tokens):
            raise SpecError(f"pathotune: text {number} has no embedded token. Give a text with words in it.")
        parts.append(nn.functional.adaptive_avg_pool1d(tokens.T, count).T)
    return torch.stack(parts)
