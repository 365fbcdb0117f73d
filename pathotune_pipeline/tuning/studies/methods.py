"""A study's rows at work: each cell adapts an encoder to its training patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.spec import hashed_values
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.adapt import REVISION, adapt_patches
from pathotune_pipeline.tuning.run.spec import PROBES, AdaptSpec
from pathotune_pipeline.tuning.studies.cell import Cell, Contender, Fitted


class PatchFit:
    """Adapts encoders to patches. Each encoder is loaded once a process, and serves all cells."""

    def __init__(
        self,
        patches: PatchSet,
        encoders: dict[str, EncoderSpec],
        rows: Sequence[tuple[str, str, AdaptSpec]],
        *,
        steps: int | None = None,
    ) -> None:
        """Load the encoders.

        Args:
            patches: all of the study's.
            encoders: by name.
            rows: encoder's name, method's name and settings.
            steps: optimiser steps of each training, however few its images; None keeps each method's epochs.

        Raises:
            SpecError: settings do not go with an encoder.
            WeightsError: an encoder's weights are absent or do not fit.
        """
        self._patches, self._steps = patches, steps
        used = {encoder for encoder, _, _ in rows if encoder}
        self._encoders: dict[str, Encoder | EncoderSpec] = {
            name: create_adapted_encoder(spec, device=pick_device(spec.device))
            for name, spec in encoders.items()
            if name in used
        }
        for encoder, method, spec in rows:
            _check_adapter(encoder, self._encoders.get(encoder), method, spec)
        self._encoders[""] = next(iter(encoders.values()), EncoderSpec())  # its device alone counts
        self._specs = {(encoder, method): spec for encoder, method, spec in rows}
        self.contenders = tuple(self._contender(*row) for row in rows)

    def __call__(self, cell: Cell) -> Fitted:
        """Train one cell's model."""
        encoder, method = cell.contender.encoder, cell.contender.method
        spec = self._specs[encoder, method]
        found = adapt_patches(
            self._encoders[encoder],
            self._patches,
            train=cell.parts.train,
            val=cell.parts.val,
            spec=_seeded(
                spec if self._steps is None else stretched(spec, len(cell.parts.train), self._steps), cell.seed
            ),
        )
        facts = {
            "trainable": found.trained_parameters,
            "parameters": found.parameters,
            "epochs": len(found.history) or None,
            "best_epoch": found.best_epoch,
            "notes": list(found.notes),
            "chosen": dict(found.facts),
        }
        return Fitted(partial(found.predict, self._patches), facts)

    def _contender(self, encoder: str, method: str, spec: AdaptSpec) -> Contender:
        network = self._encoders[encoder]
        recipe = {
            "adapt": REVISION,
            "encoder": network.recipe() if encoder and isinstance(network, Encoder) else None,
            "spec": hashed_values(_seeded(spec, 0)),  # the cell's seed counts
        }
        if self._steps is not None and spec.method not in PROBES:
            recipe["steps"] = self._steps
        return Contender(encoder, method, recipe)


def _check_adapter(name: str, encoder: Encoder | EncoderSpec | None, method: str, spec: AdaptSpec) -> None:
    """Make sure that nothing is trained on top of an adapter.

    Raises:
        SpecError: it would be.
    """
    if isinstance(encoder, Encoder) and encoder.card.adapter is not None and spec.method not in PROBES:
        raise SpecError(
            f"methods.{method}: {spec.method} would train encoder {name!r}, which has an adapter on it. Adapters are judged by "
            f"{' and '.join(PROBES)}; name the encoders of this method under `encoders`."
        )


def stretched(spec: AdaptSpec, images: int, steps: int) -> AdaptSpec:
    """A method's settings for about so many optimiser steps on so many images.

    Args:
        spec: whose epochs, warm-up and patience are multiplied alike.
        images: to train on, at least 1.
        steps: wanted; rounded to whole epochs, at least one.
    """
    train = spec.train
    epochs = max(1, round(steps / math.ceil(math.ceil(images / spec.batch) / train.accumulate)))
    factor = epochs / train.epochs
    patience = max(1, math.ceil(train.patience * factor)) if train.patience else 0
    changed = {"epochs": epochs, "warmup_epochs": round(train.warmup_epochs * factor), "patience": patience}
    return spec.with_values(train={**train.model_dump(), **changed})


def _seeded(spec: AdaptSpec, seed: int) -> AdaptSpec:
    return spec.with_values(train={**spec.train.model_dump(), "seed": seed})
