"""ABMIL: attention-based pooling (Ilse, Tomczak, Welling 2018, "Attention-based Deep Multiple Instance Learning")."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.heads.blocks import attention_pool, embed
from pathotune_pipeline.heads.head import HeadOutput, HeadSpec, MILHead, detached
from pathotune_pipeline.heads.streaming import OnlinePool, TileChunks
from pathotune_pipeline.spec import setting


class ABMILSpec(HeadSpec):
    """Settings of ABMIL; the defaults are the published ones."""

    gated: bool = setting(True, "Gate the attention with a sigmoid branch (equation 9); else equation 8.")
    hidden: int = setting(500, "Width of the instance embedding.", ge=1)
    attention_dim: int = setting(128, "Width of the attention's hidden layer.", ge=1)
    embed: bool = setting(True, "Embed instances with Linear and ReLU; else features are taken as embedded already.")
    dropout: float = setting(0.0, "Dropout on embedded instances; the published model has none.", ge=0, lt=1)


class UngatedABMILSpec(ABMILSpec):
    """Settings of ABMIL without the gate."""

    gated: bool = setting(False, "Gate the attention with a sigmoid branch (equation 9); else equation 8.")


class ABMIL(MILHead):
    """h = ReLU(Linear(x)); a = softmax over the bag of w(tanh(V h) * sigmoid(U h)); z = sum of a h; logits = Linear(z).

    V, U and w have biases, as in the authors' code and unlike the paper's equations. With `n_classes=1` and a
    sigmoid it is the published binary classifier. Departures: any number of classes; instances are features of a
    frozen encoder, so that the small CNN before the embedding is gone.
    """

    Settings: ClassVar[type[HeadSpec]] = ABMILSpec
    applies_scale: ClassVar[bool] = True
    # Published: Adam 5e-4, weight decay 1e-4, 20 epochs, batch 1. More epochs here, ended by the validation loss.
    preset: ClassVar[TrainSpec] = TrainSpec(
        optimizer="adam", lr=5e-4, weight_decay=1e-4, epochs=60, min_epochs=40, patience=10
    )

    def __init__(self, in_dim: int, n_classes: int, settings: ABMILSpec) -> None:
        super().__init__(in_dim, n_classes, settings)
        hidden, width = (settings.hidden if settings.embed else in_dim), settings.attention_dim
        self.embed = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU()) if settings.embed else nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)
        self.attention_v = nn.Linear(hidden, width)
        self.attention_u = nn.Linear(hidden, width) if settings.gated else None
        self.attention_w = nn.Linear(width, 1)
        self.classifier = nn.Linear(hidden, n_classes)

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits [B, C] and attention, which sums to 1 over each bag."""
        self.check(batch)
        hidden = self.dropout(embed(self.embed, batch))  # [sum of N, M]
        # A product per bag is faster than a scatter over segments (0.04 against 0.11 s for 100 000 x 500 on two
        # cores), and has no atomics that would make CUDA vary.
        layers = (self.attention_v, self.attention_u, self.attention_w)
        pooled, weights = attention_pool(hidden, batch.sizes, *layers)  # [B, 1, M], [N, 1]
        return HeadOutput(self.classifier(pooled[:, 0]), detached([each[:, 0] for each in weights]))

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """One bag, a chunk of tiles at a time."""
        pool = OnlinePool()
        for chunk in tiles:
            hidden = embed(self.embed, chunk)
            pool.add(self._scores(hidden), hidden)
        return HeadOutput(self.classifier(pool.pooled()), [pool.weights()[:, 0]])

    def _scores(self, hidden: Tensor) -> Tensor:
        features = self.attention_v(hidden).tanh()  # [N, L]
        if self.attention_u is not None:
            features = features * self.attention_u(hidden).sigmoid()
        return self.attention_w(features)  # [N, 1]


class UngatedABMIL(ABMIL):
    """ABMIL with a = softmax over the bag of w(tanh(V h)), equation 8 of the paper."""

    Settings: ClassVar[type[HeadSpec]] = UngatedABMILSpec
