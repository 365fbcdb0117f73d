"""The loss of text labels against NumPy, and the projector that must never move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pathotune_pipeline.adapt.modal.losses import task_divergences, text_loss
from pathotune_pipeline.adapt.modal.projector import TextProjector


def by_numpy(embeddings: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    def chances(rows: np.ndarray) -> np.ndarray:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) / temperature
        return np.exp(unit) / np.exp(unit).sum(1, keepdims=True)

    told, said = chances(targets.astype(np.float64)), chances(embeddings.astype(np.float64))
    return (told * np.log(told / said)).sum(1)


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 16)).astype(np.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_divergences_are_numpys(temperature: float) -> None:
    one, two = drawn(1), drawn(2)
    found = task_divergences(torch.from_numpy(one), torch.from_numpy(two), temperature=temperature)
    assert np.allclose(found.numpy(), by_numpy(one, two, temperature), rtol=1e-4)
    assert (found > 0).all()


def test_a_value_worked_out_by_hand() -> None:
    """Unit vectors (1, 0) told and (0, 1) said: p = e / (1 + e); KL = (2 p - 1) log(p / (1 - p)) = 2 p - 1 = tanh(1/2)."""
    found = text_loss(torch.tensor([[0.0, 5.0]]), torch.tensor([[3.0, 0.0]]))
    assert float(found) == pytest.approx(10 * np.tanh(0.5), rel=1e-6)


def test_the_loss_is_ten_times_the_sum_over_tasks() -> None:
    one, two = drawn(1), drawn(2)
    found = text_loss(torch.from_numpy(one), torch.from_numpy(two))
    assert float(found) == pytest.approx(10 * by_numpy(one, two).sum(), rel=1e-4)


def test_it_is_zero_where_outputs_point_as_the_texts_do() -> None:
    texts = torch.from_numpy(drawn(2))
    assert float(text_loss(texts, texts)) == 0.0
    assert float(text_loss(4 * texts, texts)) == 0.0


def test_tasks_of_which_nothing_is_told_add_nothing() -> None:
    one = torch.from_numpy(drawn(1)).requires_grad_(True)
    two = torch.from_numpy(drawn(2))
    found = text_loss(one, two, told=torch.tensor([True, False, True]))
    assert float(found.detach()) == pytest.approx(10 * by_numpy(drawn(1), drawn(2))[[0, 2]].sum(), rel=1e-4)
    found.backward()
    assert one.grad is not None
    assert (one.grad != 0).any(1).tolist() == [True, False, True]
    nothing = text_loss(one, torch.zeros(3, 16), told=torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert torch.isfinite(one.grad).all()


def test_gradients_reach_the_embeddings_and_not_the_texts() -> None:
    one, two = (torch.from_numpy(drawn(seed)).requires_grad_(True) for seed in (1, 2))
    text_loss(one, two).backward()
    assert one.grad is not None
    assert two.grad is None


def test_the_projector_is_its_seeds_alone_and_frozen() -> None:
    state = torch.get_rng_state()
    one, two, other = TextProjector(24, 32, seed=5), TextProjector(24, 32, seed=5), TextProjector(24, 32, seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    texts = torch.randn(4, 3, 24)
    assert one(texts).shape == (4, 3, 32)
    assert torch.equal(one(texts), two(texts))
    assert not torch.allclose(one(texts), other(texts), atol=1e-2)
    assert torch.allclose(one(texts).norm(dim=-1), torch.ones(4, 3), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in one.parameters())
    assert not one(texts).requires_grad
