"""A network with its heads and its loss, as `engine.fit` wants them, and the batches that it learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork
from pathotune_pipeline.engine.optimizer import ParameterGroup
from pathotune_pipeline.tuning.patches.batches import PatchBatches
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.network import Body

_TURNS = 0x7A5C


@dataclass(frozen=True, slots=True, eq=False)
class TaskBatch:
    """Patches of one task.

    Attributes:
        task: its number.
        pixels: uint8, or float of 0 to 255, [B, H, W, 3].
        labels: int64 [B].
    """

    task: int
    pixels: Tensor
    labels: Tensor


class BodyLearner(nn.Module):
    """What learns of a body and with it; the frozen part is no submodule, and stays as in use whatever `train` is told."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.trained = body.trained
        self._body = (body,)  # in a tuple, so that its frozen network is no submodule

    @property
    def body(self) -> Body:
        """The whole network."""
        return self._body[0]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """What learns as told; what is frozen stays as in use."""
        super().train(mode)
        self.body.train(mode=mode)
        return self


class PatchLearner(BodyLearner):
    """The trained part of a network, and a linear head for each task, or one for all.

    The frozen part is no submodule: what is saved, moved to training mode, or counted is what learns.
    """

    def __init__(self, body: Body, classes: Sequence[int], *, shared_head: bool) -> None:
        """Make the heads, at random.

        Args:
            body: the network.
            classes: number of each task's classes.
            shared_head: whether all tasks use one head, as wide as the widest of them needs.
        """
        super().__init__(body)
        widths = [max(classes)] if shared_head else list(classes)
        self.heads = nn.ModuleList(nn.Linear(body.dim, width) for width in widths)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.to(body.encoder.device)
        self._classes = tuple(classes)
        self._reads_texts = isinstance(body.network, AdaptedNetwork) and "text" in body.network.adapter

    def groups(self) -> list[ParameterGroup]:
        """The network's groups, and the heads at full pace."""
        return [*self.body.groups, ParameterGroup("heads", list(self.heads.parameters()))]

    def forward(self, pixels: Tensor, task: int = 0, *, text: int | None = None) -> Tensor:
        """Logits [B, C] of a task's classes.

        Args:
            pixels: uint8, or float of 0 to 255, [B, H, W, 3], anywhere.
            task: its number.
            text: number of the task whose text the network is given; by default the task's own.
        """
        body = self.body
        if self._reads_texts:
            body.network.select_text(task if text is None else text)  # type: ignore[operator]
        prepared = body.encoder.prepare(pixels.to(body.encoder.device, non_blocking=True))
        features = body.network(prepared)
        logits: Tensor = self.heads[task if len(self.heads) > 1 else 0](features)
        return logits[:, : self._classes[task]]

    def losses(self, batch: TaskBatch) -> dict[str, Tensor]:
        """{"cross_entropy": the batch's mean}."""
        logits = self(batch.pixels, batch.task)
        return {"cross_entropy": F.cross_entropy(logits.float(), batch.labels.to(logits.device))}

    @torch.no_grad()
    def probabilities(
        self, patches: PatchSet, index: np.ndarray, *, task: int = 0, text: int | None = None, batch: int = 64
    ) -> np.ndarray:
        """Class probabilities of patches as they are, in evaluation mode: float64 [n, C].

        Args:
            patches: images of one size.
            index: [n] int, which of them.
            task: its number.
            text: as for `forward`.
            batch: patches at once.
        """
        training = self.training
        self.eval()
        rows = [np.zeros((0, self._classes[task]))]
        for start in range(0, len(index), batch):
            pixels = torch.from_numpy(np.ascontiguousarray(patches.images[index[start : start + batch]]))
            rows.append(self(pixels, task, text=text).double().softmax(1).cpu().numpy())
        self.train(training)
        return np.concatenate(rows)


class TaskBatches:
    """Epochs of several tasks: their batches take turns in an order that hangs on seed and epoch alone."""

    def __init__(self, tasks: Sequence[PatchBatches], *, seed: int) -> None:
        self._tasks, self._seed = tasks, seed

    def __call__(self, epoch: int) -> _Epoch:
        return _Epoch(self._tasks, epoch, np.random.default_rng([self._seed, _TURNS, epoch]))


class _Epoch:
    def __init__(self, tasks: Sequence[PatchBatches], epoch: int, rng: np.random.Generator) -> None:
        self._tasks, self._epoch = tasks, epoch
        self._turns = rng.permutation(np.repeat(np.arange(len(tasks)), [len(task) for task in tasks]))

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[TaskBatch]:
        walks = [task(self._epoch) for task in self._tasks]
        for task in self._turns.tolist():
            pixels, labels, _ = next(walks[task])
            yield TaskBatch(task, pixels, labels)
