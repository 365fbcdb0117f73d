"""Course: one model's training, driven from outside, so that several can share each pass over the data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pathotune_pipeline.engine.optimizer import ParameterGroup
from pathotune_pipeline.engine.schedule import lr_factor
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.engine.stepper import Stepper
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
        lr: the learning rate it trained with; where that moves at every step, the one it began with.
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

    def __init__(self, model: Learner, spec: TrainSpec, *, groups: Sequence[ParameterGroup] | None = None) -> None:
        """Begin.

        Args:
            model: changed in place; lies on its device, as the batches will.
            spec: optimiser, schedule, stopping rule, seed.
            groups: of the trained parameters, with learning rates of their own; None: one of all.

        Raises:
            UsageError: the model has nothing to train, or the groups are not its trained parameters.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise UsageError("The model has no parameter to train: all of them are frozen.")
        self.epoch, self.done = 0, False
        self._model, self._spec = model, spec
        self._device = parameters[0].device
        self._stepper = Stepper(parameters, spec, groups)
        self._step, self._steps = 0, 1
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

    def begin_epoch(self, *, batches: int | None = None) -> None:
        """To be called before the steps of each epoch.

        Args:
            batches: how many there will be; needed where the learning rate moves at every step.

        Raises:
            UsageError: it is needed, and was not given.
        """
        self._began_s = time.perf_counter()
        if self._spec.per_step:
            if batches is None:
                raise UsageError(
                    "per_step: the number of an epoch's batches must be known. Give a source with a length."
                )
            self._steps = max(1, math.ceil(batches / self._spec.accumulate))
        self._step = 0
        self._lr = self._set_lr()
        self._losses = []
        self._model.train()

    def step(self, batch: Any) -> None:
        """Learn from a batch; with accumulation, every so many make one step of the optimiser."""
        with self._stepper.autocast():
            losses = self._model.losses(batch)
            total = torch.stack([_wide(value) for value in losses.values()]).sum()
        if self._stepper.add(total) and self._spec.per_step and self._step + 1 < self._steps:
            self._step += 1
            self._set_lr()
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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next epochs depend on, and what has been found: tensors, and plain values; between two epochs.

        A course of the same model, spec and batches that is given it goes on as this one would: on a CPU bit for bit.
        """
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self._model.state_dict(),
            "best": self._best_state,
            "optimizer": self._stepper.tensors(),
            "random": {str(place): state for place, state in enumerate(self._states)},
        }
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        meta = {
            "epoch": self.epoch,
            "done": self.done,
            "stopped": self._stopped,
            "best_epoch": self._best_epoch,
            "best_value": self._best_value if math.isfinite(self._best_value) else None,
            "pulls": self._stepper.pulls,
            "history": [asdict(record) for record in self._history],
        }
        return tensors, meta

    def resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Args:
            tensors: on any device.
            meta: plain values.

        Raises:
            UsageError: they are of another model or optimiser.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        own = self._model.state_dict()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in parts["model"].items()}:
            raise UsageError("The saved course is of another model: its tensors have other names or shapes.")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(parts["model"][name])
        self._stepper.restore(parts["optimizer"], pulls=int(meta["pulls"]))
        self._best_state = {name: tensor.cpu() for name, tensor in parts["best"].items()}
        self._states = [parts["random"][str(place)].cpu() for place in range(len(self._states))]
        self.epoch, self.done, self._stopped = int(meta["epoch"]), bool(meta["done"]), bool(meta["stopped"])
        self._best_epoch = int(meta["best_epoch"])
        self._best_value = math.inf if meta["best_value"] is None else float(meta["best_value"])
        self._history = [EpochRecord(**record) for record in meta["history"]]

    def _set_lr(self) -> float:
        return self._stepper.set_lr(
            self._spec.lr * lr_factor(self._spec, self.epoch, step=self._step, steps=self._steps)
        )

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
