"""The loss of text labels: embeddings of a case against its projected texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LOSS_SCALE = 10.0


def task_divergences(embeddings: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """KL(softmax(t / temperature) || softmax(e / temperature)) of unit vectors t and e, for each task.

    Args:
        embeddings: float [T, d], of the network; made unit vectors here.
        targets: float [T, d], projected texts; made unit vectors here, and no gradient reaches them.
        temperature: 1 as published.

    Returns:
        float32 [T], 0 where both point the same way.
    """
    said = F.log_softmax(F.normalize(embeddings.float(), dim=-1) / temperature, -1)
    told = F.log_softmax(F.normalize(targets.detach().float(), dim=-1) / temperature, -1)
    return F.kl_div(said, told, reduction="none", log_target=True).sum(-1)


def text_loss(
    embeddings: torch.Tensor, targets: torch.Tensor, *, told: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """What is minimised for a case: ten times the sum over its tasks.

    Args:
        embeddings: float [T, d].
        targets: float [T, d].
        told: bool [T], the tasks about which the case's text says something; None for all. Others add nothing.
        temperature: of `task_divergences`.

    Returns:
        float32 scalar; 0, with gradients of 0, where no task is told.
    """
    divergences = task_divergences(embeddings, targets, temperature=temperature)
    if told is not None:
        divergences = torch.where(told.to(divergences.device), divergences, 0.0)
    return LOSS_SCALE * divergences.sum()
