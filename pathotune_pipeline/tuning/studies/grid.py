"""The cells of a study: every contender on the same parts, cut by slide or patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pathotune_pipeline.bags.splits import (
    check_disjoint,
    patient_folds,
    patient_holdout,
    patient_labels,
    split_off_validation,
)
from pathotune_pipeline.errors import ManifestError, SpecError
from pathotune_pipeline.tuning.studies.cell import Cell, Contender, Items, Parts, cell_fingerprint
from pathotune_pipeline.tuning.studies.spec import DomainsSpec, GridSpec, ScalingSpec, check_names

ALL = ""
"""The training domain of cells that train on all of `train_domains` at once."""
ONE_TEST = "test"
"""The test set's name where the data tell no domains."""
_NESTED = 0x4E
"""The draw of nested fractions, beside those of the validation parts."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A study's cells.

    Attributes:
        cells: in the order in which they are computed and shown.
        notes: what a reader should know of how they were cut.
    """

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _HoldOut:
    """One hold-out of what a study trains on: ids of items."""

    fold: int
    rest: tuple[str, ...]
    test: tuple[str, ...]


def scaling_grid(items: Items, contenders: Sequence[Contender], spec: ScalingSpec) -> Grid:
    """Nested shares of the training groups; for each hold-out one test set, whatever the method, fraction and seed.

    Args:
        items: all of them.
        contenders: rows.
        spec: fractions, hold-outs, seeds.

    Raises:
        SpecError: a domain that the data do not have.
    """
    domains = _domains(items, spec)
    cutter = _Cutter(items, spec, domains)
    cells = [
        cell
        for contender in contenders
        for fraction in spec.fractions
        for cell in cutter.cells(contender, ALL, fraction=fraction)
    ]
    return Grid(tuple(cells), tuple(cutter.notes))


def domains_grid(items: Items, contenders: Sequence[Contender], spec: DomainsSpec) -> Grid:
    """Each domain trained on alone, tested on its hold-out and on every other domain.

    Args:
        items: all of them.
        contenders: rows.
        spec: domains to train on, hold-outs, seeds.

    Raises:
        SpecError: fewer than two domains, or one that the data do not have.
    """
    domains = _domains(items, spec)
    if len(set(items.domains)) < 2:
        raise SpecError(
            f"A study of domains needs two domains or more; the data name {sorted(set(items.domains))}. "
            "Name the column that tells them, such as `domain`, in the patches' settings."
        )
    cutters = [_Cutter(items, spec, (domain,)) for domain in domains]
    cells = [
        cell
        for contender in contenders
        for domain, cutter in zip(domains, cutters, strict=True)
        for cell in cutter.cells(contender, domain, fraction=1.0)
    ]
    return Grid(tuple(cells), tuple(dict.fromkeys(note for cutter in cutters for note in cutter.notes)))


