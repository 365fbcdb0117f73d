"""Mean and deviation of features, measured once a bag and put together for any training part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pathotune_pipeline.bags.bag import Bag, as_stored
from pathotune_pipeline.errors import UsageError

ROWS = 1024
"""Rows whose sums are taken in the features' own precision, at least float32, before float64 takes them up."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of each feature over some instances.

    Attributes:
        count: instances.
        mean: [D] float64.
        spread: sum of squares about the mean, [D] float64.
    """

    count: int
    mean: Tensor
    spread: Tensor

    def joined(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub, LeVeque 1979, so that large offsets lose no digits)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        spread = self.spread + other.spread + shift.square() * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), spread)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each [D] float64; a feature that does not vary gets deviation 1."""
        std = (self.spread / self.count).sqrt()
        flat = std <= 1e-6 * self.mean.abs().clamp(min=1e-6)
        return self.mean, torch.where(flat, 1.0, std)


def measure(features: Tensor, bag_id: str) -> Moments:
    """Moments of a bag's features [N, D], on the CPU.

    Raises:
        UsageError: one is not finite; the message names the bag.
    """
    if features.device.type == "mps":  # which knows no float64
        features = features.cpu()
    wide = torch.promote_types(features.dtype, torch.float32)
    # About a point near the mean, so that squares lose no digits.
    centre = features[:ROWS].to(wide).mean(dim=0)  # [D]
    total, squares = (torch.zeros_like(centre, dtype=torch.float64) for _ in range(2))
    for rows in features.split(ROWS):
        away = rows.to(wide, copy=True).sub_(centre)  # [n, D]
        total += away.sum(dim=0)
        squares += away.square_().sum(dim=0)
    count = len(features)
    mean, spread = centre.double() + total / count, (squares - total.square() / count).clamp_(min=0)
    if not bool((mean + spread).isfinite().all()):
        raise UsageError(f"bag {bag_id} has features that are not finite. Extract it again, or leave it out.")
    return Moments(count, mean.cpu(), spread.cpu())


def joined(parts: Iterable[Moments]) -> Moments:
    """Of all parts together, in their order; at least one."""
    rest = iter(parts)
    total = next(rest)
    for part in rest:
        total = total.joined(part)
    return total


def feature_scale(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature over all instances of the bags, each [D] float32, summed in float64.

    A feature that does not vary gets deviation 1.

    Raises:
        UsageError: a feature is not finite; the message names the bag.
    """
    mean, std = joined(measure(as_stored(bag.features), bag.bag_id) for bag in bags).scale()
    return mean.float(), std.float()
