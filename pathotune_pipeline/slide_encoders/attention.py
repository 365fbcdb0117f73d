"""Softmax attention in blocks of scores: memory linear in the number of tiles, forwards and backwards.

No matrix of scores outlives its block: of the softmax the logarithm of its denominator is kept, and the backward pass makes
each block again (Dao et al. 2022, "FlashAttention", algorithms 1 and 4). In plain torch, so that it runs wherever torch does,
gives that logarithm, and takes a bias that is computed block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_SCORES = 2**20
"""Scores of a block on a CPU, where 4 MB of float32 stay in the cache."""
BLOCK_SCORES_GPU = 2**26
"""Scores of a block on a GPU, where blocks only bound the memory."""
LEAST_ROWS = 64
"""Queries of a block, however many keys there are: fewer make slow products."""


@dataclass(frozen=True, slots=True)
class Distances:
    """A bias of -slope x distance between places on a plane, made for the queries at hand.

    Attributes:
        places: float [n, 2], of the tokens behind the prefix.
        slopes: float [H], of each head.
        prefix: tokens in front that are at no distance from any.
    """

    places: Tensor
    slopes: Tensor
    prefix: int = 0

    def rows(self, part: slice) -> Tensor:
        """Distances of those tokens to all, [rows, prefix + n]."""
        out = self.places.new_zeros(part.stop - part.start, self.prefix + len(self.places))
        first = max(part.start, self.prefix)
        if first < part.stop:
            here = self.places[first - self.prefix : part.stop - self.prefix]
            # By differences, not by products: equal places are at exactly no distance.
            exact = "donot_use_mm_for_euclid_dist"
            out[first - part.start :, self.prefix :] = torch.cdist(here, self.places, compute_mode=exact)
        return out


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, lengths: Tensor | None = None, distances: Distances | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q k' / sqrt(d) + bias) v, each group of rows for itself.

    Args:
        q: [G, n, d]; a group is one head of one segment.
        k: [G, m, d].
        v: [G, m, d].
        lengths: int64 [G], how many keys of each group count, at least 1; None where all do.
        distances: where heads have a bias by distance: G is then the number of heads.

    Returns:
        The weighted sums [G, n, d], and the logarithm of each softmax's denominator [G, n], at least float32 and
        without gradient.
    """
    out, lse = _Attend.apply(q, k, v, lengths, distances)
    return out, lse


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, distances: Distances | None
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(q.dtype, torch.float32)
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=wide, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            for groups, rows, scores in _blocks(q, k, lengths, distances):
                top = scores.amax(dim=-1, keepdim=True)
                total = scores.sub_(top).exp_().sum(dim=-1, keepdim=True)
                out[groups, rows] = (scores.to(v.dtype) @ v[groups]).div_(total)
                lse[groups, rows] = (top + total.log_())[..., 0]
        ctx.lengths, ctx.distances = lengths, distances
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # What a softmax takes from the gradient of each of its weights.
        level = (grad.to(lse.dtype) * out).sum(dim=-1, keepdim=True)
        scale = q.shape[-1] ** -0.5
        for groups, rows, scores in _blocks(q, k, ctx.lengths, ctx.distances):
            down = grad[groups, rows]
            weights = scores.sub_(lse[groups, rows][..., None]).exp_()
            by_v[groups].baddbmm_(weights.to(v.dtype).mT, down)
            inner = (down @ v[groups].mT).to(weights.dtype).sub_(level[groups, rows]).mul_(weights).to(q.dtype)
            by_q[groups, rows] = (inner @ k[groups]).mul_(scale)
            by_k[groups].baddbmm_(inner.mT, q[groups, rows], alpha=scale)
        return by_q, by_k, by_v, None, None


def _blocks(
    q: Tensor, k: Tensor, lengths: Tensor | None, distances: Distances | None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Groups, queries, and their scores [groups, rows, m], at least float32, to be written over."""
    count, queries, keys = len(q), q.shape[1], k.shape[1]
    size = BLOCK_SCORES if q.device.type == "cpu" else BLOCK_SCORES_GPU
    height = min(queries, max(LEAST_ROWS, size // keys))
    depth = max(1, size // (height * keys))
    wide = torch.promote_types(q.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5
    places = None if lengths is None else torch.arange(keys, device=q.device)
    for start in range(0, queries, height):
        rows = slice(start, min(start + height, queries))
        away = None if distances is None else distances.rows(rows).to(wide)
        for first in range(0, count, depth):
            groups = slice(first, min(first + depth, count))
            scores = (q[groups, rows] * scale @ k[groups].mT).to(wide)
            if away is not None and distances is not None:
                scores.addcmul_(away, distances.slopes[groups, None, None].to(wide), value=-1)
            if lengths is not None and places is not None:
                scores.masked_fill_(places >= lengths[groups, None, None], -torch.inf)
            yield groups, rows, scores
