"""Mean and deviation of features, measured once a bag and put together for any training part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pathotune_pipeline.bags.bag import Bag, as_stored
from pathotune_pipeline.errors import UsageError

ROWS = 4096
"""Rows that are turned to float64 at a time."""


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
    found = joined(_of_block(rows) for rows in features.split(ROWS))
    if not bool((found.mean + found.spread).isfinite().all()):
        raise UsageError(f"bag {bag_id} has features that are not finite. Extract it again, or leave it out.")
    return Moments(found.count, found.mean.cpu(), found.spread.cpu())


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


def _of_block(rows: Tensor) -> Moments:
    wide = rows.to(torch.float64, copy=True)  # [n, D]
    mean = wide.mean(dim=0)
    return Moments(len(wide), mean, wide.sub_(mean).square_().sum(dim=0))
