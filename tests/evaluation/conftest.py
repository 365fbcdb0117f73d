"""Class probabilities to be scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def drawn() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Balanced targets and probabilities that know something of them, with ties."""

    def draw(n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        targets = np.arange(n) % classes
        probs = rng.random((n, classes)) + 0.5 * np.eye(classes)[targets]
        return targets, np.round(probs / probs.sum(axis=1, keepdims=True), 2)

    return draw
