"""Assignments of cases to folds that outlive a run: as the archive grows, a test case stays a test case.

The file is JSON with one case a line: the fold that tests it, and the folds in which it validates. Who is in it keeps
its place whatever becomes of its label and slides, also while it is absent; new cases are placed so that each fold has
about as many of every class.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.bags.splits import Fold, check_disjoint, patient_labels
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.store.files import replace_file

FORMAT = "pathotune-assignments"
REVISION = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case stands.

    Attributes:
        fold: that tests it.
        val: folds in which it validates, sorted; in all others it trains.
    """

    fold: int
    val: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignments:
    """The places of cases.

    Attributes:
        folds: how many there are.
        cases: case -> its place.
    """

    folds: int
    cases: Mapping[str, Place]

    def fold_list(self, groups: Mapping[str, str]) -> list[Fold]:
        """The folds of a cohort.

        Args:
            groups: bag id -> case, all of which have a place.
        """
        made = []
        for index in range(self.folds):
            parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
            for bag, case in sorted(groups.items()):
                place = self.cases[case]
                parts["test" if place.fold == index else "val" if index in place.val else "train"].append(bag)
            fold = Fold(index, **{part: tuple(bags) for part, bags in parts.items()})
            check_disjoint(fold.parts(), groups)
            made.append(fold)
        return made


def extend_assignments(known: Assignments, strata: Mapping[str, str], *, seed: int, val_share: float) -> Assignments:
    """Give every case a place that has none, class by class to the folds with fewest; nobody is moved.

    Args:
        known: the places so far.
        strata: case -> class, of the cohort as it is now.
        seed: of the draws among equals.
        val_share: share of each class's non-test cases that validates in a fold; it is kept by the new cases alone.
    """
    rng = np.random.default_rng([seed, len(known.cases), 0xA551])
    new = sorted(strata.keys() - known.cases.keys())
    own = {case: place.fold for case, place in known.cases.items()}
    roles: dict[str, set[int]] = {case: set() for case in new}
    totals = Counter(own[case] for case in strata if case in own)
    for stratum in sorted(set(strata.values())):
        members = [case for case in sorted(strata) if strata[case] == stratum]
        counts = Counter(own[case] for case in members if case in own)
        fresh = [case for case in members if case not in own]
        for at in rng.permutation(len(fresh)):
            luck = rng.permutation(known.folds)
            fold = min(range(known.folds), key=lambda k: (counts[k], totals[k], luck[k]))
            own[fresh[at]] = fold
            counts[fold] += 1
            totals[fold] += 1
        for fold in range(known.folds):
            rest = [case for case in members if own[case] != fold]
            old = sum(case not in roles and fold in known.cases[case].val for case in rest)
            # Folds round at different counts, so that a case that comes alone does not validate in all of them.
            wanted = int(np.floor(val_share * len(rest) + (fold + 0.5) / known.folds))
            wanted = min(max(wanted, 1), len(rest) - 1)
            open_ = [case for case in rest if case in roles]
            for at in rng.permutation(len(open_))[: max(wanted - old, 0)]:
                roles[open_[at]].add(fold)
    placed = {case: Place(own[case], tuple(sorted(roles[case]))) for case in new}
    return Assignments(known.folds, {**known.cases, **placed})


def keep_assignments(
    path: Path,
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int,
    seed: int,
    val_share: float,
    record: bool = True,
) -> tuple[list[Fold], list[str]]:
    """Cut a cohort by the file's assignments, and add to the file the cases that it does not know.

    Args:
        path: the file; made where there is none.
        labels: bag id -> class.
        groups: bag id -> case.
        folds: how many the file shall have.
        seed: for the places of new cases.
        val_share: see `extend_assignments`.
        record: whether new cases are written down.

    Returns:
        The folds, and what a reader should know.

    Raises:
        ManifestError: the file is none of ours, or has another number of folds.
        UsageError: it cannot be read or written.
    """
    strata = patient_labels(labels, groups)
    with _locked(path.parent):
        known = read_assignments(path) if path.exists() else Assignments(folds, {})
        if known.folds != folds:
            raise ManifestError(
                f"{path}: it has {known.folds} folds, and {folds} were asked for. Ask for {known.folds}, or name another file."
            )
        found = extend_assignments(known, strata, seed=seed, val_share=val_share)
        added, absent = len(found.cases) - len(known.cases), len(found.cases.keys() - strata.keys())
        if added and record:
            write_assignments(path, found)
    note = f"{path.name}: {len(strata) - added} cases keep their fold, {added} are new"
    note += f", {absent} on record are not in this cohort." if absent else "."
    return found.fold_list({bag: groups[bag] for bag in labels}), [note]


def read_assignments(path: Path) -> Assignments:
    """Read what `write_assignments` wrote.

    Raises:
        ManifestError: it is something else.
        UsageError: it cannot be read.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT or told["revision"] != REVISION:
            raise ValueError(f"format {told['format']!r} {told['revision']!r}")
        folds = int(told["folds"])
        cases = {str(case): Place(int(at["fold"]), tuple(map(int, at["val"]))) for case, at in told["cases"].items()}
        odd = [case for case, at in cases.items() if not {at.fold, *at.val} <= set(range(folds)) or at.fold in at.val]
        if odd:
            raise ValueError(f"the place of case {odd[0]!r} makes no sense")
    except OSError as error:
        raise UsageError(f"--assignments {path}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{path}: these are no assignments of a format that this version knows ({error}). Mend the file, or name another."
        ) from None
    return Assignments(folds, cases)


def write_assignments(path: Path, assignments: Assignments) -> None:
    """Write assignments whole, over older ones.

    Raises:
        UsageError: the disk does not allow it.
    """
    cases = [
        f"  {json.dumps(case, ensure_ascii=False)}: {json.dumps({'fold': place.fold, 'val': list(place.val)})}"
        for case, place in sorted(assignments.cases.items())
    ]
    head = f' "format": "{FORMAT}",\n "revision": {REVISION},\n "folds": {assignments.folds},\n "cases": {{\n'
    text = "{\n" + head + ",\n".join(cases) + "\n }\n}\n"
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise UsageError(f"--assignments {path}: cannot be written ({error.strerror or error}).") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that two runs that add cases do so one after the other."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"--assignments: folder {folder} cannot be opened ({error.strerror or error}).") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