def nested_part(
    ids: Sequence[str], labels: dict[str, str], groups: dict[str, str], *, fraction: float, key: tuple[int, int]
) -> tuple[str, ...]:
    """The items of a share of the groups of each class, at least one; a larger share of the same key holds a smaller one's.

    Args:
        ids: to choose from.
        labels: id -> class. A group counts for the class that most of its items have.
        groups: id -> group.
        fraction: above 0, at most 1; rounded up to whole groups.
        key: seed and fold, which the draw begins with.
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for group, label in patient_labels({each: labels[each] for each in ids}, groups).items():
        by_class[label].append(group)
    rng = np.random.default_rng((*key, _NESTED))
    chosen: set[str] = set()
    for _, own in sorted(by_class.items()):
        count = int(np.ceil(fraction * len(own) - 1e-9))
        chosen.update(own[place] for place in rng.permutation(len(own))[:count])
    return tuple(each for each in ids if groups[each] in chosen)


class _Cutter:
    """Cuts what some domains have into parts, the same for every contender."""

    def __init__(self, items: Items, spec: GridSpec, domains: Sequence[str]) -> None:
        self.notes: list[str] = []
        self._items, self._spec, self._domains = items, spec, tuple(domains)
        self._place = {name: place for place, name in enumerate(items.names)}
        own = [name for name, domain in zip(items.names, items.domains, strict=True) if domain in set(domains)]
        self._labels = {name: items.classes[items.targets[self._place[name]]] for name in own}
        self._groups = {name: items.groups[self._place[name]] or f"image {name}" for name in own}
        alone = sum(1 for name in own if not items.groups[self._place[name]])
        if alone:
            where = f" of {', '.join(filter(None, domains))}" if any(domains) else ""
            self.notes.append(f"{alone} training images{where} name no slide or patient: each is split by itself.")
        self._made: dict[tuple[int, float, int], Parts] = {}
        self._why_not, self._holdouts = "", list[_HoldOut]()
        try:
            self._holdouts = list(self._hold_out())
        except ManifestError as error:
            self._why_not = str(error)

    def cells(self, contender: Contender, domain: str, *, fraction: float) -> Iterator[Cell]:
        """Of every hold-out and seed; where the data cannot be cut, one that says why."""
        if self._why_not:
            yield self._cell(contender, domain, Parts(_none(), _none(), {}), at=(fraction, 0, 0))
        for holdout in self._holdouts:
            for seed in range(self._spec.seeds):
                parts = self._parts(holdout, fraction, seed)
                yield self._cell(contender, domain, parts, at=(fraction, holdout.fold, seed))

    def _cell(self, contender: Contender, domain: str, parts: Parts, *, at: tuple[float, int, int]) -> Cell:
        return Cell(
            contender,
            domain,
            *at,
            parts=parts,
            fingerprint=cell_fingerprint(self._items, contender, parts, seed=at[2]),
            not_run=self._why_not or self._too_few(parts),
        )

    def _hold_out(self) -> Iterator[_HoldOut]:
        spec, shares = self._spec, {"val_share": self._spec.val_share, "seed": self._spec.split_seed}
        if spec.folds == 1:
            cut = [patient_holdout(self._labels, self._groups, test_share=spec.test_share, **shares)]
        else:
            cut = patient_folds(self._labels, self._groups, folds=spec.folds, **shares)
        for fold in cut:
            yield _HoldOut(fold.index, tuple(sorted((*fold.train, *fold.val))), fold.test)

    def _parts(self, holdout: _HoldOut, fraction: float, seed: int) -> Parts:
        at = (holdout.fold, fraction, seed)
        if at not in self._made:
            self._made[at] = self._cut(holdout, fraction, seed)
        return self._made[at]

    def _cut(self, holdout: _HoldOut, fraction: float, seed: int) -> Parts:
        key = (seed, holdout.fold)
        parts = split_off_validation(holdout.rest, self._labels, self._groups, key=key, share=self._spec.val_share)
        train, val = (nested_part(part, self._labels, self._groups, fraction=fraction, key=key) for part in parts)
        check_disjoint({"train": train, "val": val, "test": holdout.test}, self._groups, where="study")
        return Parts(self._index(train), self._index(val), self._tests(holdout))

    def _tests(self, holdout: _HoldOut) -> dict[str, np.ndarray]:
        """The hold-out by domain, and each other domain without the groups that any fraction may learn from."""
        items, seen = self._items, {self._groups[name] for name in holdout.rest}
        tests: dict[str, list[str]] = {}
        for name in holdout.test:
            tests.setdefault(items.domains[self._place[name]] or ONE_TEST, []).append(name)
        found = {name: self._index(own) for name, own in sorted(tests.items())}
        for domain in sorted(set(items.domains) - set(self._domains)):
            own = [place for place, each in enumerate(items.domains) if each == domain]
            kept = [place for place in own if items.groups[place] not in seen]
            if len(kept) < len(own):
                self._note(
                    f"{len(own) - len(kept)} images of {domain} are of slides or patients that are trained on, "
                    "and are not tested."
                )
            if kept:
                found[domain or ONE_TEST] = np.array(kept, np.int64)
        return found

    def _too_few(self, parts: Parts) -> str:
        needed = {"train with": (parts.train, self._spec.min_per_class), "validate with": (parts.val, 1)}
        for what, (index, least) in needed.items():
            counts = np.bincount(self._items.targets[index], minlength=len(self._items.classes))
            place = int(counts.argmin())
            if counts[place] < least:
                return f"class {self._items.classes[place]!r} has {counts[place]} images to {what}; {least} are needed"
        return ""

    def _index(self, names: Sequence[str]) -> np.ndarray:
        return np.array(sorted(self._place[name] for name in names), np.int64)

    def _note(self, said: str) -> None:
        if said not in self.notes:
            self.notes.append(said)


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


def _domains(items: Items, spec: GridSpec) -> tuple[str, ...]:
    """Those that are trained on."""
    known = tuple(sorted(set(items.domains)))
    check_names(spec.train_domains, known, what="Domain")
    return spec.train_domains or known
