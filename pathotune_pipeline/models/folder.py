"""A model folder at work: `open_model` reads what train or crossval wrote, and the Model answers for bags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.evaluation.metrics import scale_by_temperature
from pathotune_pipeline.evaluation.result import read_result
from pathotune_pipeline.evaluation.scoring import CLASSES
from pathotune_pipeline.heads.learner import TrainedHead
from pathotune_pipeline.heads.train import predict
from pathotune_pipeline.heads.trained import load_head
from pathotune_pipeline.models.card import (
    CARD,
    SLIDES,
    ModelCard,
    TargetFacts,
    fingerprint_members,
    member_folders,
    runs_of,
    targets_of,
)
from pathotune_pipeline.models.recipe import FeatureRecipe
from pathotune_pipeline.provenance import SHORT


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model says of one bag, the mean over its members.

    Attributes:
        values: of each target [P] float64, in the order of its columns.
        calibrated: of targets of classes, the mean of probabilities at each member's temperature [C] float64; of others,
            and where a member has none, None.
        by_member: of each target [M, P] float64.
        attention: [N] float64 over the bag's tiles, or None where the head has none.
    """

    values: dict[str, np.ndarray]
    calibrated: dict[str, np.ndarray | None]
    by_member: dict[str, np.ndarray]
    attention: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Seen:
    """Slides that a model has learnt from or chosen an epoch with.

    Attributes:
        slides: ids.
        cases: patients.
        identities: content hashes, which a copy under another name shares.
    """

    slides: frozenset[str]
    cases: frozenset[str]
    identities: frozenset[str]


class Model:
    """A trained model: a card, and heads whose answers are averaged."""

    def __init__(self, folder: Path, card: ModelCard, members: list[TrainedHead]) -> None:
        self.folder, self.card, self.members = folder, card, members

    @property
    def short(self) -> str:
        """The part of its fingerprint that stands in tables."""
        return self.card.fingerprint[:SHORT]

    @property
    def fused(self) -> bool:
        """Whether it was trained on patients: all slides of one as a single bag."""
        return self.card.training.get("unit") == "fuse"

    def target(self, name: str) -> TargetFacts:
        """A target by its name."""
        return next(each for each in self.card.targets if each.name == name)

    def answer(self, bag: Bag) -> Answer:
        """What the model says of a bag.

        Raises:
            UsageError: it is empty, or of another dimension.
        """
        said = [predict(member, [bag]) for member in self.members]
        found: dict[str, list[np.ndarray]] = {each.name: [] for each in self.card.targets}
        for member, one in zip(self.members, said, strict=True):
            split = member.task.split(one.probs) if member.task else {self.card.targets[0].name: one.probs}
            for name, values in split.items():
                found[name].append(values[0])
        stacked = {name: np.stack(values) for name, values in found.items()}  # [M, P]
        weights = [one.attention[0].astype(np.float64) for one in said if one.attention is not None]
        return Answer(
            {name: values.mean(axis=0) for name, values in stacked.items()},
            {name: self._calibrated(name, values) for name, values in stacked.items()},
            stacked,
            np.mean(weights, axis=0) if len(weights) == len(said) else None,
        )

    def _calibrated(self, name: str, values: np.ndarray) -> np.ndarray | None:
        heat = self.card.temperatures
        if self.target(name).kind not in CLASSES or len(self.card.targets) > 1 or not heat or None in heat:
            return None
        scaled: np.ndarray = scale_by_temperature(values, np.array(heat, np.float64)).mean(axis=0)
        return scaled

    @cached_property
    def seen(self) -> Seen:
        """What it was trained and validated on."""
        result = read_result(self.folder)
        parts = {row.slide_id for row in result.splits if row.part in ("train", "val")}
        if not (self.folder / SLIDES).exists():
            cases = {row.case_id for row in result.predictions if row.slide_id in parts}
            return Seen(frozenset(parts), frozenset(cases), frozenset())
        key = "case_id" if self.fused else "slide_id"
        rows = [row for row in read_table(self.folder / SLIDES).rows if row[key] in parts]
        return Seen(
            frozenset(row["slide_id"] for row in rows),
            frozenset(row["case_id"] for row in rows),
            frozenset(row["identity"] for row in rows if row["identity"]),
        )

    def check_features(self, other: FeatureRecipe) -> None:
        """Refuse features of another recipe.

        Raises:
            UsageError: they are of one; the message says what differs.
        """
        own = self.card.features
        if other.fingerprint == own.fingerprint and other.dim == own.dim:
            return
        different = own.differences(other) if own.encoder else []
        what = f" They differ in {'; '.join(different[:6])} (model / given)." if different else ""
        raise UsageError(
            f"--features {other.name}: the model was trained on {own.name}, and takes no other.{what} Extract with the "
            "model's recipe (`pathotune predict --slides` does), or train a model on these features."
        )


def open_model(folder: Path, *, device: str = "auto") -> Model:
    """Read a model folder of train or crossval; every weight is compared with the card's fingerprint.

    Args:
        folder: with `card.json`, or a cross-validation older than cards.
        device: where the heads run.

    Raises:
        UsageError: it holds no model.
        CorruptDataError: its files are damaged, or do not belong together.
    """
    card = _card(folder)
    try:
        members = [load_head(folder / name, device=device) for name in card.members]
        found = fingerprint_members(folder, card.members, card.targets, card.features)
    except FileNotFoundError as error:
        raise CorruptDataError(f"--model {folder}: its card names {error.filename}, which is absent.") from None
    if found != card.fingerprint:
        raise CorruptDataError(
            f"--model {folder}: its weights are not those of its card ({found[:SHORT]}, not {card.fingerprint[:SHORT]}). "
            "Copy the folder again, whole."
        )
    return Model(folder, card, members)


def _card(folder: Path) -> ModelCard:
    path = folder / CARD
    if path.exists():
        try:
            told: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptDataError(f"--model {folder}: its {CARD} cannot be read ({error}).") from None
        if not isinstance(told, Mapping):
            raise CorruptDataError(f"--model {folder}: its {CARD} is no card.")
        try:
            return ModelCard.of_dict(told)
        except CorruptDataError as error:
            raise CorruptDataError(f"--model {folder}: {error}") from None
    if (folder / "crossval.json").exists():
        return _card_of_crossval(folder)
    inside = sorted(each.name for each in folder.iterdir() if (each / "models").is_dir()) if folder.is_dir() else []
    found = f"folders of several targets: give {folder / inside[0]} for one" if inside else "none was found"
    raise UsageError(f"--model {folder}: a folder that `pathotune train` or `crossval` wrote is needed; {found}.")


def _card_of_crossval(folder: Path) -> ModelCard:
    """Of a folder older than cards: all but how its features are made."""
    result = read_result(folder)
    members = member_folders(folder)
    first = load_head(folder / members[0])
    name = (first.feature_set or result.feature_set).removeprefix("features-")
    features = FeatureRecipe(name, name.rpartition("-")[2], first.model.head.in_dim, None, None, {}, None)
    targets = targets_of(folder / members[0], result)
    return ModelCard(
        fingerprint=fingerprint_members(folder, members, targets, features),
        head=str(result.settings["head"]),
        members=tuple(members),
        targets=targets,
        features=features,
        data={},
        scores={str(result.context.get("target", "")): result.scores},
        judged_on="all slides, out of fold",
        training=result.settings,
        temperatures=tuple(run.temperature for run in runs_of(members, result)),
        thresholds=tuple(run.threshold for run in runs_of(members, result)),
        versions=result.versions,
    )
