"""DSMIL (Li, Li, Eliceiri 2021, "Dual-stream Multiple Instance Learning Network")."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.heads.attention import attention_to_predicted, weighted_sums
from pathotune_pipeline.heads.head import Criterion, HeadOutput, HeadSpec, MILHead, detached, targets_of
from pathotune_pipeline.heads.streaming import OnlinePool, TileChunks
from pathotune_pipeline.spec import setting


class DSMILSpec(HeadSpec):
    """Settings of DSMIL; the defaults are those of the authors' code."""

    query: Literal["mlp", "linear"] = setting("mlp", "Queries: Linear, ReLU, Linear, tanh; or one linear layer.")
    query_dim: int = setting(128, "Width of the queries.", ge=1)
    values: Literal["identity", "linear", "relu"] = setting(
        "identity", "What the attention sums: features as they are, after a linear layer, or after that and ReLU."
    )
    dropout: float = setting(0.0, "Dropout before the values' layer.", ge=0, lt=1)
    bag_share: float = setting(0.5, "Share of the bag stream's loss; the instance stream has the rest.", gt=0, le=1)
    average: bool = setting(
        False, "Answer with the mean of both streams, as the paper's equation 7; else with the bag stream alone."
    )


class DSMIL(MILHead):
    """Two streams: the highest instance of each class, and attention by likeness to that instance.

    c = Linear(x); the critical instance m of a class has its highest c; a = softmax over the bag of
    q(x) q(x_m) / sqrt(d); b = sum of a v(x), for each class; logits: each class's convolution over all classes' b.
    Loss: half on these logits, half on the classes' highest c. Weights start orthogonal, biases at zero.

    Departures: both streams take the training's own loss (for one logit the published one; for more, softmax where
    the authors have a sigmoid for each class); the critical instance is each class's own (an early version of the
    authors' code lost it after the first class); Adam's betas are the usual (0.9, 0.999), the authors' (0.5, 0.9);
    the learning rate falls to 0, the authors' to 5e-6. The attention handed out is that of the class the bag is
    taken for.
    """

    Settings: ClassVar[type[HeadSpec]] = DSMILSpec
    settings: DSMILSpec
    # Published: Adam 1e-4, weight decay 1e-3, batch 1, 50 epochs, cosine.
    preset: ClassVar[TrainSpec] = TrainSpec(
        optimizer="adam", lr=1e-4, weight_decay=1e-3, epochs=50, schedule="cosine", patience=0
    )

    def __init__(self, in_dim: int, n_classes: int, settings: DSMILSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        width = settings.query_dim
        self.instance_classifier = nn.Linear(in_dim, n_classes)
        layers: list[nn.Module] = [nn.Linear(in_dim, width)]
        if settings.query == "mlp":
            layers += [nn.ReLU(), nn.Linear(width, width), nn.Tanh()]
        self.query = nn.Sequential(*layers)
        self.values = nn.Sequential()
        if settings.values != "identity":
            self.values.extend([nn.Dropout(settings.dropout), nn.Linear(in_dim, in_dim)])
        if settings.values == "relu":
            self.values.append(nn.ReLU())
        self.classifier = nn.Linear(n_classes * in_dim, n_classes)  # a convolution whose kernel is as wide as b
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C] and attention, which sums to 1 over each bag."""
        bag, highest, weights = self._streams(batch)
        return self._answer(bag, highest, weights)

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag, a chunk of tiles at a time; twice, for the critical instances must be known first."""
        highest, rows = [], []
        for chunk in tiles:
            features = chunk.scaled().features
            top = self.instance_classifier(features).max(dim=0)  # of each class, [C]
            highest.append(top.values)
            rows.append(features[top.indices])  # [C, D]
        best = torch.stack(highest).max(dim=0)
        columns = torch.arange(self.n_classes, device=best.indices.device)
        critical = self.query(torch.stack(rows)[best.indices, columns])  # [C, d]
        pool = OnlinePool()
        for chunk in tiles:
            features = chunk.scaled().features
            pool.add(self._likeness(self.query(features), critical), self.values(features))
        # Of each class its own sum, one after the other: [1, C * D].
        return self._answer(self.classifier(pool.pooled().reshape(1, -1)), best.values[None], [pool.weights()])

    def _answer(self, bag: Tensor, highest: Tensor, weights: list[Tensor]) -> HeadOutput:
        logits = (bag + highest) / 2 if self.settings.average else bag
        return HeadOutput(logits, detached(attention_to_predicted(weights, logits)))

    def losses(self, batch: BagBatch, criterion: Criterion) -> dict[str, Tensor]:
        """{"bag", "max"}, each with its share."""
        bag, highest, _ = self._streams(batch)
        targets, share = targets_of(batch), self.settings.bag_share
        losses = {"bag": share * criterion(bag, targets)}
        if share < 1:
            losses["max"] = (1 - share) * criterion(highest, targets)
        return losses

    def _streams(self, batch: BagBatch) -> tuple[Tensor, Tensor, list[Tensor]]:
        self.check(batch)
        scores = self.instance_classifier(batch.features)  # [sum of N, C]
        queries, values = self.query(batch.features), self.values(batch.features)
        highest, pooled, weights = [], [], []
        for c, q, v in zip(*map(batch.split, (scores, queries, values)), strict=True):
            top = c.max(dim=0)  # of each class: its logit and its instance, [C]
            weights.append(self._likeness(q, q[top.indices]).softmax(dim=0))  # [N, C]
            pooled.append(weighted_sums(weights[-1], v).flatten())  # [C * D]
            highest.append(top.values)
        return self.classifier(torch.stack(pooled)), torch.stack(highest), weights

    def _likeness(self, queries: Tensor, critical: Tensor) -> Tensor:
        """[N, C], at least float32."""
        likeness = queries @ critical.mT / math.sqrt(queries.shape[1])
        return likeness.to(torch.promote_types(likeness.dtype, torch.float32))
