"""DTFD-MIL (Zhang et al. 2022, "Double-Tier Feature Distillation Multiple Instance Learning")."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.heads.attention import AttentionScores, weighted_sums
from pathotune_pipeline.heads.blocks import embed
from pathotune_pipeline.heads.head import Criterion, HeadOutput, HeadSpec, MILHead, detached, targets_of
from pathotune_pipeline.heads.streaming import OnlinePool, TileChunks
from pathotune_pipeline.spec import setting


class DTFDSpec(HeadSpec):
    """Settings of DTFD-MIL; the defaults are those of the authors' code."""

    hidden: int = setting(512, "Width of the instance embedding.", ge=1)
    attention_dim: int = setting(128, "Width of both attentions' hidden layers.", ge=1)
    pseudo_bags: int = setting(4, "Random parts that a bag is cut into.", ge=1)
    distill: Literal["AFS", "MaxS", "MaxMinS"] = setting(
        "AFS", "What a part hands to the second tier: its weighted sum, its highest tiles, or highest and lowest."
    )
    instances: int = setting(1, "Tiles of either kind that MaxS and MaxMinS take from a part.", ge=1)
    dropout: float = setting(0.0, "Dropout before both classifiers.", ge=0, lt=1)
    seed: int = setting(0, "Seed of the parts outside training.", ge=0)


