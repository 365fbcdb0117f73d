"""The cells of eva's protocol: heads on frozen features of images or of slides, several runs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pathotune_pipeline.bags.bag import Bag, collate
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.splits import check_parts, grouped_split
from pathotune_pipeline.tuning.studies.cell import Cell, Contender, Fitted, Items, Parts, cell_fingerprint
from pathotune_pipeline.tuning.studies.embeddings import embed_patches
from pathotune_pipeline.tuning.studies.eva import Rules, Samples, fit_head, rules_for
from pathotune_pipeline.tuning.studies.eva_heads import AttentionHead, ClassHead, LinearHead
from pathotune_pipeline.tuning.studies.grid import Grid
from pathotune_pipeline.tuning.studies.spec import ProtocolSpec

REVISION = 1
"""Raised when the protocol gives other results for the same settings."""
LINEAR, ATTENTION = "linear head", "attention head"
_AT_ONCE = {LINEAR: 8192, ATTENTION: 8}


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Which items train, validate and are judged.

    Attributes:
        parts: with one test set: "test", or "val" where the data have no test part.
        notes: how it came about.
    """

    parts: Parts
    notes: tuple[str, ...] = ()


def named_parts(patches: PatchSet, *, test_share: float, seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The parts that patches name, with notes; where they name none, train and test are cut by slide or patient.

    Args:
        patches: each with a label.
        test_share: share of the groups that is cut off for the test.
        seed: of that.

    Returns:
        "train", "val" and "test", of which the last two may be empty; and what a reader should know of them.

    Raises:
        ManifestError: none of the parts is train, or a class is in too few groups.
    """
    named = {part: patches.where(split=part) for part in ("train", "val", "test")}
    notes = list[str]()
    if not any(len(index) for index in named.values()):
        named |= grouped_split(patches, {"train": 1 - test_share, "test": test_share}, seed=seed)
        notes.append("The data name no parts: the test part is cut by slide or patient.")
    elif sum(map(len, named.values())) < len(patches):
        left = len(patches) - sum(map(len, named.values()))
        notes.append(f"{left} images are in no part of the data's train, val and test, and stay out.")
    if not len(named["train"]):
        raise ManifestError("The data name parts, and none of them is train. Name it so in the split column.")
    return named, notes


def patch_division(patches: PatchSet, spec: ProtocolSpec) -> Division:
    """The parts that the patches name; what they do not name is cut by slide or patient.

    Without a test part the validation part is judged, as eva does, and that is said: it has chosen the epoch too.

    Raises:
        ManifestError: nothing to train with, or a class is in too few groups.
        PathotuneError: a group is in two parts.
    """
    seed = spec.split_seed
    named, notes = named_parts(patches, test_share=spec.test_share, seed=seed)
    if not len(named["val"]):
        shares = {"train": 1 - spec.val_share, "val": spec.val_share}
        named |= grouped_split(patches, shares, seed=seed + 1, index=named["train"])
        notes.append("The data name no validation part: it is cut from the training part by slide or patient.")
    check_parts(patches, named, where="protocol")
    return _divided(named, notes)


def slide_division(parts: Mapping[str, Sequence[str]], names: Sequence[str], notes: Sequence[str]) -> Division:
    """The same of slides.

    Args:
        parts: "train", "val" and perhaps "test" -> slides.
        names: of all slides, in the order of the items.
        notes: how the parts came about.
    """
    place = {name: at for at, name in enumerate(names)}
    index = {part: np.array(sorted(place[name] for name in own), np.int64) for part, own in parts.items()}
    return _divided(index, list(notes))


def _divided(named: Mapping[str, np.ndarray], notes: list[str]) -> Division:
    judged = "test" if len(named.get("test", ())) else "val"
    if judged == "val":
        notes.append("There is no test part: scores are of the validation part, which also chose the epoch.")
    return Division(Parts(named["train"], named["val"], {judged: named[judged]}, (judged,)), tuple(notes))


def protocol_grid(items: Items, contenders: Sequence[Contender], division: Division, rules: Rules) -> Grid:
    """A cell for each contender and run."""
    parts = division.parts
    absent = [
        f"{what} has no item of class {items.classes[place]!r}"
        for what, index in (("the training part", parts.train), ("the validation part", parts.val))
        for place in np.flatnonzero(np.bincount(items.targets[index], minlength=len(items.classes)) == 0)
    ]
    cells = [
        Cell(
            contender,
            "",
            fraction=1.0,
            fold=0,
            seed=run,
            parts=parts,
            fingerprint=cell_fingerprint(items, contender, parts, seed=run),
            not_run="; ".join(absent),
        )
        for contender in contenders
        for run in range(rules.runs)
    ]
    return Grid(items, tuple(cells), division.notes)


def head_recipe(features: object, method: str, spec: ProtocolSpec, rules: Rules) -> dict[str, object]:
    """What decides a head's result besides the items.

    Args:
        features: what decides them, plain.
        method: LINEAR or ATTENTION.
        spec: steps and weight decay.
        rules: of the kind of data.
    """
    return {
        "protocol": REVISION,
        "method": method,
        "features": features,
        "steps": spec.steps,
        "weight_decay": spec.weight_decay,
        "batch": rules.batch,
        "lr": rules.lr,
        "max_epochs": rules.max_epochs,
        "patience": rules.patience,
    }


@dataclass(slots=True, eq=False)
class PatchHeads:
    """Linear heads on frozen features of images.

    Attributes:
        encoders: by name.
        patches: all of them.
        items: of the same.
        folder: where features are kept.
        spec: of the protocol.
    """

    encoders: Mapping[str, Encoder]
    patches: PatchSet
    items: Items
    folder: Path
    spec: ProtocolSpec
    _features: dict[str, np.ndarray] = field(default_factory=dict)

    def contenders(self) -> tuple[Contender, ...]:
        """One for each encoder."""
        rules = rules_for("patch", self.spec)
        return tuple(
            Contender(name, LINEAR, head_recipe(encoder.recipe(), LINEAR, self.spec, rules))
            for name, encoder in self.encoders.items()
        )

    def __call__(self, cell: Cell) -> Fitted:
        """Train one run's head."""
        name = cell.contender.encoder
        if name not in self._features:
            self._features[name] = embed_patches(self.encoders[name], self.patches, self.items, self.folder)
        features = self._features[name]
        samples = Samples(
            lambda index: torch.from_numpy(np.asarray(features[index])),
            self.items.targets,
            cell.parts.train,
            cell.parts.val,
            _AT_ONCE[LINEAR],
        )
        make = partial(LinearHead, features.shape[1], len(self.items.classes))
        return _fitted(make, samples, rules_for("patch", self.spec), spec=self.spec, seed=cell.seed)


@dataclass(slots=True, eq=False)
class SlideHeads:
    """Attention heads on stored features of slides.

    Attributes:
        bags: feature set's name -> bags, in the order of the items.
        recipes: feature set's name -> what decides its features.
        items: slides.
        spec: of the protocol.
    """

    bags: Mapping[str, Sequence[Bag]]
    recipes: Mapping[str, object]
    items: Items
    spec: ProtocolSpec

    def contenders(self) -> tuple[Contender, ...]:
        """One for each feature set."""
        rules = rules_for("slide", self.spec)
        drawn = {"max_tiles": self.spec.max_tiles, "seed": self.spec.split_seed} if self.spec.max_tiles else None
        return tuple(
            Contender(name, ATTENTION, head_recipe(recipe, ATTENTION, self.spec, rules) | {"tiles": drawn})
            for name, recipe in self.recipes.items()
        )

    def __call__(self, cell: Cell) -> Fitted:
        """Train one run's head."""
        bags = self.bags[cell.contender.encoder]
        samples = Samples(
            lambda index: collate([bags[place] for place in index.tolist()]),
            self.items.targets,
            cell.parts.train,
            cell.parts.val,
            _AT_ONCE[ATTENTION],
        )
        make = partial(AttentionHead, bags[0].dim, len(self.items.classes))
        return _fitted(make, samples, rules_for("slide", self.spec), spec=self.spec, seed=cell.seed)


def fewer_tiles(bag: Bag, most: int | None, *, seed: int) -> Bag:
    """A bag of at most so many of its tiles, in their order; the same ones for the same slide and seed.

    Args:
        bag: of a slide.
        most: None takes all.
        seed: of the draw.
    """
    if most is None or len(bag) <= most:
        return bag
    rng = np.random.default_rng([seed, *bag.bag_id.encode()])
    chosen = np.sort(rng.permutation(len(bag))[:most])
    return Bag(bag.features[chosen], bag.coords[chosen], bag.bag_id, bag.group, bag.target)


def _fitted(make: Callable[[], ClassHead], samples: Samples, rules: Rules, *, spec: ProtocolSpec, seed: int) -> Fitted:
    predict, result = fit_head(make, samples, rules, spec=spec, seed=seed)
    count = sum(value.numel() for value in result.best_state.values())
    facts = {"trainable": count, "epochs": len(result.history), "best_epoch": result.best_epoch}
    return Fitted(predict, facts)
