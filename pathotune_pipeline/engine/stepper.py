"""Stepper: losses to optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pathotune_pipeline.engine.optimizer import Lookahead, ParameterGroup, build_optimizer, memory_of, remember
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import UsageError


class Stepper:
    """Turns losses into optimiser steps: precision, accumulation, clipping, Lookahead."""

    def __init__(
        self, parameters: list[nn.Parameter], spec: TrainSpec, groups: Sequence[ParameterGroup] | None = None
    ) -> None:
        """Make the optimiser.

        Args:
            parameters: those that are trained.
            spec: optimiser and its settings.
            groups: the same parameters in groups with learning rates of their own.

        Raises:
            UsageError: the groups are not the trained parameters, each once.
        """
        self._parameters, self._spec = parameters, spec
        if groups is not None:
            grouped = [id(p) for group in groups for p in group.parameters]
            if len(set(grouped)) != len(grouped) or set(grouped) != {id(p) for p in parameters}:
                raise UsageError(
                    f"The groups hold {len(grouped)} parameters, {len(parameters)} are trained: put each in one group."
                )
        self._optimizer = build_optimizer(parameters if groups is None else groups, spec)
        self._lookahead = (
            Lookahead(self._optimizer, steps=spec.lookahead_steps, alpha=spec.lookahead_alpha)
            if spec.lookahead
            else None
        )
        self._waiting = 0

    def set_lr(self, lr: float) -> float:
        """Set every group's learning rate to its share of `lr`, which is handed back."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which losses are computed."""
        if self._spec.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._parameters[0].device.type, dtype=torch.bfloat16)

    def add(self, loss: Tensor) -> bool:
        """Take a batch's loss; whether the optimiser made a step."""
        (loss / self._spec.accumulate).backward()
        self._waiting += 1
        if self._waiting < self._spec.accumulate:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Make a step of the gradients that wait."""
        if not self._waiting:
            return
        if self._spec.grad_clip:
            nn.utils.clip_grad_norm_(self._parameters, self._spec.grad_clip)
        self._optimizer.step()
        if self._lookahead:
            self._lookahead.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._waiting = 0

    @property
    def pulls(self) -> int:
        """Steps that Lookahead has counted."""
        return self._lookahead.done if self._lookahead else 0

    def tensors(self) -> dict[str, Tensor]:
        """What the optimiser and Lookahead remember, by the parameter's number and the name of the memory."""
        found = memory_of(self._optimizer)
        slow = self._lookahead.slow if self._lookahead else []
        return found | {f"{number}.slow": tensor for number, tensor in enumerate(slow)}

    def restore(self, tensors: Mapping[str, Tensor], *, pulls: int) -> None:
        """Remember what `tensors` and `pulls` gave.

        Raises:
            UsageError: they are of another optimiser.
        """
        memory: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            if name == "slow":
                if self._lookahead is None:
                    raise UsageError("The saved course was trained with Lookahead, this one is not.")
                self._lookahead.slow[int(number)].copy_(tensor)
            else:
                memory[key] = tensor
        remember(self._optimizer, memory)
        if self._lookahead:
            self._lookahead.done = pulls
