"""adapt_patches: an encoder, labelled patches and a method to a model that names the class of any patch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.engine.course import EpochRecord, FitResult, seeded
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.engine.loop import fit
from pathotune_pipeline.engine.resume import CourseFile
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.provenance import fingerprint
from pathotune_pipeline.spec import hashed_values
from pathotune_pipeline.tuning.patches.augment import Augmentation
from pathotune_pipeline.tuning.patches.batches import PatchBatches
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.choice import validation_value
from pathotune_pipeline.tuning.run.encode import PatchFeatures
from pathotune_pipeline.tuning.run.learner import PatchLearner, TaskBatches
from pathotune_pipeline.tuning.run.network import build_body
from pathotune_pipeline.tuning.run.probe import Labelled, LinearProbe, NeighbourProbe, fit_linear, fit_neighbours
from pathotune_pipeline.tuning.run.result import Learnt
from pathotune_pipeline.tuning.run.spec import PROBES, AdaptSpec
from pathotune_pipeline.tuning.run.texts import embed_tasks

REVISION = 1
"""Raised when the same settings give another model, so that a training is not gone on with that began otherwise."""
COURSE = "course.safetensors"
"""Where in its folder a training keeps its state until it is done."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchTask:
    """Patches to tell apart, and which of them for what.

    Attributes:
        patches: images of one size.
        train: [n] int, to learn from.
        val: [m] int, chooses epoch, penalty or neighbours; may be empty.
        name: for records.
        words: settings of the adapter that make the task's text: stain, organ, task, text_template.
    """

    patches: PatchSet
    train: np.ndarray
    val: np.ndarray
    name: str = ""
    words: Mapping[str, str] = field(default_factory=dict)


