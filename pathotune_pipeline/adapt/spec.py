"""AdapterSpec: which small trained part changes an encoder, and how large it is."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from pathotune_pipeline.spec import Spec, setting

AdapterMethod = Literal["vpt-shallow", "vpt-deep", "pathotune", "lora"]
Scope = Literal["first", "deep"]
TEMPLATE = "{stain}-stained {organ} histopathology image for {task}; classes: {classes}"
_PLACES = ("stain", "organ", "task", "classes")


class AdapterSpec(Spec):
    """A small trained part on a frozen encoder. Each method reads the settings that its name stands before."""

    method: AdapterMethod = setting(
        "vpt-deep", "Adapter: vpt-shallow, vpt-deep, pathotune or lora.", flag="--adapter-method"
    )
    n_prompts: int = setting(
        20, "Prompts: learned tokens, before the first block (vpt-shallow) or in each (vpt-deep, pathotune).", ge=0, le=1024
    )  # fmt: skip
    prompt_dropout: float = setting(0.0, "Prompts: dropout wherever they enter.", ge=0, lt=1)
    prompt_projection: int | None = setting(
        None, "Prompts: width of prompts that one Linear layer widens for all blocks; empty: the encoder's.", ge=1
    )
    prompt_init: Literal["uniform", "zeros"] = setting(
        "uniform", "Prompts: uniform, or zeros as PuzzleTuning has them, all of which stay equal to one another."
    )
    tvp: bool = setting(True, "pathotune: task-specific visual prompts.")
    ttp: bool = setting(True, "pathotune: task-specific textual prompts.")
    ivp: bool = setting(True, "pathotune: instance-specific visual prompts.")
    n_text: int = setting(4, "pathotune: tokens of the text.", ge=1, le=256)
    n_instance: int = setting(4, "pathotune: tokens of the instance.", ge=1, le=256)
    text_scope: Scope = setting(
        "first", "pathotune: text tokens enter at the first block and flow on (first), or enter anew at each (deep)."
    )
    instance_scope: Scope = setting("first", "pathotune: the same for the instance's tokens.")
    text_template: str = setting(
        TEMPLATE, "pathotune: the text, with places for {stain}, {organ}, {task} and {classes}.", min_length=1
    )
    stain: str = setting("H&E", "pathotune: stain, for the text.", min_length=1)
    organ: str = setting("tissue", "pathotune: organ, for the text.", min_length=1)
    task: str = setting("classification", "pathotune: task, for the text.", min_length=1)
    text_encoder: str = setting(
        "hash-ngram", "pathotune: frozen text encoder: hash-ngram, hf:ID-or-path, conch.", min_length=1
    )
    rank: int = setting(16, "lora: rank of each weight's change.", ge=1, le=1024)
    alpha: float = setting(16.0, "lora: the change is multiplied by alpha / rank.", gt=0)
    lora_dropout: float = setting(0.1, "lora: dropout of the change's input while training.", ge=0, lt=1)
    targets: Literal["attn", "all"] = setting(
        "attn", "lora: Linear layers of the blocks: attn (qkv and proj) or all (the MLP's too)."
    )

    @model_validator(mode="after")
    def _names_known_places(self) -> Self:
        try:
            places = {name for _, name, _, _ in string.Formatter().parse(self.text_template) if name is not None}
        except ValueError as error:
            raise ValueError(f"text_template is no template ({error}): {self.text_template!r}") from None
        unknown = sorted(places - set(_PLACES))
        if unknown:
            raise ValueError(f"text_template has a place {unknown[0]!r}; known: {', '.join(_PLACES)}")
        return self

    def text(self, classes: Sequence[str]) -> str:
        """The task's text: the template with its places filled.

        Args:
            classes: names of the classes, in the order of their numbers.
        """
        return self.text_template.format(stain=self.stain, organ=self.organ, task=self.task, classes=", ".join(classes))

    def needs_texts(self) -> bool:
        """Whether `attach` must be given the embedded texts of the tasks."""
        return self.method == "pathotune" and self.ttp
