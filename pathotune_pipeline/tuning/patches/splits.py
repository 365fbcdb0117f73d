"""Splits of patches by group: parts, folds, and nested fractions of the training groups.

A group (slide, patient) is never torn apart. Groups hold patches of several classes, so classes cannot be shared out
exactly: groups are dealt one by one, those that weigh most first, each to the part where the classes are then nearest to
its share of them (least chi-square). A patch without a group is a group of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.tuning.patches.patch_set import UNLABELLED, PatchSet

_ATTEMPTS = 16
_VALIDATION = 0x7A1
_NESTED = 0x4E5
PAPER_SPLIT = (
    "Patches are split one by one, not by slide or patient: those of one slide are on both sides, and scores are too "
    "good. This is only for comparison with papers that did so."
)


class LeakageWarning(UserWarning):
    """A split that tears groups apart was asked for."""


@dataclass(frozen=True, slots=True)
class PatchFold:
    """One cut of patches; each part int64 [K], places in the PatchSet, ascending.

    Attributes:
        index: from 0.
        train: to learn from.
        val: to choose the epoch with.
        test: to be judged on.
    """

    index: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, slots=True)
class NestedPart:
    """A fraction of the training groups; the larger fractions of the same draw hold it.

    Attributes:
        fraction: of the groups, as it was asked for.
        index: int64 [K], places in the PatchSet, ascending.
        groups: how many it holds.
        counts: patches of each class.
        problem: why it cannot be trained on; "" where it can.
    """

    fraction: float
    index: np.ndarray
    groups: int
    counts: dict[str, int]
    problem: str = ""


def grouped_split(
    patches: PatchSet,
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    index: np.ndarray | None = None,
    paper_split: bool = False,
) -> dict[str, np.ndarray]:
    """Cut labelled patches into parts by group, with about the same classes in each.

    Args:
        patches: those without a label are in no part.
        fractions: share of each part by its name; they sum to 1.
        seed: of the draw; neither the process's random state nor the order of the patches matters.
        index: cut only the patches at these places.
        paper_split: cut patch by patch, as some papers did; warns.

    Returns:
        int64 [K], places in the PatchSet, ascending, for each part.

    Raises:
        UsageError: the fractions make no sense.
        ManifestError: a class is in too few groups for every part to have it.
    """
    shares = np.array(list(fractions.values()), np.float64)
    if len(shares) < 2 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise UsageError(f"fractions {dict(fractions)}: give two or more above 0 that sum to 1.")
    chosen = _labelled(patches, index)
    part = _deal(patches, chosen, shares, seed=(seed,), by_patch=paper_split)
    return {name: chosen[part == place] for place, name in enumerate(fractions)}


def grouped_folds(
    patches: PatchSet,
    folds: int,
    *,
    seed: int = 0,
    val_share: float = 0.2,
    index: np.ndarray | None = None,
    paper_split: bool = False,
) -> list[PatchFold]:
    """Cut labelled patches into folds by group: each patch is tested in exactly one.

    Args:
        patches: those without a label are in no part.
        folds: how many, 2 or more.
        seed: of the draw.
        val_share: share of what is not tested that validates; 0 for none.
        index: cut only the patches at these places.
        paper_split: cut patch by patch, as some papers did; warns.

    Raises:
        UsageError: folds or val_share make no sense.
        ManifestError: a class is in too few groups.
    """
    if folds < 2 or not 0 <= val_share < 1:
        raise UsageError(f"folds={folds}, val_share={val_share}: give 2 folds or more, and a share from 0 to under 1.")
    chosen = _labelled(patches, index)
    tested = _deal(patches, chosen, np.full(folds, 1 / folds), seed=(seed,), by_patch=paper_split)
    made = []
    for fold in range(folds):
        test, rest = chosen[tested == fold], chosen[tested != fold]
        train, val = rest, rest[:0]
        if val_share:
            shares = np.array([1 - val_share, val_share])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LeakageWarning)  # said once
                part = _deal(patches, rest, shares, seed=(seed, _VALIDATION, fold), by_patch=paper_split)
            train, val = rest[part == 0], rest[part == 1]
        made.append(PatchFold(fold, train, val, test))
    return made


def nested_fractions(
    patches: PatchSet,
    train: np.ndarray,
    fractions: Sequence[float],
    *,
    seed: int = 0,
    min_per_class: int = 5,
) -> list[NestedPart]:
    """Fractions of the training groups, each within the next larger one.

    Groups are put in one random order, in which those of each class are spread evenly, and a fraction takes the first
    of them. A group counts to the class that it holds most of, against that class's share of all.

    Args:
        patches: the set.
        train: int64 [K], places of the training patches.
        fractions: of the groups, above 0 and up to 1, rising.
        seed: of the order.
        min_per_class: a fraction with fewer patches of a class is reported as a problem, not left out in silence.

    Raises:
        UsageError: the fractions make no sense, or there is nothing to train on.
    """
    if not fractions or list(fractions) != sorted(set(fractions)) or not (fractions[0] > 0 and fractions[-1] <= 1):
        raise UsageError(f"fractions {list(fractions)}: give rising numbers above 0 and up to 1.")
    chosen = _labelled(patches, np.asarray(train, np.int64))
    if not len(chosen):
        raise UsageError("There are no labelled patches to take fractions of.")
    units, owner = _units(patches, chosen, by_patch=False)
    counts = _counts(patches, chosen, owner, len(units))
    order = _spread(counts, np.random.default_rng([seed, _NESTED]))
    rank = np.empty(len(units), np.int64)
    rank[order] = np.arange(len(units))
    parts = []
    for fraction in fractions:
        groups = max(1, round(fraction * len(units)))
        inside = chosen[rank[owner] < groups]
        held = patches.counts(inside)
        few = [f"{held[name]} of {name}" for name in patches.classes if held[name] < min_per_class]
        problem = f"{groups} groups hold {', '.join(few)}; {min_per_class} of each class are needed." if few else ""
        parts.append(NestedPart(fraction, inside, groups, held, problem))
    return parts


def check_parts(patches: PatchSet, parts: Mapping[str, np.ndarray], *, where: str = "") -> None:
    """Make sure that no group is in two parts.

    Raises:
        PathotuneError: one is, or a patch is; the message names it.
    """
    from pathotune_pipeline.bags.splits import check_disjoint

    units = dict(zip(patches.names, patches.units.tolist(), strict=True))
    names = {part: [patches.names[place] for place in index.tolist()] for part, index in parts.items()}
    check_disjoint(names, units, where=where)


def _labelled(patches: PatchSet, index: np.ndarray | None) -> np.ndarray:
    chosen = np.arange(len(patches)) if index is None else np.unique(np.asarray(index, np.int64))
    return np.asarray(chosen[patches.labels[chosen] != UNLABELLED])


def _units(patches: PatchSet, chosen: np.ndarray, *, by_patch: bool) -> tuple[np.ndarray, np.ndarray]:
    """What is dealt whole, sorted by name so that the order of the patches does not matter; and each patch's."""
    names = np.array(patches.names, dtype=object) if by_patch else patches.units
    units, owner = np.unique(names[chosen], return_inverse=True)
    return units, owner


