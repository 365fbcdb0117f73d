"""What an adapter file says of itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.encoders.card import EncoderCard
from pathotune_pipeline.spec import Spec, hashed_values

REVISION = 1
"""Raised when the same tensors on the same network give other features than before."""

RECONSTRUCTION = "a reconstruction of PathoTune (arXiv 2403.16497), whose code is not public"


class TextCard(Spec):
    """The texts whose embeddings an adapter holds.

    Attributes:
        texts: one for each task.
        encoder: name of the text encoder.
        encoder_sha256: of its weights; None where it has none.
        note: what has to be said of it, such as that it knows no language.
    """

    texts: tuple[str, ...]
    encoder: str
    encoder_sha256: str | None = None
    note: str = ""


class AdapterCard(Spec):
    """Facts about one adapter.

    Attributes:
        name: its user's name for it.
        spec: which adapter, and how large.
        backbone: the card of the encoder it was trained on; it fits no other.
        text: the texts, for pathotune with textual prompts.
        parameters: how many numbers were trained.
        sha256: of its tensors, as `encoders.checkpoint.tensors_sha256` has it.
        training: where it comes from: plain values, as the training wrote them.
        note: what has to be said wherever its results are shown.
    """

    name: str
    spec: AdapterSpec
    backbone: EncoderCard
    text: TextCard | None = None
    parameters: int
    sha256: str
    training: dict[str, Any] = Field(default_factory=dict)
    note: str = ""

    def recipe(self) -> dict[str, Any]:
        """What of it decides the features, beside the backbone's recipe; enters their fingerprint."""
        return {"revision": REVISION, "spec": hashed_values(self.spec), "sha256": self.sha256}
