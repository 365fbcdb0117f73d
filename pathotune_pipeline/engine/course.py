"""Course: one model's training, driven from outside, so that several can share each pass over the data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pathotune_pipeline.engine.optimizer import Lookahead, build_optimizer
from pathotune_pipeline.engine.schedule import lr_factor
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import PathotuneError, UsageError


class Learner(Protocol):
    """What training asks of a model: an `nn.Module` with `losses`."""

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
        seconds: wall time, validation included, and that of models trained in the same pass.
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


class Course:
    """The training of one model: begin_epoch, a step for each batch, end_epoch, until it is done.

    All that happens inside `random()` draws from this course's own random state; where courses take turns, each is
    entered for its own steps, and then gives what it would give alone. Losses stay on the device until the epoch's
    end, so that no step waits for it.

    Attributes:
        epoch: the one that is being trained, or comes next; from 0.
        done: whether all epochs are trained, or patience ran out.
    """

    def __init__(self, model: Learner, spec: TrainSpec) -> None:
        """Begin.

        Args:
            model: changed in place; lies on its device, as the batches will.
            spec: optimiser, schedule, stopping rule, seed.

        Raises:
            UsageError: the model has nothing to train.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise UsageError("The model has no parameter to train: all of them are frozen.")
        self.epoch, self.done = 0, False
        self._model, self._spec = model, spec
        self._device = parameters[0].device
        self._stepper = _Stepper(parameters, spec)
        self._states = _seeded_states(spec.seed, self._device)
        self._history: list[EpochRecord] = []
        self._losses: list[dict[str, Tensor]] = []
        self._best_value, self._best_epoch = math.inf, -1
        self._best_state: dict[str, Tensor] = {}
        self._stopped = False
        self._lr, self._began_s = spec.lr, 0.0

    @contextmanager
    def random(self) -> Iterator[None]:
        """Draw from this course's random state inside; the process's own comes back afterwards."""
        generators = _generators(self._device)
        before = [each.get_state() for each in generators]
        for generator, state in zip(generators, self._states, strict=True):
            generator.set_state(state)
        try:
            yield
        finally:
            self._states = [each.get_state() for each in generators]
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)

    def begin_epoch(self) -> None:
        """To be called before the steps of each epoch."""
        self._began_s = time.perf_counter()
        self._lr = self._stepper.set_lr(self._spec.lr * lr_factor(self._spec, self.epoch))
        self._losses = []
        self._model.train()

    def step(self, batch: Any) -> None:
        """Learn from a batch; with accumulation, every so many make one step of the optimiser."""
        with self._stepper.autocast():
            losses = self._model.losses(batch)
            total = torch.stack([_wide(value) for value in losses.values()]).sum()
        self._stepper.add(total)
        self._losses.append({name: value.detach() for name, value in losses.items()} | {"total": total.detach()})

    def end_epoch(self, validate: Callable[[], float] | None = None) -> EpochRecord:
        """Batches left over from accumulation make a step of their own; then validate, and choose.

        Args:
            validate: called in evaluation mode without gradients; lower is better.

        Raises:
            UsageError: there were no batches.
            PathotuneError: a loss or the validation value is not finite.
        """
        losses = self._mean_losses()
        self._stepper.flush()
        value = self._validated(validate)
        better = value is None or value < self._best_value
        if better:
            self._best_value, self._best_epoch = (math.inf if value is None else value), self.epoch
            if value is not None:
                self._best_state = _on_cpu(self._model)
        seconds = time.perf_counter() - self._began_s
        record = EpochRecord(self.epoch, losses, value, better, self._lr, seconds)
        self._history.append(record)
        waited, self.epoch = self.epoch - self._best_epoch, self.epoch + 1
        spec = self._spec
        self._stopped = bool(spec.patience) and waited >= spec.patience and self.epoch >= spec.min_epochs
        self.done = self._stopped or self.epoch == spec.epochs
        return record

    def result(self) -> FitResult:
        """What has been learnt so far."""
        last = _on_cpu(self._model)
        return FitResult(self._best_state or last, last, self._best_epoch, tuple(self._history), self._stopped)

    def _mean_losses(self) -> dict[str, float]:
        if not self._losses:
            raise UsageError(
                f"There were no batches in epoch {self.epoch}. Give a source that can be gone through every epoch."
            )
        totals = torch.stack([each["total"] for each in self._losses]).double().cpu()
        broken = (~totals.isfinite()).nonzero()
        if len(broken):
            first = int(broken[0])
            values = {name: float(value) for name, value in self._losses[first].items()}
            raise PathotuneError(
                f"epoch {self.epoch}, batch {first}: the loss is {values}. "
                "Lower lr, set grad_clip, or look for non-finite inputs."
            )
        names = dict.fromkeys(name for each in self._losses for name in each)
        sums = {name: torch.stack([each[name] for each in self._losses if name in each]).double() for name in names}
        return {name: float(values.sum()) / len(self._losses) for name, values in sums.items()}

    def _validated(self, validate: Callable[[], float] | None) -> float | None:
        if validate is None:
            return None
        self._model.eval()
        with torch.no_grad():
            value = float(validate())
        if not math.isfinite(value):
            raise PathotuneError(
                f"epoch {self.epoch}: the validation value is {value}. Lower lr, or look at the validation data."
            )
        return value


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


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a fresh random state inside, of the CPU and of `device`, and put the old one back afterwards."""
    generators = _generators(device)
    before = [each.get_state() for each in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _generators(device: torch.device | None) -> list[torch.Generator]:
    found = [torch.default_generator]
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        found.append(torch.cuda.default_generators[index])
    return found


def _seeded_states(seed: int, device: torch.device) -> list[Tensor]:
    with seeded(seed, device):
        return [each.get_state() for each in _generators(device)]


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _on_cpu(model: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
