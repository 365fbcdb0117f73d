"""What is known of any adaptation: what it was made of, what it cost, how its training went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pathotune_pipeline.adapt.card import RECONSTRUCTION, TextCard
from pathotune_pipeline.encoders.card import EncoderCard
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.provenance import now, package_versions
from pathotune_pipeline.tuning.run.spec import AdaptSpec

FORMAT = "pathotune-adapted"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Learnt:
    """What an adaptation gave.

    Attributes:
        spec: how it was done.
        encoder: card of what was adapted.
        history: one record for each epoch; empty for a probe.
        best_epoch: from 0; None for a probe.
        stopped_early: whether patience ran out.
        trained_parameters: numbers that were learnt, heads included; of neighbours none.
        parameters: all numbers of encoder, adapter and heads.
        seconds: wall time, of this process where a training was gone on with.
        text: what was read of the tasks, and by which text encoder; None where nothing was.
        facts: what was chosen: "l2", "k".
        notes: what a reader of its results should know.
    """

    spec: AdaptSpec
    encoder: EncoderCard
    history: tuple[EpochRecord, ...] = ()
    best_epoch: int | None = None
    stopped_early: bool = False
    trained_parameters: int = 0
    parameters: int = 0
    seconds: float = 0.0
    text: TextCard | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """The beginning of its card, in plain values."""
        spec, notes = self.spec, list(self.notes)
        if spec.method == "pathotune":
            notes.append(f"PathoTune is {RECONSTRUCTION}.")
        return {
            "format": FORMAT,
            "written": now(),
            "method": spec.method,
            "encoder": self.encoder.model_dump(mode="json"),
            "settings": spec.model_dump(mode="json"),
            "train": spec.train.for_method(spec.method).model_dump(mode="json"),
            "text": None if self.text is None else self.text.model_dump(mode="json"),
            "best_epoch": self.best_epoch,
            "epochs": len(self.history),
            "stopped_early": self.stopped_early,
            "trained_parameters": self.trained_parameters,
            "parameters": self.parameters,
            "seconds": round(self.seconds, 3),
            "chosen": dict(self.facts),
            "notes": notes,
            "versions": package_versions(),
        }