class PatchModel(Protocol):
    """Names the classes of patches."""

    def probabilities(
        self, patches: PatchSet, index: np.ndarray, *, task: int = 0, text: int | None = None
    ) -> np.ndarray:
        """float64 [n, C] of the patches at `index`; of one of several tasks, told by its own text or another's."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AdaptResult(Learnt):
    """What an adaptation to patches gave; see also `Learnt`.

    Attributes:
        classes: of each task, names in the order of the probabilities.
        model: names the classes of any patches.
    """

    classes: tuple[tuple[str, ...], ...]
    model: PatchModel

    def predict(
        self, patches: PatchSet, index: np.ndarray | None = None, *, task: int = 0, text: int | None = None
    ) -> np.ndarray:
        """Class probabilities, float64 [n, C].

        Args:
            patches: images, of any set.
            index: [n] int, which of them; None for all.
            task: which of the tasks that it was adapted to.
            text: number of the task whose text it is given; by default the task's own.
        """
        places = np.arange(len(patches)) if index is None else np.asarray(index, np.int64)
        return self.model.probabilities(patches, places, task=task, text=text)


def adapt_patches(
    encoder: EncoderSpec | Encoder,
    patches: PatchSet,
    *,
    train: np.ndarray,
    val: np.ndarray,
    spec: AdaptSpec,
    out: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> AdaptResult:
    """Bring an encoder to a task.

    On a CPU the same arguments and number of threads give the same model bit for bit. The encoder stays as it is.

    Args:
        encoder: what to begin with; for method cnn its device alone counts. An Encoder that is handed in is not loaded
            again, and probes of the same one share its features.
        patches: images of one size, with labels at `train` and `val`.
        train: [n] int, to learn from.
        val: [m] int, chooses epoch, penalty or neighbours; where it is empty the last epoch counts.
        spec: method and its settings.
        out: folder where the training's state is kept after each epoch, and gone on from; None keeps none.
        on_epoch: told of each epoch.

    Raises:
        UsageError: the patches do not allow it, or `out` holds the state of another training.
        SpecError: method, settings and encoder do not go together.
        WeightsError: weights are absent or do not fit.
        PathotuneError: the loss is not finite.
    """
    task = PatchTask(patches, np.asarray(train, np.int64), np.asarray(val, np.int64))
    return adapt_tasks(encoder, [task], spec=spec, out=out, on_epoch=on_epoch)


def adapt_tasks(
    encoder: EncoderSpec | Encoder,
    tasks: Sequence[PatchTask],
    *,
    spec: AdaptSpec,
    out: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> AdaptResult:
    """Bring an encoder to several tasks at once, by one adapter, or one training of its weights.

    With pathotune the network reads each task's text; with `spec.shared_head` that alone tells it which task is asked.

    Args:
        encoder: what to begin with.
        tasks: at least one; their batches take turns.
        spec: method and its settings.
        out: folder where the training's state is kept after each epoch, and gone on from; None keeps none.
        on_epoch: told of each epoch.

    Raises:
        UsageError: the patches do not allow it, or `out` holds the state of another training.
        SpecError: method, settings and encoder do not go together.
        WeightsError: weights are absent or do not fit.
        PathotuneError: the loss is not finite.
    """
    began = time.perf_counter()
    if not tasks:
        raise UsageError("There is no task to adapt to. Give at least one.")
    notes = [note for task in tasks for note in _checked(task)]
    if spec.method in PROBES:
        if len(tasks) != 1:
            raise UsageError(f"--method {spec.method} learns one task at a time; {len(tasks)} were given.")
        return _probe(encoder, tasks[0], spec, tuple(notes), began)
    device = encoder.device if isinstance(encoder, Encoder) else pick_device(encoder.device)
    texts = embed_tasks([(task.patches.classes, task.words) for task in tasks], spec)
    side_px = tasks[0].patches.side_px
    with seeded(spec.train.seed, device):
        body = build_body(encoder, spec, texts=texts[1] if texts else None, device=device, side_px=side_px)
        learner = PatchLearner(body, [len(task.patches.classes) for task in tasks], shared_head=spec.shared_head)
    if spec.checkpointing:
        body.save_memory()
    found = _train(learner, tasks, spec, out=out, on_epoch=on_epoch)
    learner.load_state_dict(found.best_state)
    learner.eval()
    network = sum(p.numel() for p in body.network.parameters())
    heads = sum(p.numel() for p in learner.heads.parameters())
    return AdaptResult(
        spec=spec,
        encoder=body.encoder.card,
        classes=tuple(task.patches.classes for task in tasks),
        model=learner,
        history=found.history,
        best_epoch=found.best_epoch,
        stopped_early=found.stopped_early,
        trained_parameters=sum(p.numel() for p in learner.parameters() if p.requires_grad),
        parameters=network + heads,
        seconds=time.perf_counter() - began,
        text=texts[0] if texts else None,
        notes=tuple(notes),
    )


def _train(
    learner: PatchLearner,
    tasks: Sequence[PatchTask],
    spec: AdaptSpec,
    *,
    out: Path | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> FitResult:
    seed, augment = spec.train.seed, Augmentation(spec.augment)
    batches = TaskBatches(
        [
            PatchBatches(
                task.patches,
                task.train,
                spec.batch,
                balance=spec.balance,
                augment=augment,
                seed=seed + number,
                device=learner.body.encoder.device,
            )
            for number, task in enumerate(tasks)
        ],
        seed=seed,
    )
    judged = [task for task in tasks if len(task.val)]

    def validate() -> float:
        values = [
            validation_value(
                learner.probabilities(task.patches, task.val, task=number, batch=spec.predict_batch),
                task.patches.labels[task.val],
                spec.train.select,
            )
            for number, task in enumerate(tasks)
            if len(task.val)
        ]
        return float(np.mean(values))

    kept = None if out is None else CourseFile(out / COURSE, key=_key(learner, tasks, spec))
    return fit(
        learner,
        batches,
        spec.train.for_method(spec.method),
        validate=validate if judged else None,
        on_epoch=on_epoch,
        groups=learner.groups(),
        kept=kept,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _ProbeModel:
    features: PatchFeatures
    probe: LinearProbe | NeighbourProbe

    def probabilities(
        self, patches: PatchSet, index: np.ndarray, *, task: int = 0, text: int | None = None
    ) -> np.ndarray:
        return self.probe.probabilities(self.features.rows(patches, index))


def _probe(
    encoder: EncoderSpec | Encoder, task: PatchTask, spec: AdaptSpec, notes: tuple[str, ...], began: float
) -> AdaptResult:
    if isinstance(encoder, EncoderSpec):
        encoder = create_encoder(encoder, device=pick_device(encoder.device))
    features = PatchFeatures(encoder)
    train, val = (
        Labelled(features.rows(task.patches, part), task.patches.labels[part]) for part in (task.train, task.val)
    )
    chooser = val if len(task.val) else None
    classes, select = len(task.patches.classes), spec.train.select
    probe: LinearProbe | NeighbourProbe
    if spec.method == "linear":
        probe = fit_linear(
            train, chooser, classes=classes, penalties=spec.probe_l2, select=select, balanced="class" in spec.balance
        )
        trained, facts = probe.weight.size + probe.bias.size, {"l2": probe.l2}
    else:
        probe = fit_neighbours(train, chooser, classes=classes, numbers=spec.knn_k, select=select)
        trained, facts = 0, {"k": probe.k}
    return AdaptResult(
        spec=spec,
        encoder=encoder.card,
        classes=(task.patches.classes,),
        model=_ProbeModel(features, probe),
        trained_parameters=trained,
        parameters=trained + sum(p.numel() for p in encoder.module.parameters()),
        seconds=time.perf_counter() - began,
        facts=facts,
        notes=notes,
    )


def _checked(task: PatchTask) -> list[str]:
    """What a reader should know of a task's parts.

    Raises:
        UsageError: they cannot be learnt from.
    """
    where = f"task {task.name}: " if task.name else ""
    labels, classes = task.patches.labels, task.patches.classes
    if not len(task.train):
        raise UsageError(f"{where}There are no patches to train with.")
    both = np.intersect1d(task.train, task.val)
    if len(both):
        raise UsageError(
            f"{where}{len(both)} patches are to train and to validate, such as {task.patches.names[both[0]]}."
        )
    without = [place for place in (*task.train, *task.val) if labels[place] < 0]
    if without:
        raise UsageError(f"{where}patch {task.patches.names[without[0]]} has no label ({len(without)} such patches).")
    present = np.unique(labels[task.train])
    if len(present) < 2:
        raise UsageError(
            f"{where}All {len(task.train)} training patches are of class {classes[present[0]]}; two classes are needed."
        )
    notes = []
    absent = [name for place, name in enumerate(classes) if place not in present]
    if absent:
        notes.append(f"{where}No training patch is of class {', '.join(absent)}.")
    groups = np.array(task.patches.groups, dtype=object)
    shared = (set(groups[task.train]) & set(groups[task.val])) - {""}
    if shared:
        notes.append(f"{where}{len(shared)} groups have patches to train and to validate: its choice is optimistic.")
    if not len(task.val):
        notes.append(f"{where}Nothing was validated: the last epoch, the middle penalty, the first k.")
    return notes


def _key(learner: PatchLearner, tasks: Sequence[PatchTask], spec: AdaptSpec) -> str:
    """What is trained on what: all that decides the weights after each epoch."""
    parts = []
    for task in tasks:
        digest = hashlib.sha256()
        for part in (task.train, task.val):
            for start in range(0, len(part), 1024):  # so that no second copy of all pixels is made
                digest.update(task.patches.images[part[start : start + 1024]].tobytes())
            digest.update(task.patches.labels[part].tobytes())
        parts.append({"words": dict(task.words), "classes": list(task.patches.classes), "sha256": digest.hexdigest()})
    recipe = {"spec": hashed_values(spec), "encoder": learner.body.encoder.recipe(), "tasks": parts}
    return fingerprint("adapt", REVISION, recipe)
