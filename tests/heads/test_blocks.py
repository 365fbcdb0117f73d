"""Layers in blocks against the plain layers, forwards and backwards."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads import blocks
from pathotune_pipeline.heads.blocks import attention_pool, embed


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 7)
    monkeypatch.setattr(blocks, "SMALL_ROWS", 0)


def layers_of(bias: bool = True, *rest: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6, bias=bias), *rest)


def gradients(module: nn.Module, value: torch.Tensor) -> list[torch.Tensor]:
    (value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)).sum().backward()
    return [p.grad for p in module.parameters()]


def batch_of(dtype=torch.float64) -> BagBatch:
    rng = torch.Generator().manual_seed(2)
    x = (4 * torch.randn(23, 5, generator=rng) + 40).half()
    scale = (torch.linspace(38, 42, 5, dtype=dtype), torch.linspace(1, 5, 5, dtype=dtype))
    return BagBatch(x, torch.tensor([0, 20, 23]), scale=scale)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rest", [(), (nn.ReLU(),), (nn.ReLU(), nn.Tanh()), (nn.GELU(),)], ids=lambda r: str(len(r)))
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_scaled_layers_equal_scaling_and_layers(dtype, near, rest, bias):
    ours = layers_of(bias, *rest).to(dtype)
    plain, batch = copy.deepcopy(ours), batch_of(dtype)
    made, wanted = embed(ours, batch), plain(batch.scaled().features)
    assert (made - wanted).abs().max() < near
    for a, b in zip(gradients(ours, made), gradients(plain, wanted), strict=True):
        assert (a - b).abs().max() < near * max(1, float(b.detach().abs().max()))


def test_features_that_need_a_gradient_get_one():
    batch = batch_of()
    x = batch.features.double().requires_grad_()
    embed(layers_of(True, nn.ReLU()).double(), replace(batch, features=x)).sum().backward()
    assert x.grad.abs().max() > 0


def plain_pool(hidden, sizes, v, u, w):
    features = v(hidden).tanh() * (1 if u is None else u(hidden).sigmoid())
    weights = [each.softmax(dim=0) for each in w(features).split(sizes)]
    return torch.stack([a.mT @ h for a, h in zip(weights, hidden.split(sizes), strict=True)]), weights


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_pool_equals_plain_layers(dtype, near, gated, columns):
    torch.manual_seed(3)
    modules = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, columns)]).to(dtype)
    hidden, sizes = torch.randn(30, 6, dtype=dtype), [9, 1, 20]
    found = []
    for pool in (attention_pool, plain_pool):
        modules.zero_grad()
        v, u, w = modules
        rows = hidden.clone().requires_grad_()
        pooled, weights = pool(rows, sizes, v, u if gated else None, w)
        grads = gradients(modules, pooled)
        found.append([pooled, *weights, rows.grad, *[g for g in grads if g is not None]])
        if pool is attention_pool:
            assert not any(each.requires_grad for each in weights)
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < near * max(1, float(b.detach().abs().max()))


def test_autograd_agrees_with_differences():
    torch.manual_seed(4)
    modules = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 1)]).double()
    hidden = torch.randn(15, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: attention_pool(h, [10, 5], *modules)[0], [hidden])


def test_bfloat16_is_as_near_as_autocast_and_weights_learn_in_float32():
    torch.manual_seed(5)
    layers, batch = layers_of(True, nn.ReLU()), batch_of(torch.float32)
    modules = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 1)])
    exact = attention_pool(embed(layers, batch), batch.sizes, *modules)[0]
    with torch.autocast("cpu", torch.bfloat16):
        ours = attention_pool(embed(layers, batch), batch.sizes, *modules)[0]
        theirs = plain_pool(layers(batch.scaled().features), batch.sizes, *modules)[0]
        ours.sum().backward()
    assert 0 < (ours - exact).abs().max() < 2 * (theirs - exact).abs().max() + 1e-3
    assert all(p.grad.dtype == torch.float32 for p in layers.parameters())
