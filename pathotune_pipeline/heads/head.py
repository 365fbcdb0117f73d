"""MILHead: the contract of every slide-level head, and the registry of their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.heads.streaming import TileChunks
from pathotune_pipeline.registry import Registry
from pathotune_pipeline.spec import Spec

Criterion = Callable[[Tensor, Tensor], Tensor]
"""The task's loss: logits [R, C] and their rows' targets [R, ...] to a scalar, mean over rows."""


class HeadSpec(Spec):
    """Base of a head's own settings."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadOutput:
    """What a head says of a batch.

    Attributes:
        logits: [B, C] float; one column is the logit of the positive class, two or more go through a softmax.
        attention: for each bag the weight of its instances, [N_b] float, without gradient; None where the head
            has no such thing.
    """

    logits: Tensor
    attention: list[Tensor] | None = None

    def probabilities(self) -> Tensor:
        """[B, C] float; for one logit [B, 1], the probability of the positive class."""
        return self.logits.sigmoid() if self.logits.shape[1] == 1 else self.logits.softmax(dim=1)


class MILHead(nn.Module):
    """From a batch of bags to logits. A plug-in subclasses it, names its settings, and is registered.

    Attributes:
        Settings: the Spec of its settings.
        preset: how it is trained where nothing else is said: the published recipe.
        preset_batch: bags in a batch where nothing else is said.
        applies_scale: whether the head takes batches with a `scale` and stored features; others get them ready.
        in_dim: numbers in one instance's feature.
        n_classes: logits.
    """

    Settings: ClassVar[type[HeadSpec]] = HeadSpec
    preset: ClassVar[TrainSpec] = TrainSpec()
    preset_batch: ClassVar[int] = 1
    applies_scale: ClassVar[bool] = False

    def __init__(self, in_dim: int, n_classes: int, settings: HeadSpec) -> None:
        super().__init__()
        if in_dim < 1 or n_classes < 1:
            raise UsageError(f"A head needs in_dim and n_classes of at least 1; found {in_dim} and {n_classes}.")
        self.in_dim, self.n_classes, self.settings = in_dim, n_classes, settings

    def forward(self, batch: BagBatch) -> HeadOutput:
        """Logits, and attention where there is one.

        Args:
            batch: features [sum of N, in_dim] in the head's dtype.
        """
        raise NotImplementedError

    def stream(self, tiles: TileChunks) -> HeadOutput:
        """What `forward` gives for one bag, in memory that hardly grows with its tiles. For use without gradients.

        A head that can take its bag in chunks overrides this; here the bag is taken whole.
        """
        whole = tiles.whole()
        return self(whole if self.applies_scale else whole.scaled())

    def losses(self, batch: BagBatch, criterion: Criterion) -> dict[str, Tensor]:
        """What training minimises the sum of: scalars by name, each with its share.

        A head with losses of its own (on instances, on parts of a bag, of a second stream) overrides this; it brings
        the structure, and the training brings the task's loss.

        Args:
            batch: with targets.
            criterion: the task's loss.

        Returns:
            Here {"bag": criterion of the logits}.

        Raises:
            UsageError: the batch has no targets, or not of the kind the head's own loss needs.
        """
        return {"bag": criterion(self(batch).logits, targets_of(batch))}

    def check(self, batch: BagBatch) -> None:
        """Make sure that the features fit and no bag is empty.

        Raises:
            UsageError: they do not.
        """
        if batch.features.shape[1] != self.in_dim:
            raise UsageError(f"The head takes {self.in_dim}-d features; these are {batch.features.shape[1]}-d.")
        if min(batch.sizes, default=1) < 1:
            raise UsageError("A bag has no instances. Leave it out.")


HEADS: Registry[type[MILHead]] = Registry(
    "head",
    "pathotune_pipeline.heads",
    {
        "mean": "pathotune_pipeline.heads.pool:MeanPool",
        "max": "pathotune_pipeline.heads.pool:MaxPool",
        "abmil": "pathotune_pipeline.heads.abmil:ABMIL",
        "abmil-ungated": "pathotune_pipeline.heads.abmil:UngatedABMIL",
        "clam-sb": "pathotune_pipeline.heads.clam:CLAMSB",
        "clam-mb": "pathotune_pipeline.heads.clam:CLAMMB",
        "transmil": "pathotune_pipeline.heads.transmil:TransMIL",
        "dsmil": "pathotune_pipeline.heads.dsmil:DSMIL",
        "dtfd": "pathotune_pipeline.heads.dtfd:DTFD",
        "transformer": "pathotune_pipeline.heads.transformer:Transformer",
    },
)
"""Every head by its name."""


def create_head(name: str, *, in_dim: int, n_classes: int, **settings: Any) -> MILHead:
    """A fresh head with random weights, drawn from torch's current random state.

    Args:
        name: as registered: mean, max, abmil (gated), abmil-ungated, clam-sb, clam-mb, transmil, dsmil, dtfd,
            transformer, or a plug-in's.
        in_dim: numbers in one instance's feature.
        n_classes: logits; one for a sigmoid, two or more for a softmax.
        settings: of the head's own Spec.

    Raises:
        UnknownNameError: no such head.
        SpecError: a setting has no such name or value.
    """
    kind = HEADS.get(name)
    return kind(in_dim, n_classes, kind.Settings.parse(settings, where=f"head {name}"))


def targets_of(batch: BagBatch) -> Tensor:
    """The batch's targets.

    Raises:
        UsageError: it has none.
    """
    if batch.targets is None:
        raise UsageError("The bags have no targets to train on.")
    return batch.targets


def detached(weights: list[Tensor]) -> list[Tensor]:
    """Attention as it leaves a head: without gradient, at least float32."""
    return [w.detach() if w.dtype == torch.float64 else w.detach().float() for w in weights]
