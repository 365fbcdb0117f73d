"""Layers that run over every tile, in blocks that stay in the processor's cache, forwards and backwards.

A bag of ten thousand tiles has intermediate arrays of many MB; whole-array operations move each of them through main
memory several times. Here a block of rows is read as it is stored, brought to scale, multiplied and squashed while it
is in the cache. Results equal the plain layers' but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pathotune_pipeline.bags.bag import BagBatch

BLOCK_ROWS = 2048
"""Rows of a block on a CPU: 2,048 x 1,024 float32 are 8 MB."""
SMALL_ROWS = 512
"""Rows up to which plain layers are faster."""
BLOCK_ROWS_GPU = 65_536
"""Rows of a block on a GPU, where blocks only bound the memory."""


def embed(layers: nn.Module, batch: BagBatch) -> Tensor:
    """What the layers make of each tile, [sum of N, M].

    Args:
        layers: where they are a Sequential that begins with a Linear, it runs in blocks, and so does a ReLU behind it.
        batch: features as stored, with their scale; or ready, and then the layers are run as they are.
    """
    linear = layers[0] if isinstance(layers, nn.Sequential) and len(layers) else None
    small = len(batch.features) <= SMALL_ROWS
    if small or batch.scale is None or batch.features.requires_grad or not isinstance(linear, nn.Linear):
        out: Tensor = layers(batch.scaled().features)
        return out
    assert isinstance(layers, nn.Sequential)
    mean, std = batch.scale
    relu = len(layers) > 1 and isinstance(layers[1], nn.ReLU)
    hidden: Tensor = _ScaledLinear.apply(batch.features, mean, std, linear.weight, linear.bias, relu)
    for layer in layers[2 if relu else 1 :]:
        hidden = layer(hidden)
    return hidden


def attention_pool(
    hidden: Tensor, sizes: Sequence[int], v: nn.Linear, u: nn.Linear | None, w: nn.Linear
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Of each bag the sum of its rows weighted by a softmax over the scores w(tanh(V h) * sigmoid(U h)).

    Ilse et al. 2018, equations 8 (without U) and 9.

    Args:
        hidden: rows of all bags, [sum of N, M].
        sizes: rows of each bag.
        v: M to L.
        u: M to L, or None.
        w: L to K.

    Returns:
        Sums [B, K, M], and each bag's weights [N_b, K] without gradient, at least float32.
    """
    if len(hidden) <= SMALL_ROWS * len(sizes):
        features = v(hidden).tanh() if u is None else v(hidden).tanh() * u(hidden).sigmoid()
        scores = w(features)
        every = [each.softmax(dim=0) for each in scores.to(_at_least_float32(scores.dtype)).split(list(sizes))]
        sums = [each.to(hidden.dtype).mT @ rows for each, rows in zip(every, hidden.split(list(sizes)), strict=True)]
        return torch.stack(sums), tuple(each.detach() for each in every)
    weight = v.weight if u is None else torch.cat([v.weight, u.weight])
    bias = v.bias if u is None else torch.cat([v.bias, u.bias])
    pooled, weights = _AttentionPool.apply(hidden, weight, bias, w.weight, w.bias, tuple(sizes))
    return pooled, weights.split(list(sizes))


class _Precision:
    """In which numbers a layer multiplies: those of its weights, or bfloat16 under autocast.

    Where the processor cannot multiply bfloat16 itself, factors are rounded to it and multiplied as float32: the same
    products, several times as fast as torch's own fallback.
    """

    def __init__(self, weight: Tensor) -> None:
        kind = weight.device.type
        self.lower = torch.is_autocast_enabled(kind) and weight.dtype == torch.float32
        self.stored = torch.get_autocast_dtype(kind) if self.lower else weight.dtype
        native = kind != "cpu" or _cpu_multiplies(self.stored)
        self.multiplied = self.stored if native else torch.float32
        self.wide = weight.dtype

    def factor(self, values: Tensor) -> Tensor:
        """As it goes into a product."""
        return values.to(self.stored).to(self.multiplied)


def _cpu_multiplies(kind: torch.dtype) -> bool:
    if kind == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return kind != torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def blocks(rows: int, device: torch.device) -> Iterator[slice]:
    """Cuts of that many rows."""
    size = BLOCK_ROWS if device.type == "cpu" else BLOCK_ROWS_GPU
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


