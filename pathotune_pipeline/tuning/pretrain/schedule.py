"""Courses over a run, step by step: a linear rise and half a cosine for the learning rate, half a cosine for others."""

from __future__ import annotations

import math


def lr_share(step: int, *, warmup: int, total: int) -> float:
    """The share of the highest rate, above the lowest, that a step trains with.

    As MAE's reference does, both parts move with every step and not with every epoch (He et al. 2022, "Masked
    Autoencoders Are Scalable Vision Learners", arXiv 2111.06377).

    Args:
        step: from 0.
        warmup: steps of the rise; the first one is at 0 where there is a rise.
        total: steps of the whole run.
    """
    if step < warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def between(first: float, last: float, share: float) -> float:
    """Half a cosine from `first`, at a share of 0, to `last`, at 1."""
    return last - (last - first) * (math.cos(math.pi * share) + 1) / 2
