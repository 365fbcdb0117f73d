"""Small heads and bags of all kinds, and the golden recipe: seeded numbers, scaled by fan-in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.heads.head import MILHead, create_head

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"

SMALL: dict[str, dict[str, Any]] = {
    "mean": {},
    "max": {},
    "abmil": {},
    "abmil-ungated": {},
    "clam-sb": {"hidden": 24, "attention_dim": 8, "instances": 4, "dropout": 0.0},
    "clam-mb": {"hidden": 24, "attention_dim": 8, "instances": 4, "dropout": 0.0},
    "transmil": {"dim": 32, "heads": 4, "landmarks": 8},
    "dsmil": {"query_dim": 16},
    "dtfd": {"hidden": 24, "attention_dim": 8},
    "transformer": {"dim": 32, "heads": 4, "feedforward": 48},
}


@pytest.fixture(scope="session")
def small_head() -> Callable[..., MILHead]:
    """A head of a name with seeded weights, float64, in evaluation mode."""

    def create(name: str, in_dim: int = 6, n_classes: int = 3, **settings: Any) -> MILHead:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            made = create_head(name, in_dim=in_dim, n_classes=n_classes, **{**SMALL[name], **settings})
        return made.double().eval()

    return create


@pytest.fixture(scope="session")
def some_bags() -> Callable[..., list[torch.Tensor]]:
    """Bags of random instances, each [n, dim] float64."""

    def draw(*lengths: int, dim: int = 6) -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(9)
        return [torch.randn(n, dim, generator=rng, dtype=torch.float64) for n in lengths]

    return draw


@pytest.fixture(scope="session")
def labelled() -> Callable[[Sequence[torch.Tensor], Sequence[int]], BagBatch]:
    """Bags with their class indices."""

    def join(bags: Sequence[torch.Tensor], targets: Sequence[int]) -> BagBatch:
        return replace(BagBatch.of(*bags), targets=torch.tensor(list(targets)))

    return join


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
