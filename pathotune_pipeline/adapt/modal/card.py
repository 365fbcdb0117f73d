"""What a modal network's file says of itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pathotune_pipeline.adapt.modal.spec import ModalSpec
from pathotune_pipeline.adapt.modal.survival_words import SurvivalBins
from pathotune_pipeline.adapt.modal.texts import CaseTextSpec
from pathotune_pipeline.spec import Spec, hashed_values

REVISION = 1
"""Raised when the same tensors on the same slide encoder give other embeddings than before."""

NO_LANGUAGE = (
    "the texts were hashed letter by letter, by an encoder that has learned no language: labels that mean nearly the same "
    "are as far apart as any others"
)
"""What has to be said where a text encoder's `learned` is False."""


class LabelCard(Spec):
    """The texts a network was trained on.

    Attributes:
        encoder: name of the text encoder.
        encoder_sha256: of all that decides its vectors.
        dim: length of a text's vector.
        projector_seed: the frozen projector was drawn from it; its numbers are in the file.
        templates: of the texts.
        bins: follow-up in months, by cohort, cut on training cases.
        note: what has to be said of the text encoder.
    """

    encoder: str
    encoder_sha256: str
    dim: int
    projector_seed: int
    templates: CaseTextSpec = CaseTextSpec()
    bins: dict[str, SurvivalBins] = Field(default_factory=dict)
    note: str = ""


class ModalCard(Spec):
    """Facts about one modal network.

    Attributes:
        name: its user's name for it.
        spec: how it was made.
        slide_encoder: what decides the slide encoder's vectors; it fits no other. None: it takes no tiles.
        genes: names, in the order in which it takes expression.
        pathways: names, in the order of their tokens' networks.
        clinical: names of the clinical variables, in their order.
        labels: the texts; None where it was trained otherwise.
        parameters: how many numbers were trained.
        sha256: of its tensors and the projector's.
        training: where it comes from: plain values, as the training wrote them.
    """

    name: str
    spec: ModalSpec
    slide_encoder: dict[str, Any] | None = None
    genes: tuple[str, ...] = ()
    pathways: tuple[str, ...] = ()
    clinical: tuple[str, ...] = ()
    labels: LabelCard | None = None
    parameters: int
    sha256: str
    training: dict[str, Any] = Field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """What decides its embeddings, the slide encoder's recipe included."""
        return {
            "revision": REVISION,
            "spec": hashed_values(self.spec),
            "slide_encoder": self.slide_encoder,
            "clinical": list(self.clinical),
            "sha256": self.sha256,
        }
