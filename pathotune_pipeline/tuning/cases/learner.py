"""A modal network and its loss as `engine.fit` wants them, and the cases that it learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from pathotune_pipeline.adapt.modal.adapter import ModalCase, ModalNetwork
from pathotune_pipeline.adapt.modal.losses import LOSS_SCALE, task_divergences
from pathotune_pipeline.tuning.cases.labels import CaseLabels
from pathotune_pipeline.tuning.cases.material import CaseMaterial

_DRAW = 0xCA5E5


@dataclass(frozen=True, slots=True, eq=False)
class CaseBatch:
    """One case.

    Attributes:
        case: as the network takes it.
        targets: float32 [T, out_dim].
        told: bool [T].
    """

    case: ModalCase
    targets: Tensor
    told: Tensor


class CaseLearner(nn.Module):
    """The adapter of a network; the frozen slide encoder is no submodule, so it is neither saved nor moved to training."""

    def __init__(self, network: ModalNetwork) -> None:
        super().__init__()
        self.adapter = network.adapter
        self._network = (network,)  # in a tuple, so that the frozen part is no submodule

    @property
    def network(self) -> ModalNetwork:
        """The whole network."""
        return self._network[0]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """The adapter as told; the slide encoder stays as in use."""
        super().train(mode)
        self.network.train(mode)
        return self

    def losses(self, batch: CaseBatch) -> dict[str, Tensor]:
        """Ten times the divergence of each task; 0 for one whose text says nothing of the case."""
        case = batch.case
        embeddings = self.network(case.features, case.coords, case.stride_px, genes=case.genes, clinical=case.clinical)
        each = LOSS_SCALE * torch.where(batch.told, task_divergences(embeddings, batch.targets), 0.0)
        return dict(zip(self.network.spec.tasks, each, strict=True))


class CaseBatches:
    """An epoch's cases in an order, and each one's tiles, that seed and epoch decide."""

    def __init__(self, material: CaseMaterial, labels: CaseLabels, ids: Sequence[str], *, seed: int) -> None:
        self._material, self._labels, self._ids, self._seed = material, labels, tuple(ids), seed
        self._place = {case: place for place, case in enumerate(labels.ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, epoch: int) -> _Epoch:
        return _Epoch(self, epoch)

    def walk(self, epoch: int) -> Iterator[CaseBatch]:
        """The cases of an epoch."""
        for number in np.random.default_rng([self._seed, _DRAW, epoch]).permutation(len(self._ids)).tolist():
            yield self.batch(self._ids[number], key=(self._seed, epoch, number))

    def batch(self, case_id: str, *, key: Sequence[int] = ()) -> CaseBatch:
        """One case; `key` as for `CaseMaterial.given`."""
        place, device = self._place[case_id], self._material.device
        return CaseBatch(
            self._material.given(case_id, key=key),
            self._labels.targets[place].to(device),
            self._labels.told[place].to(device),
        )

    def mean_loss(self, learner: CaseLearner) -> float:
        """The mean over the cases of what is minimised, in evaluation mode, on the tiles that embeddings are made of."""
        totals = []
        training = learner.training
        learner.eval()
        with torch.no_grad():
            for case_id in self._ids:
                totals.append(float(torch.stack(list(learner.losses(self.batch(case_id)).values())).sum()))
        learner.train(training)
        return float(np.mean(totals))


@dataclass(frozen=True, slots=True)
class _Epoch:
    batches: CaseBatches
    epoch: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[CaseBatch]:
        return self.batches.walk(self.epoch)


@torch.no_grad()
def embed_cases(network: ModalNetwork, material: CaseMaterial, ids: Sequence[str]) -> np.ndarray:
    """Embeddings of cases with whatever is known of them, float32 [N, T, out_dim].

    Args:
        network: put into evaluation mode, and back.
        material: what is known.
        ids: cases of which anything is.

    Raises:
        UsageError: nothing is known of a case.
    """
    training = network.training
    network.eval()
    rows = [np.zeros((0, len(network.spec.tasks), network.spec.out_dim), np.float32)]
    for case_id in ids:
        case = material.given(case_id)
        found = network(case.features, case.coords, case.stride_px, genes=case.genes, clinical=case.clinical)
        rows.append(found.float().cpu().numpy()[None])
    network.train(training)
    return np.concatenate(rows)
