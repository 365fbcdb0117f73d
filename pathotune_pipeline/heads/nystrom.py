"""Self-attention through landmarks (Xiong et al. 2021, "Nyströmformer"), with a pseudo-inverse for each bag alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.heads.streaming import CHUNK_ROWS


class NystromAttention(nn.Module):
    """softmax(Q K_l') pinv(softmax(Q_l K_l')) softmax(Q_l K') V plus a depthwise convolution of V along the tokens.

    Q_l and K_l are means over equal runs of tokens. Tokens are padded with zeros on the left to a multiple of
    `landmarks`, as published; the padding's rows are cut from the left again (nystrom-attention up to 0.0.9 cut on
    the right, which shifted every token). The padding itself takes part in landmarks and softmax, as it does there.

    Departures: the iteration for the pseudo-inverse starts from a scale taken over the heads of one bag, never over
    the batch, so that a bag's result does not depend on its neighbours; it runs in float32 or float64 whatever
    autocast says; products are taken in the cheaper order, and rows that nobody reads are not computed (equal but
    for rounding).

    Args:
        dim: width of the tokens.
        heads: attention heads.
        dim_head: width of one head.
        landmarks: runs that the tokens are averaged into.
        pinv_iterations: steps of the pseudo-inverse.
        conv_kernel: tokens that the convolution spans, odd.
        dropout: on the output projection.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        dim_head: int = 64,
        landmarks: int = 256,
        pinv_iterations: int = 6,
        conv_kernel: int = 33,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.landmarks, self.pinv_iterations = heads, landmarks, pinv_iterations
        self.scale = dim_head**-0.5
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)
        self.res_conv = nn.Conv2d(
            heads, heads, (conv_kernel, 1), padding=(conv_kernel // 2, 0), groups=heads, bias=False
        )

    def forward(self, x: Tensor, *, first_only: bool = False) -> tuple[Tensor, Tensor]:
        """Mix tokens.

        Args:
            x: [B, n, dim].
            first_only: whether only the first token's result is wanted; the others' is then not computed.

        Returns:
            Mixed tokens, [B, n, dim] or [B, 1, dim], and the weight of each token for the first one,
            [B, heads, n] (padding cut off, so it need not sum to 1; an approximated attention may be negative).
        """
        if not torch.is_grad_enabled() and x.shape[1] > CHUNK_ROWS:
            return self._in_chunks(x, first_only=first_only)
        n, rows = x.shape[1], 1 if first_only else x.shape[1]
        runs = math.ceil(n / self.landmarks)
        pad = self.landmarks * runs - n
        padded = F.pad(x, (0, 0, pad, 0))  # [B, L, dim]
        to_q, to_k, to_v = self.to_qkv.weight.chunk(3)
        k = self._split(F.linear(padded, to_k))  # [B, h, L, d]
        v = self._split(F.linear(padded, to_v))  # [B, h, L, d]
        q = self.scale * self._split(F.linear(x[:, :rows], to_q))  # [B, h, rows, d]
        k_land = k.unflatten(2, (self.landmarks, runs)).mean(dim=3)  # [B, h, m, d]
        means = padded.unflatten(1, (self.landmarks, runs)).mean(dim=2)  # [B, m, dim]
        q_land = self.scale * self._split(F.linear(means, to_q))  # [B, h, m, d]; the mean passes a linear map
        to_land = (q @ k_land.mT).softmax(dim=-1)  # [B, h, rows, m]
        from_land = (q_land @ k.mT).softmax(dim=-1)  # [B, h, m, L]
        inverse = pseudo_inverse(q_land @ k_land.mT, self.pinv_iterations)  # [B, h, m, m]
        values = inverse.to(v.dtype) @ (from_land.to(v.dtype) @ v)  # [B, h, m, d]
        out = to_land.to(v.dtype) @ values + self._convolve(v, pad, rows)  # [B, h, rows, d]
        out = self.dropout(self.to_out(out.transpose(1, 2).flatten(2)))  # [B, rows, dim]
        with torch.no_grad():
            first = to_land[:, :, :1].to(inverse.dtype) @ inverse  # [B, h, 1, m]
            weights = (first @ from_land.to(inverse.dtype)).squeeze(2)[..., pad:]  # [B, h, n]
        return out, weights

    def _in_chunks(self, x: Tensor, *, first_only: bool) -> tuple[Tensor, Tensor]:
        """What `forward` gives, with the weights between tokens and landmarks in chunks of tokens."""
        n, rows = x.shape[1], 1 if first_only else x.shape[1]
        runs = math.ceil(n / self.landmarks)
        pad = self.landmarks * runs - n
        to_q, to_k, to_v = self.to_qkv.weight.chunk(3)
        means = F.pad(x, (0, 0, pad, 0)).unflatten(1, (self.landmarks, runs)).mean(dim=2)  # [B, m, dim]
        q_land, k_land = self.scale * self._split(F.linear(means, to_q)), self._split(F.linear(means, to_k))
        inverse = pseudo_inverse(q_land @ k_land.mT, self.pinv_iterations)  # [B, h, m, m]
        # The padding's keys and values are zero: a score of 0 for each of its tokens, and nothing to sum.
        highest = q_land.new_zeros(q_land.shape[:3]) if pad else q_land.new_full(q_land.shape[:3], -torch.inf)
        total, sums = torch.full_like(highest, float(pad)), torch.zeros_like(q_land)  # [B, h, m], [B, h, m, d]
        for part in _chunks(n):
            k, v = (self._split(F.linear(x[:, part], each)) for each in (to_k, to_v))
            scores = q_land @ k.mT  # [B, h, m, c]
            above = torch.maximum(highest, scores.amax(dim=-1))
            weights, fade = (scores - above[..., None]).exp_(), (highest - above).exp()
            total = fade * total + weights.sum(dim=-1)
            sums = fade[..., None] * sums + weights @ v
            highest = above
        values = inverse.to(x.dtype) @ (sums / total[..., None])  # [B, h, m, d]
        mixed = torch.empty(x.shape[0], rows, self.to_out.out_features, dtype=x.dtype, device=x.device)
        reach = int(self.res_conv.padding[0])
        for part in _chunks(rows):
            q = self.scale * self._split(F.linear(x[:, part], to_q))
            to_land = (q @ k_land.mT).softmax(dim=-1)  # [B, h, c, m]
            low, high = max(0, part.start - reach), min(n, part.stop + reach)
            span = self._split(F.linear(x[:, low:high], to_v))
            span = F.pad(span, (0, 0, low - part.start + reach, part.stop + reach - high))
            out = to_land @ values + F.conv2d(span, self.res_conv.weight, groups=self.heads)
            mixed[:, part] = self.dropout(self.to_out(out.transpose(1, 2).flatten(2)))
            if part.start == 0:
                first = to_land[:, :, :1].to(inverse.dtype) @ inverse  # [B, h, 1, m]
        seen = torch.empty(x.shape[0], self.heads, n, dtype=inverse.dtype, device=x.device)
        for part in _chunks(n):
            k = self._split(F.linear(x[:, part], to_k))
            weights = (q_land @ k.mT - highest[..., None]).exp_().div_(total[..., None])
            seen[..., part] = (first @ weights.to(inverse.dtype)).squeeze(2)
        return mixed, seen

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, h, tokens, d]

    def _convolve(self, v: Tensor, start: int, rows: int) -> Tensor:
        reach = self.res_conv.padding[0]
        span = F.pad(v, (0, 0, int(reach), int(reach)))[:, :, start : start + rows + 2 * int(reach)]
        return F.conv2d(span, self.res_conv.weight, groups=self.heads)  # [B, h, rows, d]


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, rows))


def pseudo_inverse(similarities: Tensor, iterations: int) -> Tensor:
    """The Moore-Penrose inverse of softmax(similarities), by the third-order iteration of Nyströmformer (equation 11).

    Args:
        similarities: [B, h, m, m]; half precision is raised to float32.
        iterations: steps.

    Returns:
        [B, h, m, m] in float32 or float64.
    """
    with torch.autocast(similarities.device.type, enabled=False):
        if similarities.dtype != torch.float64:
            similarities = similarities.float()
        a = similarities.softmax(dim=-1)  # [B, h, m, m]
        # Over the heads of one bag and not over the batch. Rows of a softmax sum to 1; kept for the gradient's sake.
        widest = a.sum(dim=-1).amax(dim=(1, 2)) * a.sum(dim=-2).amax(dim=(1, 2))  # [B]
        z = a.mT / widest[:, None, None, None]
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        for _ in range(iterations):
            az = a @ z
            z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
        return z
