"""TrainSpec: how a model is trained."""

from __future__ import annotations

from typing import Literal

from pathotune_pipeline.spec import Spec, setting


class TrainSpec(Spec):
    """Optimiser, schedule and stopping rule of one training run."""

    epochs: int = setting(50, "Largest number of passes over the training data.", ge=1)
    lr: float = setting(1e-4, "Learning rate at its highest.", gt=0)
    weight_decay: float = setting(
        1e-5, "Weight decay: added to the gradient by adam, decoupled from it by adamw and radam.", ge=0
    )
    decay_vectors: bool = setting(True, "Decay biases and other parameters of one dimension too.")
    optimizer: Literal["adam", "adamw", "radam"] = setting("adam", "Optimiser: adam, adamw or radam.")
    beta2: float = setting(0.999, "How slowly the optimiser's mean of squared gradients forgets.", gt=0, lt=1)
    lookahead: bool = setting(False, "Pull the weights back towards a slow copy of themselves (Lookahead).")
    lookahead_steps: int = setting(6, "Optimiser steps between two pulls of Lookahead.", ge=1)
    lookahead_alpha: float = setting(0.5, "Share of the way the slow copy moves at each pull.", gt=0, le=1)
    accumulate: int = setting(1, "Batches whose gradients are averaged into one optimiser step.", ge=1)
    patience: int = setting(10, "Epochs without a better validation value before stopping; 0 never stops early.", ge=0)
    min_epochs: int = setting(0, "Epochs that are trained whatever the validation says.", ge=0)
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "Learning rate over the epochs: constant, or cosine down to zero."
    )
    warmup_epochs: int = setting(0, "Epochs over which the learning rate rises linearly to its highest.", ge=0)
    per_step: bool = setting(False, "Move the learning rate at every step of the optimiser, not at every epoch.")
    grad_clip: float = setting(0.0, "Largest gradient norm; 0 does not clip.", ge=0)
    seed: int = setting(0, "Seed of everything random in the training.", ge=0)
    precision: Literal["fp32", "bf16"] = setting("fp32", "fp32, or bf16 autocast with fp32 weights.")
