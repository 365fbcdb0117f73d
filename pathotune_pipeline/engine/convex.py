"""The least value of a smooth convex function, for models that are solved rather than trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_ITERATIONS = 2000


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, *, gradient: float) -> Tensor:
    """Where a function is least, by L-BFGS with a line search.

    Args:
        loss: gives a scalar for weights of `start`'s shape.
        start: where the search begins; not changed.
        gradient: largest entry of the gradient at which it ends.

    Returns:
        Weights of `start`'s shape, without gradient.
    """
    found = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [found], max_iter=_ITERATIONS, history_size=20, tolerance_grad=gradient, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        optimizer.zero_grad()
        value = loss(found)
        value.backward()
        return float(value.detach())

    optimizer.step(closure)
    return found.detach()
