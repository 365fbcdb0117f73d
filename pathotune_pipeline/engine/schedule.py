"""The learning rate's course over the epochs."""

from __future__ import annotations

import math

from pathotune_pipeline.engine.spec import TrainSpec


def lr_factor(spec: TrainSpec, epoch: int) -> float:
    """The share of `spec.lr` that epoch `epoch` (from 0) trains with.

    Rises linearly over `warmup_epochs`; then stays at 1 ("constant"), or falls along half a cosine that would
    reach 0 one epoch after the last ("cosine"), so that every epoch still learns.
    """
    if epoch < spec.warmup_epochs:
        return (epoch + 1) / (spec.warmup_epochs + 1)
    if spec.schedule == "constant":
        return 1.0
    length = max(1, spec.epochs - spec.warmup_epochs)
    return 0.5 * (1.0 + math.cos(math.pi * (epoch - spec.warmup_epochs) / length))
