"""Attention in blocks equals attention at once, with its gradients, and its memory does not grow with the square."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pathotune_pipeline.slide_encoders import attention
from pathotune_pipeline.slide_encoders.attention import Distances, attend


@pytest.fixture(params=[1, 37, 2**20], ids=["tiny blocks", "odd blocks", "one block"])
def _block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_SCORES", request.param)
    monkeypatch.setattr(attention, "LEAST_ROWS", min(3, request.param))


def inputs(groups: int = 4, queries: int = 11, keys: int = 9, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((groups, queries, width), (groups, keys, width), (groups, keys, width))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q, k, v


def at_once(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float) -> tuple[Tensor, Tensor]:
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def places(count: int) -> Tensor:
    return torch.randint(0, 6, (count, 2), generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.usefixtures("_block_size")
def test_a_plain_softmax() -> None:
    q, k, v = inputs()
    torch.testing.assert_close(attend(q, k, v), at_once(q, k, v, 0.0))


@pytest.mark.usefixtures("_block_size")
def test_keys_past_a_groups_length_do_not_count() -> None:
    q, k, v = inputs()
    lengths = torch.tensor([9, 1, 4, 8])
    bias = torch.zeros(4, 1, 9, dtype=torch.float64)
    for group, length in enumerate(lengths.tolist()):
        bias[group, :, length:] = -torch.inf
    torch.testing.assert_close(attend(q, k, v, lengths=lengths), at_once(q, k, v, bias))


@pytest.mark.usefixtures("_block_size")
def test_a_bias_by_distance_spares_the_prefix() -> None:
    q, k, v = inputs(keys=11)
    slopes = torch.tensor([0.5, 0.25, 0.0, 2.0], dtype=torch.float64)
    points = places(9)
    bias = torch.zeros(4, 11, 11, dtype=torch.float64)
    for i in range(9):
        for j in range(9):
            bias[:, 2 + i, 2 + j] = -slopes * (points[i] - points[j]).square().sum().sqrt()
    torch.testing.assert_close(attend(q, k, v, distances=Distances(points, slopes, 2)), at_once(q, k, v, bias))


@pytest.mark.usefixtures("_block_size")
@pytest.mark.parametrize("case", ["plain", "lengths", "distances"])
def test_gradients(case: str) -> None:
    q, k, v = (each.requires_grad_() for each in inputs(groups=2, queries=7, keys=7, width=3))
    lengths = torch.tensor([7, 3]) if case == "lengths" else None
    distances = Distances(places(6), torch.tensor([0.5, 0.1]).double(), 1) if case == "distances" else None

    def summed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, lengths=lengths, distances=distances)[0]

    assert torch.autograd.gradcheck(summed, (q, k, v))


@pytest.mark.usefixtures("_block_size")
def test_half_precision_stays_near() -> None:
    exact, half = ([each.to(kind).requires_grad_() for each in inputs()] for kind in (torch.float64, torch.bfloat16))
    weights = torch.linspace(-1, 1, 5, dtype=torch.float64)
    for q, k, v in (exact, half):
        out, lse = attend(q, k, v)
        (out.double() * weights).sum().backward()
    assert lse.dtype == torch.float32
    for a, b in zip(exact, half, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad.double(), a.grad, rtol=0.1, atol=0.05)


def test_no_matrix_of_scores_is_kept() -> None:
    q, k, v = (each.float().requires_grad_() for each in inputs(groups=1, queries=3000, keys=3000, width=4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        out, _ = attend(q, k, v)
    assert kept
    assert max(kept) == 3000 * 4
    out.sum().backward()
    assert q.grad is not None


def test_equal_places_are_at_exactly_no_distance_however_far_out() -> None:
    points = torch.tensor([[40_000.0, 90_000.0], [40_000.0, 90_000.0], [40_003.0, 90_004.0]])
    found = Distances(points, torch.ones(1), 1).rows(slice(0, 4))
    expected = [[0, 0, 0, 0], [0, 0, 0, 5], [0, 0, 0, 5], [0, 5, 5, 0]]
    assert found.tolist() == expected
