"""Probes of frozen features: a linear one, solved to its optimum, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pathotune_pipeline.engine.convex import minimise
from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.tuning.run.choice import validation_value

_TEMPERATURE = 0.07
_GRADIENT = 1e-6
"""Where the solution counts as found: the largest entry of the gradient."""
_LEAST_STD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Features and their classes.

    Attributes:
        features: float32 [N, D].
        labels: int64 [N].
    """

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """Weights of a linear classifier on raw features, and the penalty that was chosen.

    Attributes:
        weight: float64 [C, D].
        bias: float64 [C].
        l2: of the penalties that were tried, the one with the best validation.
    """

    weight: np.ndarray
    bias: np.ndarray
    l2: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float64 [n, C] of float features [n, D]."""
        logits = torch.from_numpy(features.astype(np.float64) @ self.weight.T + self.bias)
        return logits.softmax(1).numpy()


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourProbe:
    """The training features themselves, and how many of them vote.

    Attributes:
        memory: float32 [N, D], centred, scaled, of length 1.
        labels: int64 [N].
        mean: float32 [D], of the training features.
        std: float32 [D].
        classes: number C.
        k: of those that were tried, the one with the best validation.
    """

    memory: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    classes: int
    k: int

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Votes of the k most similar training patches, each weighted exp(cosine / 0.07): float64 [n, C].

        Source of the weights: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
        CVPR 2018 (arXiv 1805.01978), section 3.4.

        Args:
            features: float [n, D].
        """
        asked, memory = torch.from_numpy(_unit(features, self.mean, self.std)), torch.from_numpy(self.memory)
        labels = torch.from_numpy(self.labels)
        votes = torch.zeros(len(asked), self.classes, dtype=torch.float64)
        for start in range(0, len(asked), 1024):  # so that [n, N] similarities stay small
            near = (asked[start : start + 1024] @ memory.T).topk(min(self.k, len(memory)), dim=1)
            weights = ((near.values.double() - near.values[:, :1].double()) / _TEMPERATURE).exp()
            votes[start : start + 1024].scatter_add_(1, labels[near.indices], weights)
        return (votes / votes.sum(1, keepdim=True)).numpy()


def fit_linear(
    train: Labelled, val: Labelled | None, *, classes: int, penalties: Sequence[float], select: str, balanced: bool
) -> LinearProbe:
    """The linear classifier of least mean cross-entropy + l2 / 2 x (sum of squared weights), biases not penalised.

    It is solved on features of mean 0 and deviation 1, measured on the training part, in float64, by L-BFGS; the scale
    is then folded into the weights. This is scikit-learn's LogisticRegression with C = 1 / (N l2); of two classes,
    of which that has one set of weights and this two, C = 2 / (N l2).

    Args:
        train: to learn from.
        val: chooses among the penalties; None takes the middle one.
        classes: number C.
        penalties: l2's, the strongest first; of equals in validation the first counts.
        select: see `validation_value`.
        balanced: whether each class counts the same, whatever its number of patches.

    Raises:
        PathotuneError: the features are not finite.
    """
    mean, std = _scale(train.features)
    x = torch.from_numpy((train.features.astype(np.float64) - mean) / std)
    y = torch.from_numpy(train.labels)
    weights = None
    if balanced:
        counts = torch.bincount(y, minlength=classes).double()
        weights = torch.where(counts > 0, len(y) / (counts.clamp(min=1) * (counts > 0).sum()), 0.0)
    best: tuple[float, LinearProbe] | None = None
    tried = penalties if val is not None else [penalties[len(penalties) // 2]]
    solution = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64)
    for l2 in tried:
        solution = _solve(x, y, l2=l2, weights=weights, start=solution)
        weight = solution[:, :-1].numpy() / std
        probe = LinearProbe(weight, solution[:, -1].numpy() - weight @ mean, float(l2))
        value = validation_value(probe.probabilities(val.features), val.labels, select) if val is not None else 0.0
        if best is None or value < best[0]:
            best = (value, probe)
    assert best is not None  # penalties are not empty
    return best[1]


def fit_neighbours(
    train: Labelled, val: Labelled | None, *, classes: int, numbers: Sequence[int], select: str
) -> NeighbourProbe:
    """Nearest neighbours by the cosine of features that are centred and scaled as the training part says.

    Args:
        train: the neighbours.
        val: chooses among the numbers; None takes the first.
        classes: number C.
        numbers: of neighbours; of equals in validation the first counts.
        select: see `validation_value`.

    Raises:
        PathotuneError: the features are not finite.
    """
    mean, std = (each.astype(np.float32) for each in _scale(train.features))
    memory = _unit(train.features, mean, std)
    probes = [NeighbourProbe(memory, train.labels, mean, std, classes, int(k)) for k in numbers]
    if val is None:
        return probes[0]
    return min(probes, key=lambda each: validation_value(each.probabilities(val.features), val.labels, select))


def _scale(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(features).all():
        raise PathotuneError("The encoder's features are not finite. Try --precision fp32, and check its weights.")
    std = features.std(axis=0, dtype=np.float64)
    return features.mean(axis=0, dtype=np.float64), np.where(std > _LEAST_STD, std, 1.0)


def _unit(features: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    scaled = (features - mean) / std
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12), np.float32)


def _solve(x: Tensor, y: Tensor, *, l2: float, weights: Tensor | None, start: Tensor) -> Tensor:
    def loss(found: Tensor) -> Tensor:
        each = F.cross_entropy(x @ found[:, :-1].T + found[:, -1], y, weight=weights, reduction="sum")
        return each / len(y) + 0.5 * l2 * found[:, :-1].square().sum()

    return minimise(loss, start, gradient=_GRADIENT)
