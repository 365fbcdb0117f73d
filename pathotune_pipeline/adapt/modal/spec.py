"""ModalSpec: how a slide encoder is joined by genes and clinical variables, and for which tasks."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import model_validator

from pathotune_pipeline.spec import Spec, setting

TextKind = Literal["general", "diagnosis", "stage", "survival"]
TEXT_KINDS: tuple[TextKind, ...] = get_args(TextKind)
"""The texts of a case, in the order in which its vectors stand."""


class ModalSpec(Spec):
    """The small trained part around a frozen slide encoder, as ModalTune has it (arXiv 2503.17564)."""

    tasks: tuple[TextKind, ...] = setting(
        ("general", "diagnosis", "survival"),
        "Tasks: which texts of a case are learned, of general, diagnosis, stage, survival.",
    )
    n_blocks: int = setting(3, "Interaction blocks; the slide encoder's layers are shared out among them.", ge=1, le=64)
    n_heads: int = setting(12, "Attention heads between tiles and modalities.", ge=1, le=64)
    reduction: int = setting(4, "Attention and MLP between tiles and modalities work at width D / reduction.", ge=1)
    n_gene_tokens: int = setting(64, "Tokens that the pathways are made into.", ge=1, le=4096)
    pathway_dim: int = setting(256, "Width of a pathway's network.", ge=2, le=4096)
    n_mixers: int = setting(3, "MLP-Mixer blocks over the pathways.", ge=0, le=24)
    dropout: float = setting(0.25, "Dropout of the pathways' networks and mixers while training.", ge=0, lt=1)
    drop_path: float = setting(0.1, "Share of an extractor's MLPs left out while training.", ge=0, lt=1)
    modality_dropout: float = setting(
        0.1, "Chance that a modality of a training case is treated as missing; one always stays.", ge=0, lt=1
    )
    combine: Literal["sum", "concat"] = setting(
        "sum", "Image, gene and task read-outs become one vector by sum (as on GigaPath) or concat (as on TITAN)."
    )
    out_dim: int = setting(256, "Length of a case's embedding, and of its projected texts.", ge=2, le=8192)
    dim: int = setting(192, "Width D where there is no slide encoder; with one, its own counts.", ge=8, le=8192)
    checkpoint_tiles: int = setting(
        4096,
        "Cases with more tiles keep only what enters each step around the layers, and make it again for the gradients.",
        hashed=False,
        ge=0,
    )

    @model_validator(mode="after")
    def _tasks_are_told_apart(self) -> Self:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks must be named once each, and at least one of them.")
        return self

    def text_numbers(self) -> tuple[int, ...]:
        """Where the tasks' texts stand among the four of a case."""
        return tuple(TEXT_KINDS.index(task) for task in self.tasks)
