"""A pretraining run: steps, tables, checkpoints, and the encoder in the end; killed and begun again, it is the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pathotune_pipeline.engine.course import seeded
from pathotune_pipeline.engine.optimizer import memory_of, remember
from pathotune_pipeline.errors import PathotuneError, UsageError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.provenance import machine, now, package_versions
from pathotune_pipeline.spec import hashed_values
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.objective import Objective
from pathotune_pipeline.tuning.pretrain.records import Table, load_state, save_state
from pathotune_pipeline.tuning.pretrain.schedule import between, lr_share
from pathotune_pipeline.tuning.pretrain.sources import Source, Team
from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec
from pathotune_pipeline.tuning.pretrain.team import average_gradients, averaged, wait_for_all
from pathotune_pipeline.tuning.pretrain.watch import Watch

_BETAS = (0.9, 0.95)  # as MAE and PuzzleTuning have them


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """What a run gave.

    Attributes:
        artefact: the encoder's folder, or the prompts' file.
        steps: that the whole run has.
        checks: the last line of checks.csv: watched loss, the best constant's loss, RankMe.
    """

    artefact: Path
    steps: int
    checks: dict[str, Any]


def pretrain(
    objective: Objective,
    source: Source,
    spec: PretrainSpec,
    out: Path,
    *,
    team: Team | None = None,
    device: torch.device | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> PretrainResult:
    """Train from where `out` stands to the end, and write what was learnt.

    Every process of a team calls this with the same arguments but `team`; the first one writes. On a CPU, a run that
    was killed and begun again gives the bits of one that was not.

    Args:
        objective: changed in place.
        source: of pixels.
        spec: as the objective and the source were made from.
        out: folder of the run: metrics.csv, checks.csv, checkpoints/, and the encoder or prompts.
        team: this process's place among those that train together.
        device: where it trains; by default the CPU.
        on_row: told of each line of metrics.csv.

    Raises:
        UsageError: there is nothing to train, or no length of an epoch.
        OutputExistsError: `out` holds a run with other settings.
        PathotuneError: a loss is not finite; the batch is saved and named.
    """
    run = _Run(objective, source, spec, out, team=team or Team(), device=device or torch.device("cpu"))
    return run.finish(on_row)


@dataclass(slots=True)
class _Window:
    """What happened since the last line of metrics.csv."""

    losses: list[dict[str, Tensor]] = field(default_factory=list)
    began_s: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0


class _Run:
    def __init__(
        self, objective: Objective, source: Source, spec: PretrainSpec, out: Path, *, team: Team, device: torch.device
    ) -> None:
        spec.check()
        self.objective, self.source, self.spec, self.out = objective, source, spec, out
        self.team, self.device = team, device
        images = spec.epoch_images or source.images
        if not images:
            raise UsageError("epoch_images must be given where all images come from slides: a stream has no end.")
        self.per_epoch = max(1, images // (spec.batch_size * spec.accumulate))
        self.steps = self.per_epoch * spec.epochs
        module: Any = objective
        module.to(device)
        self.names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters() if p.requires_grad}
        self.parameters: list[nn.Parameter] = [p for p in self.names if isinstance(p, nn.Parameter)]
        if not self.parameters:
            raise UsageError("there is nothing to train: all parameters are frozen.")
        self.optimizer = self._build_optimizer()
        self.recipe = {**hashed_values(spec), **objective.recipe(), "pixels": source.facts()}
        base = objective.trunk.base
        if base is not None:  # by its contents: a base may be moved between two parts of a run
            self.recipe["network"] = {"base": base.name, "weights_sha256": base.weights_sha256}
        self.watch = Watch(source, spec, device)
        self.epoch_loss = torch.zeros(2, device=device)  # sum, steps
        self.window = _Window()
        self.metrics: Table | None = None  # the first process's
        self.checks: Table | None = None

    def _build_optimizer(self) -> torch.optim.AdamW:
        flat = [p for p in self.parameters if p.ndim <= 1 or "token" in self.names[p]]
        decayed = [p for p in self.parameters if not any(p is other for other in flat)]
        groups = [
            {"params": decayed, "weight_decay": self.spec.weight_decay, "decays": True},
            {"params": flat, "weight_decay": 0.0, "decays": False},
        ]
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=_BETAS, fused=fused)

    def finish(self, on_row: Callable[[dict[str, Any]], None] | None) -> PretrainResult:
        step = self._resume()
        spec = self.spec
        first = self.team.rank == 0
        wait_for_all(self.team)  # all have read the checkpoint before the first one writes another
        if first:
            self.out.mkdir(parents=True, exist_ok=True)
            self.metrics, self.checks = (Table(self.out / name, upto=step) for name in ("metrics.csv", "checks.csv"))
        last: dict[str, Any] = {}
        with self.source.batches(spec.batch_size, team=self.team, start=step * spec.accumulate) as batches:
            self.window = _Window()
            while step < self.steps:
                if step % self.per_epoch == 0:
                    self._begin_epoch(step // self.per_epoch)
                self._step(step, batches)
                step += 1
                last = self._look(step, on_row) or last
                failpoint("pretrain.step")
        if first and not last:
            last = self.watch.measure(self.objective, step)
        artefact = self.objective.artefact(self.out)
        if first and not artefact.exists():
            self.objective.write(self.out, self._record(last))
        wait_for_all(self.team)
        return PretrainResult(artefact, self.steps, last)

    def _look(self, step: int, on_row: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
        """Where it is time: a line of metrics.csv, measures, a checkpoint. Returns the line of checks.csv, or nothing."""
        checking = step % self.spec.check_steps == 0 or step == self.steps
        if not checking and step % self.spec.log_steps:
            return {}
        row = self._row(step)
        if self.metrics is not None:
            self.metrics.add(row)
        if on_row:
            on_row(row)
        if not checking:
            return {}
        epoch_loss = averaged(self.epoch_loss.clone(), self.team)
        if self.checks is None:
            return {}
        found = self.watch.measure(self.objective, step, self.out / "triptychs" / f"step-{step:08d}.png")
        self.checks.add(found)
        self._save(step, epoch_loss)
        return found

    def _begin_epoch(self, epoch: int) -> None:
        total, steps = averaged(self.epoch_loss.clone(), self.team).tolist()
        self.objective.begin_epoch(epoch, total / steps if steps else None)
        self.epoch_loss.zero_()

    def _step(self, step: int, batches: Any) -> None:
        spec, objective = self.spec, self.objective
        warmup = min(spec.warmup_epochs * self.per_epoch, self.steps)
        top = spec.base_lr * spec.batch_size * spec.accumulate / 256
        for group in self.optimizer.param_groups:
            group["lr"] = spec.min_lr + max(0.0, top - spec.min_lr) * lr_share(step, warmup=warmup, total=self.steps)
            if spec.weight_decay_end is not None and group["decays"]:
                group["weight_decay"] = between(spec.weight_decay, spec.weight_decay_end, step / max(1, self.steps - 1))
        objective.train()
        objective.begin_step(step, self.steps)
        for number in range(step * spec.accumulate, (step + 1) * spec.accumulate):
            asked_s = time.perf_counter()
            pixels = torch.from_numpy(next(batches))
            self.window.waited_s += time.perf_counter() - asked_s
            draws = self._draws(number)
            views = objective.cut(pixels.to(self.device), spec.views, draws)
            with seeded(draws.seed(), self.device), self._autocast():
                losses = objective(views, draws)
            total = torch.stack([value.float() for value in losses.values()]).sum()
            (total / spec.accumulate).backward()
            self.window.losses.append({name: value.detach() for name, value in losses.items()})
            self.epoch_loss += torch.stack([total.detach(), torch.ones_like(total)])
        average_gradients(self.parameters, self.team)
        if spec.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, spec.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        objective.end_step()

    def _draws(self, number: int) -> Draws:
        team = self.team
        return Draws(self.spec.seed, number, rows=self.spec.batch_size, rank=team.rank, world=team.world)

    def _autocast(self) -> Any:
        if self.spec.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _row(self, step: int) -> dict[str, Any]:
        """One line of metrics.csv for the steps since the last one."""
        window, self.window = self.window, _Window()
        names = list(window.losses[0])
        values = torch.stack([torch.stack([each[name].float() for name in names]) for each in window.losses])
        values = averaged(values, self.team).double().cpu()  # [steps, losses]
        broken = (~values.isfinite()).any(1).nonzero()
        if len(broken):
            self._stop_at(step * self.spec.accumulate - len(values) + int(broken[0]))
        seconds = time.perf_counter() - window.began_s
        batches = len(window.losses)
        return {
            "step": step,
            "epoch": (step - 1) // self.per_epoch,
            "images": step * self.spec.batch_size * self.spec.accumulate,
            "lr": self.optimizer.param_groups[0]["lr"],
            **dict(zip(names, values.mean(0).tolist(), strict=True)),
            **self.objective.state_of_course(),
            "images_per_s": round(batches * self.spec.batch_size / seconds, 2),
            "waited_share": round(window.waited_s / seconds, 4),
        }

    def _stop_at(self, number: int) -> None:
        """Save the batch whose loss is not finite, and say so."""
        place = self.out / f"broken-batch-{number}-rank-{self.team.rank}.npz"
        with self.source.batches(self.spec.batch_size, team=self.team, start=number) as batches:
            pixels = next(batches)
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(place, pixels=pixels)
        raise PathotuneError(
            f"batch {number} (step {number // self.spec.accumulate}): a loss is not finite. Its images are in {place}. "
            "Lower base_lr, set grad_clip, or look at the images; the last checkpoint is from before it."
        )

    def _save(self, step: int, epoch_loss: Tensor) -> None:
        state = {f"model|{name}": tensor for name, tensor in self.objective.state_dict().items()}
        state |= {f"optimizer|{name}": tensor for name, tensor in memory_of(self.optimizer).items()}
        state["epoch_loss"] = epoch_loss
        save_state(self.out / "checkpoints", state, step=step, recipe=self.recipe)

    def _resume(self) -> int:
        found = load_state(self.out / "checkpoints", self.recipe)
        if found is None:
            return 0
        state, step = found
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for key, tensor in state.items():
            part, mark, name = key.partition("|")
            if mark:
                parts[part][name] = tensor
        self.objective.load_state_dict(parts["model"])
        remember(self.optimizer, parts["optimizer"])
        self.epoch_loss.copy_(state["epoch_loss"])
        return step

    def _record(self, checks: dict[str, Any]) -> dict[str, Any]:
        """What the artefact says of how it was made."""
        base = self.objective.trunk.base
        return {
            "recipe": self.recipe,
            "steps": self.steps,
            "images_seen": self.steps * self.spec.batch_size * self.spec.accumulate,
            "checks": checks,
            "base": base.model_dump(mode="json") if base else None,
            "packages": package_versions(),
            "machine": machine(),
            "made": now(),
        }
