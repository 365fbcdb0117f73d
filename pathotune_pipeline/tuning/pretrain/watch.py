"""Measures without labels, on images that are not learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathotune_pipeline.tuning.pretrain.draws import WATCHED_AT_ONCE, Draws
from pathotune_pipeline.tuning.pretrain.objective import Objective
from pathotune_pipeline.tuning.pretrain.rankme import rankme
from pathotune_pipeline.tuning.pretrain.sources import Source
from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec
from pathotune_pipeline.tuning.pretrain.views import whole_views


class Watch:
    """Watched images, read when they are first needed."""

    def __init__(self, source: Source, spec: PretrainSpec, device: torch.device) -> None:
        self._source, self._spec, self._device = source, spec, device
        self._images: Tensor | None = None

    @torch.no_grad()
    def measure(self, objective: Objective, step: int, picture: Path | None = None) -> dict[str, Any]:
        """One line of checks.csv, and a picture of some of the images as they come back.

        Returns:
            step; watched_loss: the method's loss on whole watched images; constant_loss: that of the constant answer
            that fits them best, so that a network which has learnt nothing comes to about this; rankme: of the
            features of those images. Losses and rankme are None where nothing is watched, losses also where the
            method has no such measure.
        """
        if self._images is None:
            self._images = torch.from_numpy(self._source.watched(self._spec.watch_images))
        if len(self._images) < 2:
            return {"step": step, "watched_loss": None, "constant_loss": None, "rankme": None}
        objective.eval()
        judge, features = objective.judge(), []
        for number, chunk in enumerate(self._images.split(WATCHED_AT_ONCE)):
            views = whole_views(chunk.to(self._device), objective.trunk.input_px)
            judge.add(views, Draws(self._spec.seed, -1 - number, rows=len(chunk)), None if number else picture)
            features.append(objective.embed(views).float().cpu())
        loss, constant = judge.losses()
        return {
            "step": step,
            "watched_loss": loss,
            "constant_loss": constant,
            "rankme": rankme(torch.cat(features)),
        }
