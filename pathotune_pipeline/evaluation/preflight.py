"""What would spoil a study is found before the first model is trained, all of it at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pathotune_pipeline.bags.bag import Bag, as_floats
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.bags.targets import SURVIVAL, read_labels, read_number, read_survival
from pathotune_pipeline.errors import ManifestError, UsageError

T = TypeVar("T")
FEW_PATIENTS = 5
"""Validation parts of fewer patients are told of: epoch, temperature and threshold hang on them."""
_GRADED = ("binary", "multiclass", "ordinal")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a cohort says of one target.

    Attributes:
        name: of the target, or "".
        kind: of the target, never "auto".
        classes: names of classes, grades or labels.
        values: bag id -> what the table says, of the bags that say something.
    """

    name: str
    kind: str
    classes: Sequence[str]
    values: Mapping[str, str]


@dataclass(slots=True)
class Findings:
    """What was found: what must be mended, and what a reader should know.

    Attributes:
        troubles: sentences; any of them stops the study.
        notes: sentences.
    """

    troubles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, check: Callable[..., T], *given: Any) -> list[T]:
        """What a check returns, alone in a list; or nothing, and what it raises is among the troubles.

        Args:
            check: raises ManifestError where something is wrong.
            given: its arguments.
        """
        try:
            return [check(*given)]
        except ManifestError as error:
            self.troubles.append(str(error))
            return []

    def settle(self) -> list[str]:
        """The notes.

        Raises:
            ManifestError: there are troubles; one message says all of them.
        """
        if len(self.troubles) == 1:
            raise ManifestError(self.troubles[0])
        if self.troubles:
            listed = "".join(f"\n  - {each}" for each in self.troubles)
            raise ManifestError(f"{len(self.troubles)} things stand in the way of training:{listed}")
        return self.notes


def check_values(asked: Asked, findings: Findings) -> None:
    """Look for cells that are not of the target's kind, and for targets that do not vary.

    Args:
        asked: the target.
        findings: are added to.
    """
    values = asked.values
    bad = _unreadable(asked)
    if bad:
        findings.troubles.append(f"{_of(asked)}{len(bad)} slides have a value that cannot be read. {bad[0]}")
    elif asked.kind == "regression" and values and len({read_number(value) for value in values.values()}) == 1:
        findings.troubles.append(
            f"{_of(asked)}all {len(values)} slides have the number {next(iter(values.values()))}. "
            "There is nothing to learn; look at the column."
        )
    elif asked.kind in SURVIVAL and values and not any(read_survival(value)[1] for value in values.values()):
        findings.troubles.append(f"{_of(asked)}no slide's event was seen. Look at its event column: 1 is seen.")


def check_external(asked: Asked, findings: Findings) -> None:
    """Look for external slides of classes that training does not know, and for cells that cannot be read.

    Args:
        asked: the target with its classes in the cohort, and the external slides' values.
        findings: are added to.
    """
    bad = _unreadable(asked)
    if asked.kind in (*_GRADED, "multilabel"):
        for bag_id, value in sorted(asked.values.items()):
            said = read_labels(value) if asked.kind == "multilabel" else (value,)
            bad += [
                f"{bag_id} is {name!r}; known are {', '.join(asked.classes)}."
                for name in said
                if name not in asked.classes
            ]
    if bad:
        findings.troubles.append(
            f"{_of(asked)}{len(bad)} slides of the external test set have a value that training does not know. {bad[0]}"
        )
    if not asked.values:
        findings.troubles.append(f"{_of(asked)}no slide of the external test set has a value.")


def _unreadable(asked: Asked) -> list[str]:
    readers: dict[str, Callable[[str], object]] = {"regression": read_number, **dict.fromkeys(SURVIVAL, read_survival)}
    read = readers.get(asked.kind, str)
    bad = []
    for bag_id, value in sorted(asked.values.items()):
        try:
            read(value)
        except ManifestError as error:
            bad.append(f"{bag_id}: {error}")
    return bad