def _counts(patches: PatchSet, chosen: np.ndarray, owner: np.ndarray, units: int) -> np.ndarray:
    """Patches of each class in each unit: float64 [G, C]."""
    counts = np.zeros((units, len(patches.classes)), np.float64)
    np.add.at(counts, (owner, patches.labels[chosen]), 1)
    return counts


def _deal(
    patches: PatchSet, chosen: np.ndarray, shares: np.ndarray, *, seed: tuple[int, ...], by_patch: bool
) -> np.ndarray:
    """The part of each of the chosen patches, int64 [K]."""
    if by_patch:
        warnings.warn(PAPER_SPLIT, LeakageWarning, stacklevel=3)
    units, owner = _units(patches, chosen, by_patch=by_patch)
    counts = _counts(patches, chosen, owner, len(units))
    present = counts.sum(axis=0) > 0
    _check_enough(patches, counts, len(shares))
    for attempt in range(_ATTEMPTS):
        part = _deal_once(counts[:, present], shares, np.random.default_rng([*seed, attempt]))
        held = np.zeros((len(shares), int(present.sum())))
        np.add.at(held, part, counts[:, present])
        if (held > 0).all():
            return np.asarray(part[owner])
    place, missing = np.argwhere(held == 0)[0]
    name = np.array(patches.classes, dtype=object)[present][missing]
    raise ManifestError(
        f"A split in parts of {', '.join(f'{share:.2f}' for share in shares)} leaves part {place} without class {name!r} "
        f"in {_ATTEMPTS} draws: few groups hold it, or hold most of it. Ask for fewer or larger parts."
    )


def _check_enough(patches: PatchSet, counts: np.ndarray, parts: int) -> None:
    holders = (counts > 0).sum(axis=0)
    found = {name: int(held) for name, held in zip(patches.classes, holders, strict=True) if held}
    if len(found) < 2:
        raise ManifestError(f"A split by class needs two classes; found {', '.join(found) or 'no labelled patch'}.")
    name = min(found, key=lambda each: found[each])
    if found[name] < parts:
        told = ", ".join(f"{each}: {held}" for each, held in found.items())
        raise ManifestError(
            f"{parts} parts are asked for, and class {name!r} is in {found[name]} groups ({told}). Every part needs one: "
            "ask for fewer parts, add slides of that class, or leave the class out."
        )


def _deal_once(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of each unit: each goes where chi-square of counts against targets then grows least."""
    targets = shares[:, None] * counts.sum(axis=0)  # [P, C]
    weight = (counts**2 / counts.sum(axis=0)).sum(axis=1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-weight[order], kind="stable")]
    held = np.zeros_like(targets)
    part = np.empty(len(counts), np.int64)
    for unit in order.tolist():
        own = counts[unit]
        growth = (own * (own + 2 * (held - targets)) / targets).sum(axis=1)
        place = int(growth.argmin())
        part[unit] = place
        held[place] += own
    return part


def _spread(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order of units in which every stretch holds each class's units in proportion."""
    total = counts.sum(axis=0)
    stratum = (counts / np.maximum(total, 1)).argmax(axis=1)
    position = np.empty(len(counts))
    for each in np.unique(stratum):
        members = rng.permutation(np.flatnonzero(stratum == each))
        position[members] = (np.arange(len(members)) + rng.random(len(members))) / len(members)
    return np.asarray(np.argsort(position, kind="stable"))
