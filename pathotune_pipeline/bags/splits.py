"""Patient-grouped, stratified folds. A patient is never on two sides of a split, and that is checked, not hoped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pathotune_pipeline.errors import ManifestError, PathotuneError, UsageError

_HELD_OUT = 0x70
"""The draw of a held-out part, beside those of folds' validation parts."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One cut of the bags into three parts.

    Attributes:
        index: from 0.
        train: ids to learn from, sorted.
        val: ids to choose the epoch with, sorted.
        test: ids to be judged on, sorted.
    """

    index: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def parts(self) -> dict[str, tuple[str, ...]]:
        """The ids of each part by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def patient_folds(
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int = 5,
    seed: int = 0,
    val_share: float = 0.2,
) -> list[Fold]:
    """Cut bags into folds by patient, with about the same classes in each.

    Test parts come from scikit-learn's StratifiedGroupKFold. From the rest, `val_share` of the patients of each
    class (at least one where there are two) go to the validation part. The order of the input does not matter.

    Args:
        labels: bag id -> class.
        groups: bag id -> patient.
        folds: how many; every bag is in exactly one test part.
        seed: of both shuffles.
        val_share: share of the non-test patients, above 0 and below 1.

    Raises:
        UsageError: folds or val_share make no sense, or a bag has no patient.
        ManifestError: a class has too few patients.
    """
    if folds < 2 or not 0 < val_share < 1:
        raise UsageError(f"folds={folds}, val_share={val_share}: folds must be at least 2, val_share between 0 and 1.")
    ids = sorted(labels)
    homeless = [bag for bag in ids if bag not in groups]
    if homeless:
        raise UsageError(f"bag {homeless[0]} has no patient ({len(homeless)} such bags). Give each bag a group.")
    _check_counts(labels, groups, folds, asked=f"{folds} folds were asked for")

    from sklearn.model_selection import StratifiedGroupKFold

    y, patients = np.array([labels[bag] for bag in ids]), np.array([groups[bag] for bag in ids])
    cutter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    made = []
    for index, (rest, test) in enumerate(cutter.split(np.zeros(len(ids)), y, patients)):
        remaining = [ids[i] for i in rest]
        train, val = split_off_validation(remaining, labels, groups, key=(seed, index), share=val_share)
        fold = Fold(index, train=train, val=val, test=tuple(ids[i] for i in test))
        check_disjoint(fold.parts(), groups)
        check_learnable(fold, labels)
        made.append(fold)
    return made


def patient_holdout(
    labels: Mapping[str, str], groups: Mapping[str, str], *, test_share: float, val_share: float, seed: int = 0
) -> Fold:
    """Cut bags into one training, validation and test part by patient, with about the same classes in each.

    Of the patients of each class `test_share` go to the test part and `val_share` of the rest to validation, at least
    one each where the class has one to spare. The order of the input does not matter.

    Args:
        labels: bag id -> class.
        groups: bag id -> patient.
        test_share: 0 holds nothing out; below 1.
        val_share: share of the patients not held out, above 0 and below 1.
        seed: of the shuffle.

    Raises:
        UsageError: a share makes no sense.
        ManifestError: fewer than two classes, or a class has too few patients.
    """
    if not (0 <= test_share < 1 and 0 < val_share < 1):
        raise UsageError(f"Shares of {test_share} for test and {val_share} for validation: give 0 or more, under 1.")
    ids = sorted(labels)
    _check_counts(labels, groups, 3, asked="A patient-grouped split was asked for")
    rest: tuple[str, ...] = tuple(ids)
    test: tuple[str, ...] = ()
    if test_share:
        rest, test = split_off_validation(ids, labels, groups, key=(seed, _HELD_OUT), share=test_share)
    train, val = split_off_validation(rest, labels, groups, key=(seed, 0), share=val_share)
    fold = Fold(0, train=train, val=val, test=test)
    check_disjoint(fold.parts(), groups)
    check_learnable(fold, labels)
    return fold


def check_disjoint(parts: Mapping[str, Sequence[str]], groups: Mapping[str, str], *, where: str = "") -> None:
    """Make sure that no patient is in two parts.

    Args:
        parts: part's name -> bag ids.
        groups: bag id -> patient.
        where: what the parts come from, for the message.

    Raises:
        PathotuneError: a patient, or a bag, is in two parts; the message names one.
    """
    patients = {name: {groups[bag] for bag in bags} for name, bags in parts.items()}
    for (one, left), (other, right) in combinations(patients.items(), 2):
        shared = sorted(left & right)
        if shared:
            raise PathotuneError(
                f"{where}{': ' if where else ''}Leakage: patient {shared[0]!r} is in both {one} and {other} "
                f"({len(shared)} such patients). Split by patient."
            )


def patient_labels(labels: Mapping[str, str], groups: Mapping[str, str]) -> dict[str, str]:
    """One class for each patient: the most frequent among the patient's bags, the first by name among equals."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for bag, label in labels.items():
        found[groups[bag]][label] += 1
    return {who: min(count, key=lambda name: (-count[name], name)) for who, count in sorted(found.items())}


def _check_counts(labels: Mapping[str, str], groups: Mapping[str, str], folds: int, *, asked: str) -> None:
    patients: dict[str, set[str]] = defaultdict(set)
    for bag, label in labels.items():
        patients[label].add(groups[bag])
    if len(patients) < 2:
        raise ManifestError(f"Stratified folds need two classes; found {sorted(patients)}. Look at the target column.")
    for label, who in sorted(patients.items()):
        if len(who) < max(folds, 3):
            counts = ", ".join(f"{name}: {len(each)}" for name, each in sorted(patients.items()))
            raise ManifestError(
                f"{asked}, and class {label!r} has {len(who)} patients ({counts}). Each test part "
                f"needs one, and training and validation too: {_advice(len(who))}"
            )


def _advice(patients: int) -> str:
    if patients >= 3:
        return f"ask for {patients} folds or fewer, or add patients of that class."
    return "add patients of that class (3 or more), or leave the class out."


def split_off_validation(
    bags: Sequence[str],
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    key: tuple[int, int],
    share: float,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Part bags by patient into those that train and those that validate, with about the same classes in both.

    Args:
        bags: ids, in their order.
        labels: bag id -> class.
        groups: bag id -> patient.
        key: seed and fold, which the draw begins with.
        share: of the patients of each class that validates; at least one where there are two.
    """
    rng = np.random.default_rng(key)
    by_class: dict[str, list[str]] = defaultdict(list)
    for patient, label in patient_labels({bag: labels[bag] for bag in bags}, groups).items():
        by_class[label].append(patient)
    chosen: set[str] = set()
    for _, patients in sorted(by_class.items()):
        wanted = min(max(round(share * len(patients)), 1), len(patients) - 1)
        chosen.update(patients[i] for i in rng.permutation(len(patients))[:wanted])
    train, val = (tuple(bag for bag in bags if (groups[bag] in chosen) is side) for side in (False, True))
    return train, val


def check_learnable(fold: Fold, labels: Mapping[str, str]) -> None:
    """Make sure that a fold trains on every class and has something to validate with.

    Raises:
        ManifestError: it does not.
    """
    missing = sorted(set(labels.values()) - {labels[bag] for bag in fold.train})
    if missing or not fold.val:
        what = f"no bag of class {missing[0]!r} to train with" if missing else "no bag to validate with"
        raise ManifestError(f"Fold {fold.index} has {what}. Ask for fewer folds, or add patients of the rare class.")
