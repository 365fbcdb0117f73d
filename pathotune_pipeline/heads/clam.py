"""CLAM (Lu et al. 2021, "Data-efficient and weakly supervised computational pathology on whole-slide images")."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.heads.attention import AttentionScores, attention_to_predicted
from pathotune_pipeline.heads.blocks import embed
from pathotune_pipeline.heads.head import Criterion, HeadOutput, HeadSpec, MILHead, detached, targets_of
from pathotune_pipeline.heads.losses import smooth_svm_loss
from pathotune_pipeline.heads.streaming import OnlinePool, TileChunks
from pathotune_pipeline.spec import setting


class CLAMSpec(HeadSpec):
    """Settings of CLAM; the defaults are the authors' "small" model."""

    hidden: int = setting(512, "Width of the instance embedding.", ge=1)
    attention_dim: int = setting(256, "Width of the attention's hidden layer; 384 in the authors' big model.", ge=1)
    gated: bool = setting(True, "Gate the attention with a sigmoid branch.")
    dropout: float = setting(0.25, "Dropout on embedded instances and inside the attention.", ge=0, lt=1)
    instances: int = setting(
        8, "Tiles with the most and with the least attention that the instance loss looks at; 0 turns it off.", ge=0
    )
    subtyping: bool = setting(
        False, "Classes exclude each other in every tile: the other classes' most attended tiles are negatives too."
    )
    instance_loss: Literal["svm", "ce"] = setting("svm", "Instance loss: smooth top-1 SVM, or cross entropy.")
    bag_share: float = setting(0.7, "Share of the bag's loss; the instance loss has the rest.", gt=0, le=1)


class CLAMSB(MILHead):
    """Gated attention pooling with a loss on instances: one attention for all classes.

    h = dropout(ReLU(Linear(x))); a = softmax over the bag of the gated scores; logits = Linear(sum of a h). In
    training, the classifier of the bag's class on h calls its k most attended tiles positive and its k least
    attended negative; with `subtyping` each other class's classifier calls its k most attended tiles negative, and
    the sum is divided by the number of classes. Loss: 0.7 bag + 0.3 instances.

    Departures: a bag of fewer than 2 k tiles takes N // 2 of either kind, so that no tile is called both (the
    authors' code contradicts itself there, and fails for N < k); a bag of one tile has that tile as its positive.
    Tiles of equal attention are told apart by their order. `dropout` is what it says inside the attention too,
    where the authors' code takes any value for 0.25.
    """

    Settings: ClassVar[type[HeadSpec]] = CLAMSpec
    settings: CLAMSpec
    # Published: Adam 1e-4, weight decay 1e-5, batch 1, up to 200 epochs, patience 20 but not before epoch 50.
    preset: ClassVar[TrainSpec] = TrainSpec(
        optimizer="adam", lr=1e-4, weight_decay=1e-5, epochs=200, min_epochs=50, patience=20
    )
    applies_scale: ClassVar[bool] = True
    per_class: ClassVar[bool] = False

    def __init__(self, in_dim: int, n_classes: int, settings: CLAMSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        hidden, rate = settings.hidden, settings.dropout
        self.embed = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Dropout(rate))
        self.attention = AttentionScores(
            hidden,
            settings.attention_dim,
            columns=n_classes if self.per_class else 1,
            gated=settings.gated,
            dropout=rate,
        )
        self.classifier = nn.Linear(hidden, n_classes)
        self.instance_classifiers = nn.Linear(hidden, 2 * max(2, n_classes))  # rows 2 c and 2 c + 1 are class c's

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C] and attention, which sums to 1 over each bag."""
        return self._read(batch)[0]

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag, a chunk of tiles at a time."""
        pool = OnlinePool()
        for chunk in tiles:
            hidden = embed(self.embed, chunk)
            pool.add(self.attention(hidden), hidden)
        logits = self._classify(pool.pooled()[None])
        return HeadOutput(logits, attention_to_predicted([pool.weights()], logits))

    def scores(self, batch: BagBatch) -> Tensor:
        """Attention before the softmax, [sum of N, 1], or [sum of N, C] for CLAM-MB."""
        return self.attention(embed(self.embed, batch))

    def losses(self, batch: BagBatch, criterion: Criterion) -> dict[str, Tensor]:
        """{"bag", "instance"}, each with its share.

        Raises:
            UsageError: targets are not class indices.
        """
        output, hidden, weights = self._read(batch)
        targets, share = targets_of(batch), self.settings.bag_share
        losses = {"bag": share * criterion(output.logits, targets)}
        if share < 1 and self.settings.instances:
            losses["instance"] = (1 - share) * self._instance_loss(hidden, weights, targets)
        return losses

    def _read(self, batch: BagBatch) -> tuple[HeadOutput, tuple[Tensor, ...], list[Tensor]]:
        self.check(batch)
        embedded = embed(self.embed, batch)  # [sum of N, M]
        pooled, each = self.attention.pool(embedded, batch.sizes)  # [B, K, M], [N, K]
        logits, weights = self._classify(pooled), list(each)
        return HeadOutput(logits, detached(attention_to_predicted(weights, logits))), batch.split(embedded), weights

    def _classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(pooled[:, 0])  # [B, C]

    def _instance_loss(self, hidden: tuple[Tensor, ...], weights: list[Tensor], targets: Tensor) -> Tensor:
        classes = max(2, self.n_classes)
        if targets.ndim != 1 or targets.is_floating_point() or bool(((targets < 0) | (targets >= classes)).any()):
            raise UsageError(
                f"CLAM's instance loss needs one class index below {classes} for each bag. "
                "For other targets set bag_share to 1."
            )
        each = [self._of_bag(h, w, y) for h, w, y in zip(hidden, weights, targets.tolist(), strict=True)]
        return torch.stack(each).mean()

    def _of_bag(self, hidden: Tensor, weights: Tensor, target: int) -> Tensor:
        classes = max(2, self.n_classes)
        most = self.settings.instances
        few = min(most, max(1, len(hidden) // 2))
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for c in range(classes) if self.settings.subtyping else [target]:
            column = weights[:, c if self.per_class and self.n_classes > 1 else 0].detach()
            order = column.argsort(descending=True, stable=True)
            if c == target:
                bottom = order[max(few, len(order) - few) :]  # of a bag of one tile: none
                rows, ones = torch.cat([order[:few], bottom]), few
            else:
                rows, ones = order[:most], 0
            labels = (torch.arange(len(rows), device=rows.device) < ones).long()
            chosen = slice(2 * c, 2 * c + 2)
            layer = self.instance_classifiers
            total = total + self._judge(F.linear(hidden[rows], layer.weight[chosen], layer.bias[chosen]), labels)
        return total / classes if self.settings.subtyping else total

    def _judge(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.settings.instance_loss == "svm":
            return smooth_svm_loss(logits, labels)
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


class CLAMMB(CLAMSB):
    """CLAM with an attention of its own for each class; a class's logit comes from its own weighted sum.

    The attention handed out is that of the class the bag is taken for.
    """

    per_class: ClassVar[bool] = True

    def _classify(self, pooled: Tensor) -> Tensor:
        return (pooled * self.classifier.weight).sum(dim=2) + self.classifier.bias  # [B, C]
