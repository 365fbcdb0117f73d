"""The published heads' weights by the golden recipe: seeded numbers, scaled by fan-in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"


@pytest.fixture(scope="session")
def golden() -> tuple[dict[str, Any], Any]:
    if not (GOLDEN / "mil_heads.json").exists():
        pytest.skip("../shared is absent")
    return json.loads((GOLDEN / "mil_heads.json").read_text()), np.load(GOLDEN / "mil_heads.npz")


@pytest.fixture(scope="session")
def recipe() -> Callable[[Sequence[tuple[str, Sequence[int]]], int], dict[str, torch.Tensor]]:
    def fill(keys: Sequence[tuple[str, Sequence[int]]], seed: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(seed)
        state = {}
        for key, shape in keys:
            w = rng.standard_normal(shape)
            if len(shape) > 1:
                w = w / math.sqrt(math.prod(shape[1:]))
            else:
                w = 1 + 0.1 * w if "norm" in key and key.endswith("weight") else 0.1 * w
            state[key] = torch.from_numpy(w)
        return state

    return fill
