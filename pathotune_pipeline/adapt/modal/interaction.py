"""Interaction blocks: modality tokens speak to the tiles' tokens through gates that begin at zero, and listen to them."""

from __future__ import annotations

import torch
from torch import nn

from pathotune_pipeline.adapt.modal.attention import NarrowAttention, NarrowMlp
from pathotune_pipeline.adapt.modal.spec import ModalSpec
from pathotune_pipeline.errors import SpecError

EXTRA_EXTRACTORS = 2
"""Extractors of the last block beside its own."""


class Injector(nn.Module):
    """x + gate * attention(x <- c). With the gate at zero, x comes out bit by bit.

    Attributes:
        gate: float32 [D], zero at first.
    """

    def __init__(self, spec: ModalSpec, dim: int) -> None:
        super().__init__()
        self.attention = NarrowAttention(dim, n_heads=spec.n_heads, reduction=spec.reduction)
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, tiles: torch.Tensor, modal: torch.Tensor) -> torch.Tensor:
        """Tiles' tokens [1, N, D] and modality tokens [1, m, D] -> tiles' tokens."""
        return tiles + self.gate * self.attention(tiles, modal)


class Extractor(nn.Module):
    """c + attention(c <- x), and an MLP on top."""

    def __init__(self, spec: ModalSpec, dim: int) -> None:
        super().__init__()
        self.attention = NarrowAttention(dim, n_heads=spec.n_heads, reduction=spec.reduction)
        self.mlp = NarrowMlp(dim, reduction=spec.reduction, drop_path=spec.drop_path)

    def forward(self, modal: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        """Modality tokens [1, m, D] and tiles' tokens [1, N, D] -> modality tokens."""
        modal = modal + self.attention(modal, tiles)
        return modal + self.mlp(modal)


class InteractionBlock(nn.Module):
    """What stands around one share of the slide encoder's layers.

    Attributes:
        mix: attention among the modality tokens; none in the first block, whose tokens come straight from their networks.
        inject: before the layers.
        extract: after them; the last block has more of them.
    """

    def __init__(self, spec: ModalSpec, dim: int, *, number: int) -> None:
        super().__init__()
        first, last = number == 0, number == spec.n_blocks - 1
        self.mix = (
            None if first else NarrowAttention(dim, n_heads=spec.n_heads, reduction=spec.reduction, self_attention=True)
        )
        self.inject = Injector(spec, dim)
        self.extract = nn.ModuleList(Extractor(spec, dim) for _ in range(1 + EXTRA_EXTRACTORS * last))

    def mixed(self, modal: torch.Tensor) -> torch.Tensor:
        """Modality tokens [1, m, D] after they have looked at one another."""
        return modal if self.mix is None else modal + self.mix(modal)


def interaction_blocks(spec: ModalSpec, dim: int) -> nn.ModuleList:
    """The blocks of one adapter.

    Raises:
        SpecError: D / reduction / n_heads is no whole number.
    """
    if dim % spec.reduction or dim // spec.reduction % spec.n_heads:
        inner = dim // spec.reduction
        fitting = max(heads for heads in range(1, spec.n_heads + 1) if inner % heads == 0)
        raise SpecError(
            f"modal adapter: a width of {dim} cannot be shared by reduction {spec.reduction} and {spec.n_heads} heads. "
            "Choose them so that width / reduction / heads is a whole number"
            + (f": --n-heads {fitting} would do." if dim % spec.reduction == 0 else ".")
        )
    return nn.ModuleList(InteractionBlock(spec, dim, number=number) for number in range(spec.n_blocks))


def count_parameters(dim: int, n_blocks: int = 3, reduction: int = 4) -> int:
    """Numbers in the interaction blocks, from the formula alone: 8,169,792 for D = 768 and three blocks."""
    narrow = dim // reduction
    cross = 5 * dim + 4 * dim * narrow + 2 * narrow * narrow + 5 * narrow
    mlp = 3 * dim + 2 * dim * narrow + narrow
    injector, extractor, mix = cross + dim, cross + mlp, cross - 2 * dim
    return n_blocks * (injector + extractor) + (n_blocks - 1) * mix + EXTRA_EXTRACTORS * extractor
