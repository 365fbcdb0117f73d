"""Measures without labels, on images that are not learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.objective import Objective, Restored
from pathotune_pipeline.tuning.pretrain.rankme import rankme
from pathotune_pipeline.tuning.pretrain.restore import restoration_loss
from pathotune_pipeline.tuning.pretrain.sources import Source
from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec
from pathotune_pipeline.tuning.pretrain.triptych import write_triptychs
from pathotune_pipeline.tuning.pretrain.views import whole_views

_CHUNK = 64
_SHOWN = 6


class Watch:
    """Watched images, read when they are first needed."""

    def __init__(self, source: Source, spec: PretrainSpec, device: torch.device) -> None:
        self._source, self._spec, self._device = source, spec, device
        self._images: Tensor | None = None

    @torch.no_grad()
    def measure(self, objective: Objective, step: int, picture: Path | None = None) -> dict[str, Any]:
        """One line of checks.csv, and a picture of some of the images as they come back.

        Returns:
            step; watched_loss: the restoration loss of whole watched images; constant_loss: that of the constant
            patch that fits them best, so that a network which has learnt nothing comes to about this; rankme: of the
            features of those images. Losses and rankme are None where nothing is watched.
        """
        if self._images is None:
            self._images = torch.from_numpy(self._source.watched(self._spec.watch_images))
        if len(self._images) < 2:
            return {"step": step, "watched_loss": None, "constant_loss": None, "rankme": None}
        objective.eval()
        moments, losses, features = _Moments(), [], []
        for number, chunk in enumerate(self._images.split(_CHUNK)):
            views = whole_views(chunk.to(self._device), objective.trunk.input_px)
            restored = objective.restore(views, Draws(self._spec.seed, -1 - number, rows=len(chunk)))
            losses.append(restoration_loss(restored.patches, restored.target, restored.taken) * restored.taken.sum())
            moments.add(restored.target[restored.taken > 0])
            if picture and number == 0:
                some = Restored(
                    *(part[:_SHOWN] for part in (restored.patches, restored.target, restored.taken, restored.given))
                )
                write_triptychs(picture, views[:_SHOWN], some, objective.trunk, patch_norm=objective.patch_norm)
            features.append(objective.embed(views).float().cpu())
        return {
            "step": step,
            "watched_loss": float(torch.stack(losses).sum()) / moments.count,
            "constant_loss": moments.variance(),
            "rankme": rankme(torch.cat(features)),
        }


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
