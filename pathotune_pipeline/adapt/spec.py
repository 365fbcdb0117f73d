"""AdapterSpec: which small trained part changes an encoder, and how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from pathotune_pipeline.encoders.text import DEFAULT_TEMPLATE, check_template, fill_template
from pathotune_pipeline.spec import Spec, setting

AdapterMethod = Literal["vpt-shallow", "vpt-deep", "pathotune", "lora"]
Scope = Literal["first", "deep"]


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
        DEFAULT_TEMPLATE,
        "pathotune: the text, with {stain}, {organ}, {task}, {classes}; what is in [] goes where its field is empty.",
        min_length=1,
    )
    stain: str = setting("H&E", "pathotune: stain, for the text.")
    organ: str = setting("", "pathotune: organ, for the text.")
    task: str = setting("", "pathotune: task, for the text.")
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
    def _template_can_be_filled(self) -> Self:
        check_template(self.text_template)
        return self

    def text(self, classes: Sequence[str]) -> str:
        """The task's text: the template with its places filled.

        Args:
            classes: names of the classes, in the order of their numbers.

        Raises:
            SpecError: the template wants a field that is empty, outside its brackets.
        """
        known = {"stain": self.stain, "organ": self.organ, "task": self.task, "classes": ", ".join(classes)}
        return fill_template(self.text_template, known)

    def needs_texts(self) -> bool:
        """Whether `attach` must be given the embedded texts of the tasks."""
        return self.method == "pathotune" and self.ttp
