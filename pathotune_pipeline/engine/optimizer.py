"""Optimisers by their names in TrainSpec, and Lookahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer, RAdam

from pathotune_pipeline.engine.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that learn at a pace of their own.

    Attributes:
        name: for messages and records.
        parameters: at least one.
        lr_scale: share of the run's learning rate, at every step of its schedule.
        weight_decay: where not the run's.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


def build_optimizer(parameters: Iterable[nn.Parameter] | Sequence[ParameterGroup], spec: TrainSpec) -> Optimizer:
    """The optimiser that `spec` names, over the parameters that want a gradient, or over groups of them.

    With `decay_vectors=False` biases, norms and other one-dimensional parameters get no weight decay.
    """
    asked = list(parameters)
    named = [each for each in asked if isinstance(each, ParameterGroup)]
    if not named:
        named = [ParameterGroup("all", [each for each in asked if isinstance(each, nn.Parameter)])]
    groups = [part for group in named for part in _parts(group, spec)]
    trained = [p for group in groups for p in group["params"]]
    # One pass over each parameter instead of ten: a third of a step with bags of a few tiles.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    match spec.optimizer:
        case "adam":
            return Adam(groups, lr=spec.lr, betas=(0.9, spec.beta2), fused=fused)
        case "adamw":
            return AdamW(groups, lr=spec.lr, betas=(0.9, spec.beta2), fused=fused)
        case "radam":
            return RAdam(groups, lr=spec.lr, betas=(0.9, spec.beta2), decoupled_weight_decay=True)


def _parts(group: ParameterGroup, spec: TrainSpec) -> list[dict[str, Any]]:
    """A group as torch takes it, in two where vectors are spared the decay."""
    trained = [p for p in group.parameters if p.requires_grad]
    decay = spec.weight_decay if group.weight_decay is None else group.weight_decay
    shared = {"lr": spec.lr * group.lr_scale, "lr_scale": group.lr_scale}
    if spec.decay_vectors:
        return [{"params": trained, "weight_decay": decay, **shared}]
    parts = (([p for p in trained if p.ndim > 1], decay), ([p for p in trained if p.ndim <= 1], 0.0))
    return [{"params": params, "weight_decay": value, **shared} for params, value in parts]


def memory_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, by the parameter's number and the name of the memory, such as "3.exp_avg"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": torch.as_tensor(value) for number, own in state.items() for name, value in own.items()}


def remember(optimizer: Optimizer, memory: Mapping[str, Tensor]) -> None:
    """Give an optimiser of the same parameters the memory that `memory_of` told."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in memory.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Lookahead:
    """A slow copy of the weights that follows the fast ones (Zhang et al. 2019, "Lookahead Optimizer", algorithm 1).

    Every `steps` optimiser steps, slow += alpha * (fast - slow) and fast = slow. The inner optimiser keeps its
    moments. Validation sees the fast weights.
    """

    def __init__(self, optimizer: Optimizer, *, steps: int, alpha: float) -> None:
        self._params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.slow = [p.detach().clone() for p in self._params]
        self._steps, self._alpha = steps, alpha
        self.done = 0

    @torch.no_grad()
    def step(self) -> None:
        """To be called after each step of the inner optimiser."""
        self.done += 1
        if self.done % self._steps:
            return
        for slow, fast in zip(self.slow, self._params, strict=True):
            slow.lerp_(fast, self._alpha)
            fast.copy_(slow)
