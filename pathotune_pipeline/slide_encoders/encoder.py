"""The one contract of a slide encoder: embed a slide's tiles, run its layers, read a vector out.

The three steps can be taken one by one, so that an adapter can stand between layers. Nothing here knows a store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pathotune_pipeline.slide_encoders.card import SlideEncoderCard

RECOMPUTE_FROM = 4096
"""Tokens from which layers are run again in the backward pass instead of being kept."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A slide between two layers.

    Attributes:
        x: float [1, prefix + N, D]: the encoder's own tokens first, then one token a tile, in the order of the tiles.
        context: what the layers need besides, made by `embed` and not to be changed: places, biases, a mask.
    """

    x: torch.Tensor
    context: Any = None

    def with_x(self, x: torch.Tensor) -> Self:
        """The same slide with other tokens of the same shape."""
        return replace(self, x=x)


class StagedSlideEncoder(nn.Module, ABC):
    """Tiles of one slide to one vector, in steps.

    Attributes:
        name: as the user asked for it.
        in_dim: length of a tile's feature vector.
        dim: length D of a token and of the slide's vector.
        n_layers: how many layers `run` can run; 0 where tiles do not see each other before they are pooled.
        prefix: how many tokens of its own (a class token) stand before the tiles'.
        card: what it is and which weights it was given; set by `create_slide_encoder`.
    """

    name: str
    in_dim: int
    dim: int
    n_layers: int
    prefix: int
    card: SlideEncoderCard

    @abstractmethod
    def embed(self, features: torch.Tensor, coords: torch.Tensor, *, stride_px: float) -> Tokens:
        """Tiles as tokens, before the first layer.

        Args:
            features: float [N, in_dim], one row a tile; N at least 1.
            coords: [N, 2], (x, y) of each tile's corner in level-0 pixels.
            stride_px: level-0 pixels from one tile to the next, not rounded where that is known.

        Raises:
            ValueError: a wrong shape, no tiles, or a stride that is not above 0.
        """

    @abstractmethod
    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Layers `start` to `stop - 1`, counted from 0."""

    @abstractmethod
    def read_out(self, tokens: Tokens) -> torch.Tensor:
        """The slide's vector [D] from the tokens after the last layer."""

    def forward(self, features: torch.Tensor, coords: torch.Tensor, stride_px: float) -> torch.Tensor:
        """The slide's vector: all steps in their order.

        Args:
            features: float [N, in_dim].
            coords: [N, 2], (x, y), level-0 pixels.
            stride_px: level-0 pixels from one tile to the next, not rounded where that is known.

        Returns:
            float [D]. In `eval` the same input gives the same bits.
        """
        return self.read_out(self.run(self.embed(features, coords, stride_px=stride_px), 0, self.n_layers))


def check_tiles(encoder: StagedSlideEncoder, features: torch.Tensor, coords: torch.Tensor, stride_px: float) -> None:
    """Refuse what no `embed` can take.

    Raises:
        ValueError: a wrong shape, no tiles, or a stride that is not above 0.
    """
    if features.ndim != 2 or features.shape[1] != encoder.in_dim or len(features) == 0:
        raise ValueError(
            f"{encoder.name}: features must be [N, {encoder.in_dim}] with N of at least 1; found {tuple(features.shape)}."
        )
    if coords.shape != (len(features), 2):
        raise ValueError(f"{encoder.name}: coords must be [{len(features)}, 2]; found {tuple(coords.shape)}.")
    if stride_px <= 0:
        raise ValueError(f"{encoder.name}: stride_px must be above 0; found {stride_px}.")


def run_layers(layers: Iterable[nn.Module], x: torch.Tensor, context: Any) -> torch.Tensor:
    """Layers one after the other, `layer(x, context)`.

    Where gradients are wanted and the slide is long, each layer keeps only what enters it and runs once more in the
    backward pass: the same bits, a third more time, and memory for one layer's inside instead of all.

    Args:
        layers: those to run.
        x: [1, n, D].
        context: handed to each.
    """
    long = torch.is_grad_enabled() and x.shape[1] >= RECOMPUTE_FROM
    for layer in layers:
        if long and (x.requires_grad or any(each.requires_grad for each in layer.parameters())):
            x = checkpoint(layer, x, context, use_reentrant=False)
        else:
            x = layer(x, context)
    return x