class _ScaledLinear(torch.autograd.Function):
    """ReLU or nothing of Linear((x - mean) / std), where x needs no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        std: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,  # noqa: FBT001
    ) -> Tensor:
        precision = _Precision(weight)
        with torch.autocast(x.device.type, enabled=False):
            inverse = 1 / std  # goes into the weights, which are fewer than the rows
            factor = precision.factor(weight * inverse).mT
            out = torch.empty(len(x), weight.shape[0], dtype=precision.stored, device=x.device)
            for part in blocks(len(x), x.device):
                rows = precision.factor(x[part].to(precision.wide, copy=True).sub_(mean))
                made = out[part] if out.dtype == rows.dtype else None  # written in place where it can be
                if bias is None:
                    made = torch.mm(rows, factor, out=made)
                else:
                    made = torch.addmm(bias.to(rows.dtype), rows, factor, out=made)
                if relu:
                    made.relu_()
                if out.dtype != rows.dtype:
                    out[part] = made
        ctx.precision, ctx.relu, ctx.has_bias = precision, relu, bias is not None
        ctx.save_for_backward(x, mean, inverse, out if relu else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, out = ctx.saved_tensors
        precision = ctx.precision
        by_weight = torch.zeros(grad.shape[1], x.shape[1], dtype=precision.wide, device=x.device)
        by_bias = torch.zeros(grad.shape[1], dtype=precision.wide, device=x.device)
        for part in blocks(len(x), x.device):
            rows = precision.factor(x[part].to(precision.wide, copy=True).sub_(mean))
            down = grad[part]
            if ctx.relu:
                down = torch.ops.aten.threshold_backward(down, out[part], 0)
            _add_product(by_weight, precision.factor(down).mT, rows)
            by_bias += down.sum(dim=0, dtype=precision.wide)
        return None, None, None, by_weight.mul_(inverse), by_bias if ctx.has_bias else None, None


class _AttentionPool(torch.autograd.Function):
    """Weighted sums, with V and U one matrix."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor, sizes: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        precision, gated = _Precision(weight), len(weight) > last.shape[1]
        wide = precision.wide
        with torch.autocast(hidden.device.type, enabled=False):
            # tanh(a) = 2 sigmoid(2 a) - 1: one sigmoid over both branches takes a third of the time of tanh alone.
            twice = torch.ones_like(bias)
            twice[: last.shape[1]] = 2
            factor, shift = precision.factor(weight * twice[:, None]).mT, bias * twice
            squashed = torch.empty(len(hidden), len(weight), dtype=precision.stored, device=hidden.device)
            scores = torch.empty(len(hidden), len(last), dtype=wide, device=hidden.device)
            for part in blocks(len(hidden), hidden.device):
                rows = precision.factor(hidden[part])
                made = squashed[part] if squashed.dtype == wide else None
                made = torch.addmm(shift.to(rows.dtype), rows, factor, out=made).to(wide).sigmoid_()
                branches = made.chunk(2, dim=1) if gated else (made,)
                branches[0].mul_(2).sub_(1)
                if squashed.dtype != wide:
                    squashed[part] = made
                scores[part] = F.linear(_gate(branches), last, last_bias)
            weights = torch.cat([each.softmax(dim=0) for each in scores.split(list(sizes))])
            pooled = torch.zeros(len(sizes), len(last), hidden.shape[1], dtype=wide, device=hidden.device)
            for bag, part in _blocks_of_bags(sizes, hidden.device):
                pooled[bag].addmm_(weights[part].mT, hidden[part].to(wide))
        ctx.precision, ctx.gated, ctx.sizes = precision, gated, sizes
        ctx.save_for_backward(hidden, weight, last, squashed, weights, pooled)
        ctx.mark_non_differentiable(weights)
        return pooled, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, last, squashed, weights, pooled = ctx.saved_tensors
        precision, wide = ctx.precision, ctx.precision.wide
        by_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight, by_last = (torch.zeros_like(each) for each in (weight, last))
        by_bias, by_last_bias = weight.new_zeros(len(weight)), last.new_zeros(len(last))
        back = precision.factor(weight)
        level = (grad * pooled).sum(dim=2)  # [B, K]: what a softmax takes from the gradient of each of its weights
        for bag, part in _blocks_of_bags(ctx.sizes, hidden.device):
            rows, made, share = hidden[part], squashed[part].to(wide), weights[part]
            branches = made.chunk(2, dim=1) if ctx.gated else (made,)
            down = share * (rows.to(wide) @ grad[bag].mT - level[bag])  # [n, K], by scores
            by_last.addmm_(down.mT, _gate(branches))
            by_last_bias += down.sum(dim=0)
            inner = _through_gate(branches, down @ last)
            by_bias += inner.sum(dim=0)
            factor = precision.factor(inner)
            _add_product(by_weight, factor.mT, precision.factor(rows))
            if by_hidden is None:
                continue
            if by_hidden.dtype == factor.dtype:
                torch.mm(factor, back, out=by_hidden[part]).addmm_(share.to(factor.dtype), grad[bag].to(factor.dtype))
            else:
                by_hidden[part] = (factor @ back).to(wide).addmm_(share, grad[bag])
        return by_hidden, by_weight, by_bias, by_last, by_last_bias, None


def _blocks_of_bags(sizes: tuple[int, ...], device: torch.device) -> Iterator[tuple[int, slice]]:
    """The number of a bag, and a cut of its rows."""
    start = 0
    for bag, size in enumerate(sizes):
        for part in blocks(size, device):
            yield bag, slice(start + part.start, start + part.stop)
        start += size


def _at_least_float32(kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(kind, torch.float32)


def _gate(branches: tuple[Tensor, ...]) -> Tensor:
    return branches[0] * branches[1] if len(branches) == 2 else branches[0]


def _through_gate(branches: tuple[Tensor, ...], down: Tensor) -> Tensor:
    """The gradient before tanh and sigmoid, [n, L] or [n, 2 L]."""
    v = branches[0]
    if len(branches) == 1:
        return down * (1 - v * v)
    u = branches[1]
    out = torch.empty(len(v), 2 * v.shape[1], dtype=v.dtype, device=v.device)
    through = down * u
    out[:, : v.shape[1]] = torch.addcmul(through, through * v, v, value=-1)  # d g u (1 - v^2)
    through.mul_(v)
    out[:, v.shape[1] :] = torch.addcmul(through, through, u, value=-1)  # d g v u (1 - u)
    return out


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Total += a @ b, summed in the precision of the total."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += (a @ b).to(total.dtype)
