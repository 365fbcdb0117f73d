"""Dilated attention (Ding et al. 2023, "LongNet: Scaling Transformers to 1,000,000,000 Tokens").

A branch cuts the sequence into segments of w tokens, and of a segment each head takes every r-th token, from an offset that
differs among heads. Attention goes on among those alone, so that a branch costs N w / r² for each head. A token's result is the sum
over the branches that hold it, weighted by their softmax denominators; as in the published code these weights carry no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pathotune_pipeline.slide_encoders.attention import attend


@dataclass(frozen=True, slots=True)
class _Cut:
    """How one branch lays out N tokens of H heads.

    Attributes:
        tokens: N.
        heads: H.
        ratio: r, the distance between a head's tokens.
        length: w, or N where that is less.
        segments: n, how many segments there are.
        picks: tokens of a segment that one head takes, the last ones perhaps padding.
        block: heads that have the same offset; offsets go up with the heads' numbers.
    """

    tokens: int
    heads: int
    ratio: int
    length: int
    segments: int
    picks: int
    block: int

    @classmethod
    def of(cls, tokens: int, heads: int, segment: int, ratio: int) -> Self:
        length = min(segment, tokens)
        return cls(tokens, heads, ratio, length, -(-tokens // length), -(-length // ratio), -(-heads // ratio))

    def gather(self, x: Tensor) -> Tensor:
        """[N, H, d] to [n H, picks, d], zeros where there is no token."""
        x = F.pad(x, (0, 0, 0, 0, 0, self.segments * self.length - self.tokens))
        x = x.unflatten(0, (self.segments, self.length))  # [n, length, H, d]
        x = F.pad(x, (0, 0, 0, self.block * self.ratio - self.heads, 0, self.picks * self.ratio - self.length))
        x = x.unflatten(1, (self.picks, self.ratio)).unflatten(
            3, (self.ratio, self.block)
        )  # [n, picks, r, r, block, d]
        x = x.diagonal(dim1=2, dim2=3)  # [n, picks, block, d, r]
        return x.permute(0, 4, 2, 1, 3).flatten(1, 2)[:, : self.heads].flatten(0, 1)

    def scatter(self, made: Tensor, empty: float) -> Tensor:
        """[n H, picks, d] back to [N, H, d], `empty` where a head takes no token."""
        made = made.unflatten(0, (self.segments, self.heads))
        made = F.pad(made, (0, 0, 0, 0, 0, self.block * self.ratio - self.heads), value=empty)
        made = made.unflatten(1, (self.ratio, self.block)).permute(0, 3, 2, 4, 1)  # [n, picks, block, d, r]
        shape = (self.segments, self.picks, self.ratio, self.ratio, self.block, made.shape[3])
        whole = made.new_full(shape, empty)
        whole.diagonal(dim1=2, dim2=3).copy_(made)
        whole = whole.flatten(3, 4)[..., : self.heads, :].flatten(1, 2)[:, : self.length]
        return whole.flatten(0, 1)[: self.tokens]

    def lengths(self, device: torch.device) -> Tensor | None:
        """int64 [n H], how many of a group's tokens are none of the padding, at least 1; None where there is no padding."""
        if self.tokens == self.segments * self.picks * self.ratio:
            return None
        segments = torch.arange(self.segments, device=device)[:, None]
        offsets = torch.arange(self.heads, device=device) // self.block
        held = (self.tokens - segments * self.length).clamp(max=self.length)  # [n, 1] tokens of a segment
        return ((held - offsets + self.ratio - 1) // self.ratio).clamp(min=1).flatten()


def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, branches: Sequence[tuple[int, int]], *, attends_padding: bool = False
) -> Tensor:
    """Dilated self-attention of one sequence.

    Args:
        q: [N, H, d], and so k and v.
        k: keys.
        v: values.
        branches: (segment's length, dilation) of each; one dilation is 1, so that each token of each head is in some.
        attends_padding: whether the zeros behind a segment's last token take part as keys and values, as they do in
            the published code and so in the weights that were trained by it. Else they are masked.

    Returns:
        [N, H, d].
    """
    tokens, heads, _ = q.shape
    parts, sums = [], []
    for segment, ratio in branches:
        cut = _Cut.of(tokens, heads, segment, ratio)
        lengths = None if attends_padding else cut.lengths(q.device)
        out, lse = attend(cut.gather(q), cut.gather(k), cut.gather(v), lengths=lengths)
        parts.append(cut.scatter(out, 0.0))
        sums.append(cut.scatter(lse[..., None], -torch.inf))  # [N, H, 1]
    if len(parts) == 1:
        return parts[0]
    shares = torch.stack(sums).softmax(dim=0).to(q.dtype)
    total = parts[0] * shares[0]
    for part, share in zip(parts[1:], shares[1:], strict=True):
        total = torch.addcmul(total, part, share)
    return total
