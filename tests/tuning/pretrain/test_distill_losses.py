"""Losses of distillation against numbers by hand and by NumPy, and zero where there is nothing left to learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pathotune_pipeline.tuning.pretrain.distill_losses import (
    centred_targets,
    class_loss,
    dino_loss,
    ibot_loss,
    koleo_loss,
    momentum_at,
    moved_centre,
    patch_loss,
    resize_grid,
    temperature_at,
)
from pathotune_pipeline.tuning.pretrain.schedule import between


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def shares(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def test_losses_against_teachers_are_zero_at_a_match_and_numpys_elsewhere():
    said, told = normal(3, 4, 5), 2 * normal(3, 4, 5, seed=1)
    assert float(class_loss(told[:, 0], told[:, 0])) == pytest.approx(0, abs=1e-6)
    assert float(patch_loss(told, told)) == pytest.approx(0, abs=1e-6)
    a, b = said.numpy(), told.numpy()
    cosine = ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()
    gap = np.abs(a - b)
    smooth = np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()
    assert float(class_loss(said.flatten(0, 1), told.flatten(0, 1))) == pytest.approx(1 - cosine, rel=1e-5)
    assert float(patch_loss(said, told)) == pytest.approx(0.9 * (1 - cosine) + 0.1 * smooth, rel=1e-5)
    assert float(class_loss(said[:, 0], 7 * said[:, 0])) == pytest.approx(0, abs=1e-6)  # lengths say nothing here
    assert float(patch_loss(said, 7 * said)) > 0.1


def cubic(rows: int, to: int) -> np.ndarray:
    """[to, rows] weights of Keys' kernel with a = -0.75, pixel centres, borders repeated."""
    matrix = np.zeros((to, rows))
    for place in range(to):
        x = (place + 0.5) * rows / to - 0.5
        for near in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - near)
            weight = 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[place, min(max(near, 0), rows - 1)] += weight
    return matrix


def test_a_teachers_grid_is_brought_to_the_students_as_keys_has_it():
    tokens = normal(2, 14 * 14, 3)
    found = resize_grid(tokens, (14, 14), (16, 16))
    weights = cubic(14, 16)
    planes = tokens.numpy().reshape(2, 14, 14, 3)
    expected = np.einsum("yi,xj,bijd->byxd", weights, weights, planes).reshape(2, 256, 3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert resize_grid(tokens, (14, 14), (14, 14)) is tokens


def test_targets_are_freed_of_the_centre_which_moves_with_the_batch():
    logits, centre = normal(4, 6), normal(6, seed=1)
    expected = shares((logits.numpy() - centre.numpy()) / 0.05)
    np.testing.assert_allclose(centred_targets(logits, centre, 0.05).numpy(), expected, rtol=1e-4, atol=1e-7)
    moved = moved_centre(torch.tensor([1.0, 2.0]), torch.tensor([6.0, 0.0]), torch.tensor(3.0), 0.9)
    assert moved.tolist() == pytest.approx([0.9 * 1 + 0.1 * 2, 0.9 * 2])
    still = moved_centre(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor(0.0), 0.9)
    assert still.tolist() == [1, 2]


def test_no_crop_is_paired_with_itself():
    said, targets = normal(4, 3, 5), torch.from_numpy(shares(normal(2, 3, 5, seed=1).numpy()))
    logarithms = np.log(shares(said.numpy() / 0.1))
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    expected = np.mean([-(targets[t].numpy() * logarithms[s]).sum(-1).mean() for t, s in pairs])
    assert float(dino_loss(said, targets, 0.1)) == pytest.approx(expected, rel=1e-5)
    first = targets[:1]
    other = said.clone()
    other[0] += normal(3, 5, seed=2)
    assert torch.equal(dino_loss(said, first, 0.1), dino_loss(other, first, 0.1))


def test_hidden_patches_count_by_image_and_only_they_get_a_gradient():
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    tokens = normal(3, 3, 4).requires_grad_()
    targets = torch.from_numpy(shares(normal(3, 4, seed=1).numpy()))
    loss = ibot_loss(tokens[mask], targets, mask, 0.1)
    crossed = -(targets.numpy() * np.log(shares(tokens.detach().numpy()[mask.numpy()] / 0.1))).sum(-1)
    assert float(loss.detach()) == pytest.approx(((crossed[0] + crossed[1]) / 2 + crossed[2]) / 3, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, tokens)
    assert torch.equal(gradient.abs().sum(-1) > 0, mask)
    none = torch.zeros_like(mask)
    empty = ibot_loss(tokens[none], targets[:0], none, 0.1)
    assert float(empty.detach()) == 0
    assert empty.requires_grad


def test_koleo_by_hand():
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert float(koleo_loss(features)) == pytest.approx(-math.log(math.sqrt(2)), rel=1e-5)
    turned = [[math.cos(angle), math.sin(angle)] for angle in (0.0, 0.3, 1.0)]
    nearest = [2 * math.sin(angle / 2) for angle in (0.3, 0.3, 0.7)]
    expected = -np.mean(np.log(nearest))
    assert float(koleo_loss(3 * torch.tensor(turned))) == pytest.approx(expected, rel=1e-5)


def test_courses_end_where_they_should():
    course = [momentum_at(step, 11, 0.992) for step in range(11)]
    assert course[0] == pytest.approx(0.992)
    assert course[5] == pytest.approx(0.996)
    assert course[-1] == 1
    assert course == sorted(course)
    assert [temperature_at(step, 4, 0.04, 0.08) for step in (0, 1, 4, 9)] == pytest.approx([0.04, 0.05, 0.08, 0.08])
    assert temperature_at(0, 0, 0.04, 0.07) == 0.07
    assert [between(0.04, 0.4, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.04, 0.22, 0.4])
