"""Mean and max pooling: the baselines that an attention head has to beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.heads.head import HeadOutput, HeadSpec, MILHead
from pathotune_pipeline.heads.streaming import TileChunks
from pathotune_pipeline.spec import setting


class MeanPoolSpec(HeadSpec):
    """Settings of mean pooling."""

    hidden: int = setting(0, "Units of a hidden ReLU layer after the mean; 0 is a linear probe.", ge=0)


class MeanPool(MILHead):
    """The mean of all instances, then a linear layer (or one hidden layer and a linear one). No attention."""

    Settings: ClassVar[type[HeadSpec]] = MeanPoolSpec
    preset: ClassVar[TrainSpec] = TrainSpec(optimizer="adamw", lr=1e-2, weight_decay=1e-2, epochs=100, patience=15)
    preset_batch: ClassVar[int] = 8

    def __init__(self, in_dim: int, n_classes: int, settings: MeanPoolSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        hidden = settings.hidden
        self.embed = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.classifier = nn.Linear(hidden or in_dim, n_classes)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C]."""
        self.check(batch)
        means = torch.stack([bag.mean(dim=0) for bag in batch])  # [B, D]
        return HeadOutput(self.classifier(self.embed(means)))

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag, a chunk of tiles at a time."""
        total = torch.stack([chunk.scaled().features.sum(dim=0) for chunk in tiles]).sum(dim=0)  # [D]
        return HeadOutput(self.classifier(self.embed(total[None] / len(tiles))))


class MaxPool(MILHead):
    """A linear classifier on every instance; each class takes its highest logit over the bag. No attention."""

    preset: ClassVar[TrainSpec] = TrainSpec(optimizer="adamw", lr=3e-3, weight_decay=1e-2, epochs=100, patience=15)
    preset_batch: ClassVar[int] = 8

    def __init__(self, in_dim: int, n_classes: int, settings: HeadSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        self.classifier = nn.Linear(in_dim, n_classes)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C]."""
        self.check(batch)
        scores = self.classifier(batch.features)  # [sum of N, C]
        # max, not amax: of equal instances one has the gradient, and not each a part of it.
        return HeadOutput(torch.stack([each.max(dim=0).values for each in batch.split(scores)]))

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag, a chunk of tiles at a time."""
        highest = [self.classifier(chunk.scaled().features).amax(dim=0) for chunk in tiles]  # [C] each
        return HeadOutput(torch.stack(highest).amax(dim=0)[None])
