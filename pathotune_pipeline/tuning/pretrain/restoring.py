"""What methods that restore pixels have in common: plain views, and a judge that compares with the best constant patch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk
from pathotune_pipeline.tuning.pretrain.restore import Restored, restoration_loss
from pathotune_pipeline.tuning.pretrain.spec import ViewSpec
from pathotune_pipeline.tuning.pretrain.triptych import write_triptychs
from pathotune_pipeline.tuning.pretrain.views import random_views

_SHOWN = 6


class Restoring:
    """The part of a method that all methods share which restore pixels."""

    trunk: Trunk
    patch_norm: bool

    @property
    def views_per_image(self) -> int:
        """How many views of each image a step needs."""
        return 1

    def restore(self, views: Tensor, draws: Draws) -> Restored:
        """The pixels that the method takes away and restores."""
        raise NotImplementedError

    def cut(self, images: Tensor, spec: ViewSpec, draws: Draws) -> Tensor:
        """Random views, float32 [V * B, 3, P, P] in 0 to 1: the first of every image, then the second."""
        side = self.trunk.input_px
        return torch.cat([random_views(images, side, spec, draws) for _ in range(self.views_per_image)])

    def judge(self) -> RestorationJudge:
        """The error of what comes back, and that of the best constant patch."""
        return RestorationJudge(self)

    def begin_step(self, step: int, steps: int) -> None:
        """Every step is alike."""

    def end_step(self) -> None:
        """Nothing follows a step."""


class RestorationJudge:
    """Mean error of the patches that were taken away, and that of the constant patch that fits them best."""

    def __init__(self, method: Restoring) -> None:
        self._method = method
        self._moments, self._error = _Moments(), 0.0

    def add(self, views: Tensor, draws: Draws, picture: Path | None) -> None:
        """Restore views and count them in; draw triptychs of the first ones."""
        method = self._method
        restored = method.restore(views, draws)
        loss = restoration_loss(restored.patches, restored.target, restored.taken)
        self._error += float(loss * restored.taken.sum())
        self._moments.add(restored.target[restored.taken > 0])
        if picture:
            parts = restored.patches, restored.target, restored.taken, restored.given
            some = Restored(*(part[:_SHOWN] for part in parts))
            write_triptychs(picture, views[:_SHOWN], some, method.trunk, patch_norm=method.patch_norm)

    def losses(self) -> tuple[float, float]:
        """The error, and that of the best constant patch; a network that has learnt nothing comes to about that."""
        return self._error / self._moments.count, self._moments.variance()


class _Moments:
    """Sums over patches, for the error of the best constant patch."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | None = None
        self._squares = 0.0

    def add(self, patches: Tensor) -> None:
        """Count patches [M, K] in."""
        wide = patches.double()
        self.count += len(wide)
        total = wide.sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._squares += float(wide.square().mean(1).sum())

    def variance(self) -> float:
        """Mean squared error of the mean patch."""
        if self._sum is None:
            return 0.0
        return self._squares / self.count - float((self._sum / self.count).square().mean())
