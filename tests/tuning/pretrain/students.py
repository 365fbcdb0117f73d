"""Small students, a batch for them, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pathotune_pipeline.tuning.pretrain.distill import Distillation
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from tests.tuning.pretrain.toy import SETTINGS, spec_of, textures

SMALL: dict[str, Any] = {"prototypes": 12, "head_hidden": 16, "head_bottleneck": 8, "local_crops": 2}
ALONE: dict[str, Any] = {"dino_weight": 0, "ibot_weight": 0, "koleo_weight": 0}


def distillation(folder: Path, *names: str, network: dict[str, Any] | None = None, **settings: Any) -> Distillation:
    spec = spec_of(folder, **({"network": {**SETTINGS["network"], **network}} if network else {}))
    made = build_objective(spec, DistillSpec.parse({**SMALL, "teachers": names, **settings}))
    assert isinstance(made, Distillation)
    return made.train()


def views(count: int = 4) -> torch.Tensor:
    return torch.from_numpy(textures(count)).permute(0, 3, 1, 2) / 255


def step(method: Distillation, number: int = 0) -> dict[str, torch.Tensor]:
    """Losses of a batch, with gradients."""
    draws = Draws(0, number, rows=4)
    crops = method.cut(torch.from_numpy(textures(4)), spec_of(Path()).views, draws)
    losses = method(crops, draws)
    sum(losses.values()).backward()
    return losses


def gradients(method: Distillation) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