def check_folds(
    folds: Iterable[tuple[int, Fold]], asked: Sequence[Asked], groups: Mapping[str, str], findings: Findings
) -> None:
    """Look for folds that cannot be learnt from, validated with or judged by.

    In a training part a value must be known, and an event be seen; of a single target, each class must occur and numbers
    must vary. A validation part must know a target, and for a Cox model an event. Validation parts that lack a class or
    are small, and test parts of one class, are told of.

    Args:
        folds: seed and fold of each model.
        asked: the targets.
        groups: bag id -> patient.
        findings: are added to.
    """
    found: dict[_Fault, list[str]] = defaultdict(list)
    small: list[int] = []
    tested: set[str] = set()
    total = 0
    for seed, fold in folds:
        total += 1
        tested.update(fold.test)
        faults = [fault for each in asked for fault in _faults(each, fold, alone=len(asked) == 1)]
        if not any(bag in each.values for each in asked for bag in fold.val):
            faults.append(_Fault("no slide of the validation part has a value, so nothing would choose the epoch"))
        for fault in faults:
            found[fault].append(f"fold {fold.index} of seed {seed}")
        patients = len({groups[bag] for bag in fold.val})
        if patients < FEW_PATIENTS:
            small.append(patients)
    for fault, where in found.items():
        if fault.stops:
            places = f"{', '.join(where[:2])}{f' and {len(where) - 2} more' if len(where) > 2 else ''}"
            advice = "Ask for fewer folds, another split, or add patients."
            findings.troubles.append(f"{places}: {fault.text}. {advice}")
        else:
            findings.notes.append(f"{len(where)} of {total} folds: {fault.text}.")
    if small:
        findings.notes.append(
            f"{len(small)} of {total} validation parts have fewer than {FEW_PATIENTS} patients ({min(small)} the fewest): "
            "epoch and threshold hang on few."
        )
    for each in asked:
        absent = _absent(each, tested) if tested else []
        if absent:
            findings.notes.append(
                f"{_of(each)}no test part has a slide of class {absent[0]!r}: scores that need every class stay empty."
            )


def check_features(bags: Iterable[Bag]) -> None:
    """Make sure that bags have one dimension and finite features.

    Raises:
        UsageError: they have not; the message names a bag.
    """
    dims: dict[int, str] = {}
    for bag in bags:
        dims.setdefault(bag.dim, bag.bag_id)
        if len(dims) > 1:
            (one, first), (other, second) = dims.items()
            raise UsageError(
                f"Bag {first} has {one} features a tile and bag {second} {other}. Train on one feature set at a time."
            )
        features = bag.features if isinstance(bag.features, np.ndarray) else as_floats(bag.features).cpu().numpy()
        if not np.isfinite(features).all():
            raise UsageError(f"Bag {bag.bag_id} has features that are not finite. Extract it again, or leave it out.")


class _Fault(NamedTuple):
    """What is wrong with a fold, and whether it stops the study."""

    text: str
    stops: bool = True


def _faults(asked: Asked, fold: Fold, *, alone: bool) -> list[_Fault]:
    """Of several targets one may have nothing to learn in a fold as long as it can be trained on."""
    train, val, test = ([asked.values[bag] for bag in part if bag in asked.values] for part in fold.parts().values())
    of = _of(asked)
    if not train:
        return [_Fault(f"{of}no slide of the training part has a value")]
    if asked.kind in _GRADED:
        return _class_faults(asked, train, val, test, alone=alone)
    found = []
    if asked.kind == "multilabel":
        said = Counter(label for value in train for label in read_labels(value))
        flat = [name for name in asked.classes if said[name] in (0, len(train))]
        if flat:
            told = f"label {flat[0]!r} is the same on all slides of the training part and cannot be learnt there"
            found.append(_Fault(of + told, stops=False))
    elif asked.kind == "regression" and len({read_number(value) for value in train}) == 1:
        found.append(_Fault(f"{of}all numbers of the training part are equal", stops=alone))
    elif asked.kind in SURVIVAL:
        if not any(read_survival(value)[1] for value in train):
            found.append(_Fault(f"{of}no event was seen in the training part"))
        if val and not any(read_survival(value)[1] for value in val):
            cox = asked.kind == "survival-cox"
            why = "where a Cox loss is 0 whatever the model" if cox else "so censored slides alone choose the epoch"
            found.append(_Fault(f"{of}no event was seen in the validation part, {why}", stops=cox))
    return found


def _class_faults(
    asked: Asked, train: Sequence[str], val: Sequence[str], test: Sequence[str], *, alone: bool
) -> list[_Fault]:
    found, of = [], _of(asked)
    missing = [name for name in asked.classes if name not in train]
    if missing:
        found.append(_Fault(f"{of}the training part has no slide of class {missing[0]!r}", stops=alone))
    if val and set(asked.classes) - set(val):
        told = "the validation part lacks a class, so epoch, temperature and threshold come from the others alone"
        found.append(_Fault(of + told, stops=False))
    if len(set(test)) == 1:
        told = "the test part has one class alone, so its own AUROC is not defined; the pooled one may be"
        found.append(_Fault(of + told, stops=False))
    return found


def _absent(asked: Asked, tested: Iterable[str]) -> list[str]:
    if asked.kind not in _GRADED:
        return []
    seen = {asked.values[bag] for bag in tested if bag in asked.values}
    return [name for name in asked.classes if name not in seen]


def _of(asked: Asked) -> str:
    return f"target {asked.name!r}: " if asked.name else ""
