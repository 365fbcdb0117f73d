"""The cells of a study: every contender on the same parts, cut by slide or patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pathotune_pipeline.errors import ManifestError, SpecError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.splits import (
    NestedPart,
    check_parts,
    grouped_folds,
    grouped_split,
    nested_fractions,
)
from pathotune_pipeline.tuning.studies.cell import Cell, Contender, Items, Parts, cell_fingerprint
from pathotune_pipeline.tuning.studies.material import items_of
from pathotune_pipeline.tuning.studies.spec import DomainsSpec, GridSpec, ScalingSpec, check_names

ALL = ""
"""The training domain of cells that train on all that there are."""
ONE_TEST = "test"
"""The test set's name where the data tell no domains."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A study's cells.

    Attributes:
        items: what was cut.
        cells: in the order in which they are computed and shown.
        notes: what a reader should know of how they were cut.
    """

    items: Items
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, eq=False)
class _HoldOut:
    """One hold-out of what a study trains on; places of patches."""

    fold: int
    rest: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    parts: Parts
    not_run: str = ""


def scaling_grid(patches: PatchSet, contenders: Sequence[Contender], spec: ScalingSpec) -> Grid:
    """Nested shares of the training groups; for each hold-out one test set, whatever the method, fraction and seed.

    Args:
        patches: all of them, each with a label.
        contenders: rows.
        spec: fractions, hold-outs, seeds.

    Raises:
        SpecError: a domain that the data do not have.
    """
    items, domains = items_of(patches), _domains(patches, spec)
    trained = ALL if len(domains) == len(set(patches.domains)) else "+".join(domains)
    cutter = _Cutter(patches, items, spec, domains, fractions=spec.fractions)
    cells = [
        cell
        for contender in contenders
        for fraction in spec.fractions
        for cell in cutter.cells(contender, trained, fraction=fraction)
    ]
    return Grid(items, tuple(cells), tuple(cutter.notes))


def domains_grid(patches: PatchSet, contenders: Sequence[Contender], spec: DomainsSpec) -> Grid:
    """Each domain trained on alone, tested on its hold-out and on every other domain.

    Args:
        patches: all of them, each with a label.
        contenders: rows.
        spec: domains to train on, hold-outs, seeds.

    Raises:
        SpecError: fewer than two domains, or one that the data do not have.
    """
    items, domains = items_of(patches), _domains(patches, spec)
    if len(set(patches.domains)) < 2:
        raise SpecError(
            f"A study of domains needs two domains or more; the data name {sorted(set(patches.domains))}. "
            "Name the column that tells them, such as `domain`, in the patches' settings."
        )
    cutters = [_Cutter(patches, items, spec, (domain,), fractions=(1.0,)) for domain in domains]
    cells = [
        cell
        for contender in contenders
        for domain, cutter in zip(domains, cutters, strict=True)
        for cell in cutter.cells(contender, domain, fraction=1.0)
    ]
    return Grid(items, tuple(cells), tuple(dict.fromkeys(note for cutter in cutters for note in cutter.notes)))


class _Cutter:
    """Cuts what some domains have into parts, the same for every contender."""

    def __init__(
        self,
        patches: PatchSet,
        items: Items,
        spec: GridSpec,
        domains: Sequence[str],
        *,
        fractions: Sequence[float],
    ) -> None:
        self.notes: list[str] = []
        self._why_not = ""
        self._patches, self._items, self._spec = patches, items, spec
        self._domains, self._fractions = tuple(domains), tuple(fractions)
        own = np.flatnonzero(np.isin(np.array(patches.domains, dtype=object), np.array(domains, dtype=object)))
        alone = sum(1 for place in own.tolist() if not patches.groups[place])
        if alone:
            where = f" of {', '.join(filter(None, domains))}" if any(domains) else ""
            self.notes.append(f"{alone} training images{where} name no slide or patient: each is split by itself.")
        self._cuts: dict[float, list[tuple[int, int, _Cut]]] = {each: [] for each in fractions}
        for holdout in self._hold_out(own):
            for seed in range(spec.seeds):
                for fraction, cut in zip(fractions, self._cut(holdout, seed), strict=True):
                    self._cuts[fraction].append((holdout.fold, seed, cut))

    def cells(self, contender: Contender, domain: str, *, fraction: float) -> Iterator[Cell]:
        """Of every hold-out and seed."""
        for fold, seed, cut in self._cuts[fraction]:
            yield Cell(
                contender,
                domain,
                fraction,
                fold,
                seed,
                parts=cut.parts,
                fingerprint=cell_fingerprint(self._items, contender, cut.parts, seed=seed),
                not_run=cut.not_run,
            )

    def _hold_out(self, own: np.ndarray) -> list[_HoldOut]:
        """Of each fold what is left and what is tested; where the data cannot be cut, everything is left."""
        spec, patches = self._spec, self._patches
        try:
            if spec.folds == 1:
                shares = {"rest": 1 - spec.test_share, "test": spec.test_share}
                cut = grouped_split(patches, shares, seed=spec.split_seed, index=own)
                return [_HoldOut(0, cut["rest"], cut["test"])]
            folds = grouped_folds(patches, spec.folds, seed=spec.split_seed, val_share=0, index=own)
            return [_HoldOut(fold.index, fold.train, fold.test) for fold in folds]
        except ManifestError as error:
            self._why_not = str(error)
            return [_HoldOut(0, own, _none())]

    def _cut(self, holdout: _HoldOut, seed: int) -> list[_Cut]:
        """The parts of each fraction of one hold-out and seed."""
        spec, patches, tests = self._spec, self._patches, self._tests(holdout)
        held_out = tuple(domain or ONE_TEST for domain in self._domains)
        nothing = Parts(_none(), _none(), tests, held_out)
        if not len(holdout.test):
            return [_Cut(nothing, self._why_not)] * len(self._fractions)
        shares = {"train": 1 - spec.val_share, "val": spec.val_share}
        try:
            # Each fold's draw is its own: else the same slides would validate in all of them.
            cut = grouped_split(patches, shares, seed=seed * spec.folds + holdout.fold, index=holdout.rest)
        except ManifestError as error:
            return [_Cut(nothing, str(error))] * len(self._fractions)
        check_parts(patches, {**cut, "test": holdout.test}, where="study")
        train = nested_fractions(patches, cut["train"], self._fractions, seed=seed, min_per_class=spec.min_per_class)
        val = _with_every_class(patches, cut["val"], self._fractions, seed=seed)
        return [
            _Cut(Parts(learnt.index, chooses.index, tests, held_out), _too_few(learnt, chooses))
            for learnt, chooses in zip(train, val, strict=True)
        ]

    def _tests(self, holdout: _HoldOut) -> dict[str, np.ndarray]:
        """The hold-out by domain, and each other domain without the groups that any fraction may learn from."""
        patches, found = self._patches, dict[str, np.ndarray]()
        domains, groups = (np.array(each, dtype=object) for each in (patches.domains, patches.groups))
        for domain in self._domains:
            own = holdout.test[domains[holdout.test] == domain]
            if len(own):
                found[domain or ONE_TEST] = own
        seen = np.isin(groups, groups[holdout.rest][groups[holdout.rest] != ""])
        for domain in sorted(set(patches.domains) - set(self._domains)):
            own = domains == domain
            if (own & seen).any():
                self._note(
                    f"{int((own & seen).sum())} images of {domain} are of slides or patients that are trained on, "
                    "and are not tested."
                )
            if (own & ~seen).any():
                found[domain or ONE_TEST] = np.flatnonzero(own & ~seen)
        return found

    def _note(self, said: str) -> None:
        if said not in self.notes:
            self.notes.append(said)


def _with_every_class(
    patches: PatchSet, index: np.ndarray, fractions: Sequence[float], *, seed: int
) -> list[NestedPart]:
    """Nested fractions, each with as many groups more as it takes to hold every class: one group chooses no epoch."""
    count = len(set(patches.units[index].tolist()))
    steps = nested_fractions(patches, index, [k / count for k in range(1, count + 1)], seed=seed, min_per_class=1)
    found = []
    for fraction in fractions:
        enough = [step for step in steps if step.groups >= round(fraction * count)]
        found.append(next((step for step in enough if not step.problem), steps[-1]))
    return found


def _too_few(train: NestedPart, val: NestedPart) -> str:
    parts = {"training": train, "validation": val}
    return "; ".join(f"{what}: {part.problem}" for what, part in parts.items() if part.problem)


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


def _domains(patches: PatchSet, spec: GridSpec) -> tuple[str, ...]:
    """Those that are trained on."""
    known = tuple(sorted(set(patches.domains)))
    check_names(spec.train_domains, known, what="Domain")
    return spec.train_domains or known
