"""RankMe: how many directions features really use, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-7


def rankme(features: Tensor) -> float:
    """The exponential of the entropy of the singular values (Garrido et al. 2023, "RankMe", arXiv 2210.02885).

    Args:
        features: float [N, D], as an encoder gives them.

    Returns:
        From 1, where all features lie on one line through 0, to min(N, D).
    """
    values = torch.linalg.svdvals(features.double())
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values / total + _EPS
    return float(torch.exp(-(shares * shares.log()).sum()))
