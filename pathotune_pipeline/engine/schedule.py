"""The learning rate's course over the epochs, or over the steps."""

from __future__ import annotations

import math

from pathotune_pipeline.engine.spec import TrainSpec


def lr_factor(spec: TrainSpec, epoch: int, *, step: int = 0, steps: int = 1) -> float:
    """The share of `spec.lr` that a step trains with.

    Rises linearly over `warmup_epochs`; then stays at 1 ("constant"), or falls along half a cosine that would
    reach 0 one step after the last ("cosine"), so that every step still learns. With one step an epoch, as by
    default, these are epochs.

    Args:
        spec: schedule and epochs.
        epoch: from 0.
        step: of the optimiser in that epoch, from 0.
        steps: of an epoch.
    """
    done, rise, length = epoch * steps + step, spec.warmup_epochs * steps, spec.epochs * steps
    if done < rise:
        return (done + 1) / (rise + 1)
    if spec.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (done - rise) / max(1, length - rise)))
