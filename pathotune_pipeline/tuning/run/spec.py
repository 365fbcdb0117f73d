"""AdaptSpec: how an encoder is brought to a task."""

from __future__ import annotations

from typing import Literal

from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.engine.spec import TrainSpec
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tuning.patches.augment import AugmentSpec

Method = Literal["linear", "knn", "vpt-shallow", "vpt-deep", "pathotune", "lora", "partial", "full", "cnn"]
Select = Literal["loss", "balanced_accuracy"]
ADAPTERS = ("vpt-shallow", "vpt-deep", "pathotune", "lora")
"""Methods whose result is an adapter's file."""
PROBES = ("linear", "knn")
"""Methods that encode each patch once, and train nothing of the encoder."""
NETWORKS = ("partial", "full", "cnn")
"""Methods whose result is a network."""

_LR = {"lora": 2e-4, "partial": 1e-4, "full": 5e-5, "cnn": 1e-3}
_PROMPT_LR = 1e-3
_DECAY = {"lora": 0.0}
_USUAL_DECAY = 0.05


class AdaptTrainSpec(Spec):
    """How prompts, LoRA or weights learn; probes take none of it but the seed."""

    epochs: int = setting(50, "Most passes over the training patches.", ge=1)
    lr: float | None = setting(
        None,
        "Learning rate at its highest; empty: 0.001 for prompts and cnn, 0.0002 lora, 0.0001 partial, 0.00005 full.",
        gt=0,
    )
    weight_decay: float | None = setting(None, "Decoupled weight decay; empty: 0 for lora, else 0.05.", ge=0)
    warmup_epochs: int = setting(5, "Epochs over which the learning rate rises.", ge=0)
    patience: int = setting(10, "Epochs without a better validation before stopping; 0 never stops early.", ge=0)
    select: Select = setting("loss", "What of the validation chooses the epoch: loss or balanced_accuracy.")
    accumulate: int = setting(1, "Batches whose gradients make one step.", ge=1)
    grad_clip: float = setting(1.0, "Largest gradient norm; 0 does not clip.", ge=0)
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "Arithmetic of the training: fp32, or bf16 autocast.", flag="--train-precision"
    )
    seed: int = setting(0, "Seed of initial weights, batches, augmentation and dropout.", ge=0)

    def for_method(self, method: str) -> TrainSpec:
        """The training of a method, with its own rates where none are set."""
        return TrainSpec(
            epochs=self.epochs,
            lr=self.lr if self.lr is not None else _LR.get(method, _PROMPT_LR),
            weight_decay=self.weight_decay if self.weight_decay is not None else _DECAY.get(method, _USUAL_DECAY),
            decay_vectors=False,
            optimizer="adamw",
            schedule="cosine",
            per_step=True,
            warmup_epochs=self.warmup_epochs,
            patience=self.patience,
            accumulate=self.accumulate,
            grad_clip=self.grad_clip,
            precision=self.precision,
            seed=self.seed,
        )


class AdaptSpec(Spec):
    """How an encoder is brought to a task: by a probe, an adapter, or training of its weights."""

    method: Method = setting("pathotune", "linear, knn, vpt-shallow, vpt-deep, pathotune, lora, partial, full or cnn.")
    adapter: AdapterSpec = AdapterSpec()
    train: AdaptTrainSpec = AdaptTrainSpec()
    augment: AugmentSpec = AugmentSpec()
    batch: int = setting(32, "Patches in a training batch.", ge=1, le=8192)
    balance: Literal["none", "class", "group", "class-group"] = setting(
        "none", "Which patches are drawn: each once an epoch, or as many of each class, of each group, or of both."
    )
    shared_head: bool = setting(
        False, "Several tasks: one head for all, so that nothing but the text tells them apart; else one for each."
    )
    refine_lr: float = setting(
        0.1, "pathotune: share of the learning rate with which the module learns that makes instance prompts.", gt=0
    )
    partial_blocks: int = setting(2, "partial: last blocks that learn, with what follows them.", ge=1)
    layer_decay: float = setting(
        0.75, "full: each block's learning rate as a share of the next one's; 1 for all the same.", gt=0, le=1
    )
    cnn: str = setting(
        "resnet50", "cnn: a network's name in timm, which begins at random; with weights timm:NAME or local:PATH."
    )
    probe_l2: tuple[float, ...] = setting(
        (1.0, 0.1, 0.01, 0.001, 0.0001),
        "linear: penalties l2 that the validation chooses from; mean cross-entropy + l2 / 2 x squared weights.",
        min_length=1,
    )
    knn_k: tuple[int, ...] = setting(
        (20, 5, 1), "knn: numbers of neighbours that the validation chooses from.", min_length=1
    )
    checkpointing: bool = setting(
        False, "Compute activations twice rather than keep them: less memory, more time.", hashed=False
    )
    predict_batch: int = setting(
        64, "Patches in a batch where nothing is learnt.", flag="--predict-batch", hashed=False, ge=1
    )
