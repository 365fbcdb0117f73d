"""The training loop. One for heads, probes, prompts and students: the model says what its losses are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pathotune_pipeline.engine.optimizer import Lookahead, build_optimizer
from pathotune_pipeline.engine.schedule import lr_factor
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import PathotuneError, UsageError

Batches = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches that can be gone through once an epoch, or a function from the epoch's number to such batches."""


class Learner(Protocol):
    """What `fit` asks of a model: an `nn.Module` with `losses`."""

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Scalars by name; what is minimised is their sum."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...  # noqa: FBT001, FBT002  nn.Module's
    def state_dict(self) -> dict[str, Any]: ...
    def train(self, mode: bool = True) -> Any: ...  # noqa: FBT001, FBT002  nn.Module's
    def eval(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What one epoch gave.

    Attributes:
        epoch: from 0.
        losses: mean of each loss over the epoch's batches, and of their sum under "total".
        validation: what `validate` returned, or None.
        best: whether this is the best epoch so far.
        lr: the learning rate it trained with.
        seconds: wall time, validation included.
    """

    epoch: int
    losses: dict[str, float]
    validation: float | None
    best: bool
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a training run gave. States lie on the CPU.

    Attributes:
        best_state: weights after `best_epoch`; the last ones where nothing was validated.
        last_state: weights after the last epoch.
        best_epoch: from 0.
        history: one record for each epoch.
        stopped_early: whether patience ran out.
    """

    best_state: dict[str, Tensor]
    last_state: dict[str, Tensor]
    best_epoch: int
    history: tuple[EpochRecord, ...]
    stopped_early: bool


def fit(
    model: Learner,
    batches: Batches,
    spec: TrainSpec,
    *,
    validate: Callable[[], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> FitResult:
    """Train a model; the same seed, data and machine give the same weights bit for bit on a CPU.

    The random state of the process is left as it was. The model keeps the last weights; load `best_state` for the
    best ones. At an epoch's end, batches left over from accumulation make a step of their own.

    Args:
        model: changed in place; lies on its device, as the batches do.
        batches: gone through once an epoch, in their own order.
        spec: optimiser, schedule, stopping rule, seed.
        validate: called after each epoch in evaluation mode without gradients; lower is better.
        on_epoch: told of each epoch.

    Raises:
        UsageError: there are no batches or nothing to train.
        PathotuneError: a loss or the validation value is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("The model has no parameter to train: all of them are frozen.")
    with seeded(spec.seed, parameters[0].device):
        return _run(model, parameters, batches, spec, validate=validate, on_epoch=on_epoch)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a fresh random state inside, of the CPU and of `device`, and put the old one back afterwards."""
    cuda: list[int] = []
    if device is not None and device.type == "cuda":
        cuda = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def _run(
    model: Learner,
    parameters: list[nn.Parameter],
    batches: Batches,
    spec: TrainSpec,
    *,
    validate: Callable[[], float] | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> FitResult:
    stepper = _Stepper(parameters, spec)
    history: list[EpochRecord] = []
    best_value, best_epoch, best_state = math.inf, -1, {}
    stopped = False
    for epoch in range(spec.epochs):
        start = time.perf_counter()
        lr = stepper.set_lr(spec.lr * lr_factor(spec, epoch))
        model.train()
        losses = _train_epoch(model, batches(epoch) if callable(batches) else batches, stepper, epoch=epoch)
        value = _validated(model, validate, epoch)
        better = value is None or value < best_value
        if better:
            best_value, best_epoch = (math.inf if value is None else value), epoch
            if value is not None:
                best_state = _on_cpu(model)
        record = EpochRecord(epoch, losses, value, better, lr, time.perf_counter() - start)
        history.append(record)
        if on_epoch:
            on_epoch(record)
        waited = epoch - best_epoch
        if spec.patience and waited >= spec.patience and epoch + 1 >= spec.min_epochs:
            stopped = True
            break
    last_state = _on_cpu(model)
    return FitResult(best_state or last_state, last_state, best_epoch, tuple(history), stopped)


class _Stepper:
    """Turns losses into optimiser steps: precision, accumulation, clipping, Lookahead."""

    def __init__(self, parameters: list[nn.Parameter], spec: TrainSpec) -> None:
        self._parameters, self._spec = parameters, spec
        self._optimizer = build_optimizer(parameters, spec)
        self._lookahead = (
            Lookahead(self._optimizer, steps=spec.lookahead_steps, alpha=spec.lookahead_alpha)
            if spec.lookahead
            else None
        )
        self._waiting = 0

    def set_lr(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return lr

    def autocast(self) -> AbstractContextManager[Any]:
        if self._spec.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._parameters[0].device.type, dtype=torch.bfloat16)

    def add(self, loss: Tensor) -> None:
        (loss / self._spec.accumulate).backward()
        self._waiting += 1
        if self._waiting == self._spec.accumulate:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        if self._spec.grad_clip:
            nn.utils.clip_grad_norm_(self._parameters, self._spec.grad_clip)
        self._optimizer.step()
        if self._lookahead:
            self._lookahead.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._waiting = 0


def _train_epoch(model: Learner, batches: Iterable[Any], stepper: _Stepper, *, epoch: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    count = 0
    for batch in batches:
        with stepper.autocast():
            losses = model.losses(batch)
            total = torch.stack([value.float() for value in losses.values()]).sum()
        values = {name: float(value.detach()) for name, value in losses.items()} | {"total": float(total.detach())}
        if not math.isfinite(values["total"]):
            raise PathotuneError(
                f"epoch {epoch}, batch {count}: the loss is {values}. "
                "Lower lr, set grad_clip, or look for non-finite inputs."
            )
        stepper.add(total)
        count += 1
        for name, number in values.items():
            sums[name] = sums.get(name, 0.0) + number
    if not count:
        raise UsageError(f"There were no batches in epoch {epoch}. Give a source that can be gone through every epoch.")
    stepper.flush()
    return {name: number / count for name, number in sums.items()}


def _validated(model: Learner, validate: Callable[[], float] | None, epoch: int) -> float | None:
    if validate is None:
        return None
    model.eval()
    with torch.no_grad():
        value = float(validate())
    if not math.isfinite(value):
        raise PathotuneError(
            f"epoch {epoch}: the validation value is {value}. Lower lr, or look at the validation data."
        )
    return value


def _on_cpu(model: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
