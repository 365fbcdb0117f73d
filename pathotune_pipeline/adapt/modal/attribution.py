"""Which pathways and which tiles a case's score comes from: gradient times input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pathotune_pipeline.adapt.modal.adapter import ModalCase, ModalNetwork
from pathotune_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class ModalAttribution:
    """Shares in a score s = direction . embedding, to first order around the case as it is.

    Attributes:
        score: s.
        pathways: float32 [P], for each pathway the sum over its genes of z ds/dz, z the standardised expression as that
            pathway's network takes it: above 0 where expression off the training mean raises s. None without expression.
        tiles: float32 [N], for each tile (f - m) . ds/df, f its features and m their mean over the case: above 0 where
            what sets the tile apart from the others raises s. None without tiles.
    """

    score: float
    pathways: torch.Tensor | None
    tiles: torch.Tensor | None


def attribute(network: ModalNetwork, case: ModalCase, *, direction: torch.Tensor, task: int) -> ModalAttribution:
    """Attributions of a case. The network is left as it is; no gradient is kept on its parameters.

    They are slopes of s, not its parts: the pathways' sum is what s gains per unit if all standardised expression grows
    in proportion. Nothing is said of cause.

    Args:
        network: in eval mode.
        case: with any of its modalities.
        direction: float [out_dim], what turns an embedding into a score: coefficients of a Cox or logistic model.
        task: number of the task.

    Raises:
        UsageError: the network is in training mode, where dropout would draw the answer; another length of the direction;
            a case that `ModalNetwork.inputs` refuses.
    """
    if network.training:
        raise UsageError(
            "attribute: the network is in training mode, where dropout decides with it. Call eval() first."
        )
    if direction.shape != (network.spec.out_dim,):
        raise UsageError(
            f"attribute: the direction must be [{network.spec.out_dim}], as embeddings are; found {tuple(direction.shape)}."
        )
    with torch.enable_grad():
        asked = None if case.features is None else case.features.detach().clone().requires_grad_(True)
        inputs = network.inputs(replace(case, features=asked))
        if inputs.memberships is not None:
            inputs.memberships.requires_grad_(True)
        score = network.read(inputs, [task]).embedding[0] @ direction.to(network.adapter.absent_image)
        wanted = [each for each in (inputs.memberships, asked) if each is not None]
        slopes = iter(torch.autograd.grad(score, wanted, allow_unused=True) if wanted else ())
    pathways = tiles = None
    if inputs.memberships is not None:
        pathways = _by_pathway(network, inputs.memberships.detach() * _slope(next(slopes), inputs.memberships))
    if asked is not None:
        plain = asked.detach()
        tiles = ((plain - plain.mean(0)) * _slope(next(slopes), plain)).sum(1).float()
    return ModalAttribution(float(score.detach()), pathways, tiles)


def _slope(slope: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if slope is None else slope


def _by_pathway(network: ModalNetwork, shares: torch.Tensor) -> torch.Tensor:
    """Sums over the memberships of each pathway: [E] -> [P]."""
    table = network.pathways
    lengths = [len(held) for held in table.members] if table is not None else []
    return torch.stack([part.sum() for part in shares.split(lengths)]).float()
