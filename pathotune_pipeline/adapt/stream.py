"""Tokens that enter and leave a transformer's sequence, by hooks on the blocks of a network that stays as it is.

    [prefix | patches | carried | renewed | of this block]

Carried tokens enter before the first block and flow on. Renewed ones enter each block as they were first. Those of a
block are its own, and are dropped behind it. The last block's outputs have none of them. Tokens without positions may
stand anywhere: attention does not look at the order. Where the trunk rotates what lies behind its prefix, they stand
between prefix and patches.

Nothing about one image is kept in the network: tokens made for a batch travel within its sequence, or on the way from
`run_passing` to the first hook in a variable of the calling thread. So threads may share a network, and a block that
gradient checkpointing runs again sees what it saw.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from pathotune_pipeline.adapt.backbone import Backbone


class _Passing(threading.local):
    """Tokens on their way from an adapter to the first hook, [B, carried + renewed, D]; one variable a thread."""

    tokens: torch.Tensor | None = None


_PASSING = _Passing()


def run_passing(tokens: torch.Tensor | None, network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What a hooked network makes of pixels, with these tokens, [B, carried + renewed, D], handed to its first hook."""
    _PASSING.tokens = tokens
    try:
        found: torch.Tensor = network(pixels)
        return found
    finally:
        _PASSING.tokens = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tokens of each kind there are."""

    carried: int = 0
    renewed: int = 0
    own: int = 0

    @property
    def total(self) -> int:
        return self.carried + self.renewed + self.own


class TokenStream:
    """The hooks that add tokens to a trunk's sequence and take them away.

    Args:
        counts: tokens of each kind.
        at: the backbone's `extras_at`.
        own: (block's number, B) -> its own tokens, [B, own, D].
        entering: B -> tokens that enter first, before those of `run_passing`, [B, n, D].
    """

    def __init__(
        self,
        counts: Counts,
        at: int | None,
        *,
        own: Callable[[int, int], torch.Tensor] | None = None,
        entering: Callable[[int], torch.Tensor] | None = None,
    ) -> None:
        self.counts = counts
        self.at = at
        self.own = own
        self.entering = entering

    def hook(self, backbone: Backbone) -> None:
        """Register the hooks; where attention rotates behind its prefix, make the prefix longer."""
        if self.counts.total == 0:
            return
        trunk: Any = backbone.trunk
        if self.counts.carried or self.counts.renewed:
            trunk.norm_pre.register_forward_hook(self._enter)
        for number, block in enumerate(trunk.blocks):
            if self.own is not None:
                block.register_forward_pre_hook(partial(self._before, self.own, number))
            is_last = number == backbone.depth - 1
            if is_last or self.counts.own or self.counts.renewed:
                block.register_forward_hook(self._after_last if is_last else self._after)
        if self.at is not None:
            for module in trunk.blocks.modules():
                if hasattr(module, "num_prefix_tokens"):
                    module.num_prefix_tokens = int(module.num_prefix_tokens) + self.counts.total

    def _enter(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        rows = []
        if self.entering is not None:
            rows.append(self.entering(len(output)).to(output.dtype))
        elif _PASSING.tokens is None:
            raise RuntimeError(
                "the frozen part of an adapted network was called without it: call the AdaptedNetwork itself."
            )
        if _PASSING.tokens is not None:
            rows.append(_PASSING.tokens.to(output.dtype))
        return self._insert(output, rows, behind=0)

    def _before(
        self, own: Callable[[int, int], torch.Tensor], number: int, module: nn.Module, args: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        tokens = own(number, len(args[0])).to(args[0].dtype)
        return (self._insert(args[0], [tokens], behind=self.counts.total - self.counts.own), *args[1:])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if not self.counts.renewed:
            return self._keep(output, self.counts.carried)
        start = self._start(output) + self.counts.carried
        stop = start + self.counts.renewed
        rest = output[:, stop + self.counts.own :]
        return torch.cat([output[:, :start], args[0][:, start:stop], rest], 1)  # args hold what the block was given

    def _after_last(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return self._keep(output, 0)

    def _start(self, tokens: torch.Tensor, present: int | None = None) -> int:
        """The row of the first added token, when so many are there."""
        return self.at if self.at is not None else tokens.shape[1] - (self.counts.total if present is None else present)

    def _insert(self, tokens: torch.Tensor, rows: list[torch.Tensor], *, behind: int) -> torch.Tensor:
        place = self._start(tokens, behind) + behind
        if place == tokens.shape[1]:
            return torch.cat([tokens, *rows], 1)
        return torch.cat([tokens[:, :place], *rows, tokens[:, place:]], 1)

    def _keep(self, tokens: torch.Tensor, count: int) -> torch.Tensor:
        """Without all but the first `count` of the added tokens; at the sequence's end nothing is copied."""
        start = self._start(tokens)
        if self.at is None:
            return tokens[:, : start + count]
        return torch.cat([tokens[:, : start + count], tokens[:, start + self.counts.total :]], 1)
