"""tune_cases: a modal adapter trained on the texts of cases, resumable, with the epoch chosen on validation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.adapt.modal.adapter import ModalNetwork, attach_modal
from pathotune_pipeline.adapt.modal.pathways import PathwayTable
from pathotune_pipeline.engine.course import EpochRecord, seeded
from pathotune_pipeline.engine.loop import fit
from pathotune_pipeline.engine.resume import CourseFile
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.provenance import fingerprint
from pathotune_pipeline.slide_encoders import StagedSlideEncoder
from pathotune_pipeline.spec import hashed_values
from pathotune_pipeline.tuning.cases.labels import CaseLabels, label_cases
from pathotune_pipeline.tuning.cases.learner import CaseBatches, CaseLearner
from pathotune_pipeline.tuning.cases.material import CaseMaterial
from pathotune_pipeline.tuning.cases.parts import CaseParts
from pathotune_pipeline.tuning.cases.scale import ClinicalScale, GeneScale
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec

COURSE = "course.safetensors"
REVISION = 1
"""Raised by hand when the same cases and settings give another network."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a network is made for.

    Attributes:
        encoder: the slide encoder; None where slides have no part in it.
        recipe: plain values that decide its vectors; None likewise.
        pathways: over genes that vary among the training cases; None where expression has no part in it.
        genes: their scale; None likewise.
        clinical: clinical fields; empty where they have no part in it.
    """

    encoder: StagedSlideEncoder | None = None
    recipe: Mapping[str, Any] | None = None
    pathways: PathwayTable | None = None
    genes: GeneScale | None = None
    clinical: ClinicalScale = field(default_factory=lambda: ClinicalScale(()))


@dataclass(frozen=True, slots=True, eq=False)
class CaseTuning:
    """What a training gave.

    Attributes:
        network: with the best epoch's adapter, in evaluation mode.
        labels: texts and targets of all cases that trained or validated.
        history: one record for each epoch.
        best_epoch: from 0.
        stopped_early: whether patience ran out.
        seconds: of this process.
        notes: what a reader of results should know.
    """

    network: ModalNetwork
    labels: CaseLabels
    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    seconds: float
    notes: tuple[str, ...]


def build_network(inputs: Inputs, spec: SlideTuneSpec) -> ModalNetwork:
    """A fresh network with the scales of its training cases; its numbers hang on the seed alone.

    Raises:
        SpecError: widths do not go together, or there is nothing to learn from.
    """
    import torch

    with seeded(spec.train.seed, torch.device("cpu")):
        network = attach_modal(inputs.encoder, spec.modal, pathways=inputs.pathways, clinical=inputs.clinical.names)
    tokens = network.adapter.tokens
    if tokens.genes is not None and inputs.genes is not None and inputs.pathways is not None:
        tokens.genes.standardise.set(*inputs.genes.of(inputs.pathways.genes))
    if tokens.clinical is not None:
        tokens.clinical.standardise.set(*inputs.clinical.scale)
    return network


def tune_cases(
    inputs: Inputs,
    material: CaseMaterial,
    parts: CaseParts,
    *,
    spec: SlideTuneSpec,
    out: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> CaseTuning:
    """Train an adapter around a frozen slide encoder from what is known of cases, their labels said as text.

    Args:
        inputs: what the network is made for.
        material: of all cases.
        parts: which of them train and validate.
        spec: network, texts, training.
        out: folder where the training's state is kept after each epoch, and gone on from; None keeps none.
        on_epoch: told of each epoch.

    Raises:
        UsageError: too little is known of the cases, or `out` holds the state of another training.
        PathotuneError: the loss is not finite.
    """
    began = time.perf_counter()
    own = [material.cases[case] for case in (*parts.train, *parts.val)]
    labels = label_cases(own, parts.train, spec)
    train, val, notes = _told(material, labels, parts)
    network = build_network(inputs, spec)
    network.to(material.device)
    learner = CaseLearner(network)
    batches = CaseBatches(material, labels, train, seed=spec.train.seed)
    judged = CaseBatches(material, labels, val, seed=spec.train.seed)
    kept = None if out is None else CourseFile(out / COURSE, key=_key(inputs, material, (train, val), labels, spec))
    found = fit(
        learner,
        batches,
        spec.train.course(),
        validate=lambda: judged.mean_loss(learner),
        on_epoch=on_epoch,
        kept=kept,
    )
    learner.load_state_dict(found.best_state)
    network.eval()
    return CaseTuning(
        network, labels, found.history, found.best_epoch, found.stopped_early, time.perf_counter() - began, tuple(notes)
    )


def _told(
    material: CaseMaterial, labels: CaseLabels, parts: CaseParts
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Cases to train and to validate with: those that are known in some way and of which a text says something."""
    says = {case for case, each in zip(labels.ids, labels.told.any(dim=1).tolist(), strict=True) if each}
    found = []
    notes = []
    for name, ids in (("train", parts.train), ("validate", parts.val)):
        known = material.usable(ids)
        used = tuple(case for case in known if case in says)
        if not used:
            raise UsageError(
                f"None of the {len(ids)} cases that should {name} has both something to learn from (slides, genes, clinical "
                "values) and a label that a text says. Look at the notes, and at the table's columns."
            )
        if len(used) < len(ids):
            notes.append(
                f"{len(ids) - len(used)} of {len(ids)} cases that should {name} have no modality, or no label."
            )
        found.append(used)
    return found[0], found[1], notes


def _key(
    inputs: Inputs,
    material: CaseMaterial,
    parts: tuple[Sequence[str], Sequence[str]],
    labels: CaseLabels,
    spec: SlideTuneSpec,
) -> str:
    """What decides the training's result, as one text."""
    digest = hashlib.sha256()
    for case in (*parts[0], *parts[1]):
        there = material.modalities(case)
        digest.update(f"{case}|{','.join(there)}|".encode())
        for values in (material.genes.get(case), material.clinical.get(case)):
            digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    prints = getattr(material.tiles, "fingerprints", None)
    recipe = {
        "spec": hashed_values(
            spec.with_values(judge={}, ablate=False)
        ),  # what is judged afterwards changes no training
        "encoder": None if inputs.recipe is None else dict(inputs.recipe),
        "pathways": [] if inputs.pathways is None else list(inputs.pathways.pathways),
        "clinical": inputs.clinical.told(),
        "parts": [list(part) for part in parts],
        "texts": [list(each) for each in labels.texts],
        "text_encoder": labels.card.encoder_sha256,
        "inputs": digest.hexdigest(),
        "tiles": prints() if callable(prints) else None,
        "genes": [] if inputs.genes is None else [inputs.genes.mean.tolist(), inputs.genes.std.tolist()],
    }
    return fingerprint("slide-tune", REVISION, recipe)