class Tier(nn.Module):
    """Gated attention pooling and a classifier."""

    def __init__(self, dim: int, width: int, n_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.attention = AttentionScores(dim, width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, n_classes)

    def forward(self, hidden: Tensor, scores: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [n, M], and their scores [n, 1] where known, to logits [1, C], pooled [1, M] and weights [n, 1]."""
        weights = (self.attention(hidden) if scores is None else scores).softmax(dim=0)
        pooled = weighted_sums(weights, hidden)
        return self.classifier(self.dropout(pooled)), pooled, weights


class DTFD(MILHead):
    """A bag is cut at random into pseudo-bags; each is pooled and judged; what they distil is pooled and judged again.

    h = ReLU(Linear(x)), no bias. First tier: attention pooling of each pseudo-bag, which has the bag's label. Its
    class activations W (a_n h_n), through a softmax over classes, order a pseudo-bag's tiles for MaxS and MaxMinS.
    Second tier: attention pooling of what was distilled. The second tier's loss stops at its input: the authors
    drop that gradient, by two optimisers.

    In training the parts are drawn anew each time from torch's random state. Outside training they hang on `seed`
    and the number of tiles alone, so a bag's answer is always the same; as they are random parts of a sequence, the
    order of tiles matters (but for one pseudo-bag).

    Departures: for three classes and more, tiles are ordered by the class that their pseudo-bag is taken for (the
    authors take the last class, which is the positive one of two); no more parts than tiles, and no tile counts
    twice in MaxMinS; one optimiser clips both tiers' gradients together; the learning rate does not step down.

    Attention is the share that a tile has in what the second tier sums: its weight in the pseudo-bag times the
    pseudo-bag's (AFS), or its own second weight, zero for tiles not chosen (MaxS, MaxMinS). It sums to 1.
    """

    Settings: ClassVar[type[HeadSpec]] = DTFDSpec
    settings: DTFDSpec
    applies_scale: ClassVar[bool] = True
    # Published: Adam 1e-4, weight decay 1e-4, clipped at 5, batch 1, 200 epochs, the best after 80 % of them.
    preset: ClassVar[TrainSpec] = TrainSpec(
        optimizer="adam", lr=1e-4, weight_decay=1e-4, grad_clip=5.0, epochs=200, min_epochs=50, patience=20
    )

    def __init__(self, in_dim: int, n_classes: int, settings: DTFDSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        self.embed = nn.Sequential(nn.Linear(in_dim, settings.hidden, bias=False), nn.ReLU())
        width, rate = settings.attention_dim, settings.dropout
        self.first = Tier(settings.hidden, width, n_classes, dropout=rate)
        self.second = Tier(settings.hidden, width, n_classes, dropout=rate)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C] of the second tier, and attention, which sums to 1 over each bag."""
        return self._read(batch)[0]

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag, a chunk of tiles at a time; of all tiles only scores and class activations are kept."""
        parts = [part.to(tiles.device) for part in self._parts(len(tiles))]
        owner = torch.empty(len(tiles), dtype=torch.int64, device=tiles.device)
        for number, part in enumerate(parts):
            owner[part] = number
        pools = [OnlinePool() for _ in parts]
        scores, activations, start = [], [], 0
        for chunk in tiles:
            hidden = embed(self.embed, chunk)
            scores.append(self.first.attention(hidden))
            activations.append(hidden @ self.first.classifier.weight.mT)
            mine = owner[start : start + len(hidden)]
            for number, pool in enumerate(pools):
                pool.add(scores[-1][mine == number], hidden[mine == number])
            start += len(hidden)
        every_score, every_activation = torch.cat(scores), torch.cat(activations)
        distilled, origins = [], []
        for part, pool in zip(parts, pools, strict=True):
            weights = every_score[part].softmax(dim=0)  # [n, 1]
            if self.settings.distill == "AFS":
                distilled.append(pool.pooled())
                origins.append((part, weights[:, 0]))
            else:
                logits = self.first.classifier(pool.pooled())
                chosen = part[self._select(weights * every_activation[part], logits)]
                distilled.append(embed(self.embed, tiles.take(chosen)))
                origins.extend((row[None], weights.new_ones(1)) for row in chosen)
        logits, attention = self._second_tier(torch.cat(distilled), origins, len(tiles))
        return HeadOutput(logits, [attention])

    def losses(self, batch: BagBatch, criterion: Criterion) -> dict[str, Tensor]:
        """{"bag": the second tier's, "pseudo": the first tier's, mean over pseudo-bags}."""
        output, first = self._read(batch)
        targets = targets_of(batch)
        counts = torch.tensor([len(each) for each in first], device=targets.device)
        repeated = targets.repeat_interleave(counts, dim=0)
        return {"bag": criterion(output.logits, targets), "pseudo": criterion(torch.cat(first), repeated)}

    def _read(self, batch: BagBatch) -> tuple[HeadOutput, list[Tensor]]:
        self.check(batch)
        embedded = embed(self.embed, batch)  # [sum of N, M]
        scores = self.first.attention(embedded)  # [sum of N, 1]
        bags = [self._bag(h, s) for h, s in zip(batch.split(embedded), batch.split(scores), strict=True)]
        logits, attention, first = zip(*bags, strict=True)
        return HeadOutput(torch.cat(logits), detached(list(attention))), list(first)

    def _bag(self, hidden: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        firsts, distilled, origins = [], [], []
        for part in self._parts(len(hidden)):
            rows = part.to(hidden.device)
            logits, pooled, weights = self.first(hidden[rows], scores[rows])
            firsts.append(logits)
            if self.settings.distill == "AFS":
                distilled.append(pooled)
                origins.append((rows, weights[:, 0].detach()))
            else:
                activations = (weights.to(hidden.dtype) * hidden[rows]) @ self.first.classifier.weight.mT  # [n, C]
                chosen = rows[self._select(activations.detach(), logits.detach())]
                distilled.append(hidden[chosen])
                origins.extend((row[None], weights.new_ones(1)) for row in chosen)
        logits, attention = self._second_tier(torch.cat(distilled), origins, len(hidden))
        return logits, attention, torch.cat(firsts)

    def _second_tier(self, distilled: Tensor, origins: list[tuple[Tensor, Tensor]], n: int) -> tuple[Tensor, Tensor]:
        """Logits [1, C], and each tile's share [n]: its weight in what was distilled times that one's own."""
        logits, _, weights = self.second(distilled.detach())
        attention = weights.new_zeros(n)
        for (rows, inside), outside in zip(origins, weights[:, 0].detach(), strict=True):
            attention[rows] = inside * outside
        return logits, attention

    def _parts(self, n: int) -> tuple[Tensor, ...]:
        generator = None if self.training else torch.Generator().manual_seed(self.settings.seed)
        return torch.randperm(n, generator=generator).tensor_split(min(n, self.settings.pseudo_bags))

    def _select(self, activations: Tensor, logits: Tensor) -> Tensor:
        """Rows of a pseudo-bag that MaxS or MaxMinS takes, from its class activations [n, C]."""
        if self.n_classes > 1:
            activations = activations.softmax(dim=1)
        kind = int(logits.argmax()) if self.n_classes > 2 else -1
        order = activations[:, kind].argsort(descending=True, stable=True)
        few = self.settings.instances
        if self.settings.distill == "MaxS":
            return order[:few]
        return torch.cat([order[:few], order[max(few, len(order) - few) :]])
