"""The bags of a study, from what was given to what is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.patients import Pieces, check_one_target, fuse_by_patient, part_by_slide
from pathotune_pipeline.bags.splits import Fold, check_disjoint
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.folds import FoldPlan
from pathotune_pipeline.evaluation.preflight import check_features


@dataclass(frozen=True, slots=True)
class Cohort:
    """The bags of a study.

    Attributes:
        bags: bag id -> bag, sorted by id, of those that are trained on and tested by fold.
        external: those that every model judges and none learns from, sorted by id.
        pieces: what fused bags are made of; empty where a bag is a slide.
    """

    bags: Mapping[str, Bag]
    external: Sequence[Bag] = ()
    pieces: Pieces = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, str]:
        """Bag id -> patient."""
        return {bag_id: bag.group for bag_id, bag in self.bags.items()}

    def parts(self, fold: Fold) -> tuple[list[Bag], list[Bag], list[Bag]]:
        """The bags to train on, to validate with and to test."""
        train, val, test = ([self.bags[each] for each in ids] for ids in fold.parts().values())
        return train, val, test

    def fused(self, plan: FoldPlan) -> tuple[Cohort, FoldPlan]:
        """Each patient as one bag of the slides that the plan uses, and the plan for those bags.

        Raises:
            ManifestError: slides of a patient have different targets.
        """
        used = {bag for _, fold in plan for part in fold.parts().values() for bag in part}
        bags, pieces = fuse_by_patient({name: bag for name, bag in self.bags.items() if name in used})
        external, _ = fuse_by_patient({bag.bag_id: bag for bag in self.external})
        groups = self.groups
        folds = tuple(
            (
                seed,
                Fold(
                    fold.index,
                    **{part: tuple(sorted({groups[bag] for bag in ids})) for part, ids in fold.parts().items()},
                ),
            )
            for seed, fold in plan
        )
        return Cohort(bags, list(external.values()), pieces), FoldPlan(folds, plan.notes)

    def by_slide(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of each tile of each bag, by slide."""
        return part_by_slide(values, self.pieces) if self.pieces else dict(values)


def gather_cohort(
    bags: Mapping[str, Bag] | Iterable[Bag],
    external: Mapping[str, Bag] | Iterable[Bag] = (),
    *,
    targets: Sequence[str] = (),
    unit: str = "slides",
) -> tuple[Cohort, list[str]]:
    """The bags that can be used, and notes on the others.

    Args:
        bags: to train on and to test by fold.
        external: to be judged alone.
        targets: names of the targets where there are several; a bag that knows none of them is left out.
        unit: as in `CrossvalSpec`; where a patient counts once, slides may not contradict each other.

    Raises:
        UsageError: two bags have one id, dimensions differ, or features are not finite.
        ManifestError: slides of a patient have different targets, and the patient counts once.
        PathotuneError: a patient is in both.
    """
    own, notes = usable_bags(bags, targets)
    away, more = usable_bags(external, targets)
    shared = sorted(own.keys() & away.keys())
    if shared:
        raise UsageError(
            f"{len(shared)} slides are external and to be trained on, {shared[0]} for one. Keep them apart."
        )
    groups = {name: bag.group for each in (own, away) for name, bag in each.items()}
    check_disjoint({"the cohort": sorted(own), "the external test set": sorted(away)}, groups)
    check_features([*own.values(), *away.values()])
    if unit != "slides":
        check_one_target([*own.values(), *away.values()])
    return Cohort(own, list(away.values())), [*notes, *(f"External test set: {note}" for note in more)]


def usable_bags(
    bags: Mapping[str, Bag] | Iterable[Bag], targets: Sequence[str] = ()
) -> tuple[dict[str, Bag], list[str]]:
    """Bags with tiles and a target, by id in its order, and notes on the others.

    Args:
        bags: of any order.
        targets: see `gather_cohort`.

    Raises:
        UsageError: two bags have one id.
    """
    found: dict[str, Bag] = {}
    empty, unlabelled = [], []
    for bag in sorted(bags.values() if isinstance(bags, Mapping) else bags, key=lambda bag: bag.bag_id):
        if bag.bag_id in found:
            raise UsageError(f"Two bags are called {bag.bag_id}. Give each slide an id of its own.")
        silent = bag.target is None or (isinstance(bag.target, Mapping) and not bag.target.keys() & set(targets))
        if len(bag) == 0:
            empty.append(bag.bag_id)
        elif silent:
            unlabelled.append(bag.bag_id)
        else:
            found[bag.bag_id] = bag
    notes = []
    for what, ids in (("no tiles", empty), ("no label", unlabelled)):
        if ids:
            notes.append(f"{len(ids)} slides have {what} and were left out, {ids[0]} for one.")
    return found, notes


def relabelled(cohort: Cohort, targets: Mapping[str, Any]) -> Cohort:
    """The same bags with those targets; external ones keep theirs.

    Args:
        cohort: not fused.
        targets: bag id -> target.
    """
    return replace(cohort, bags={name: replace(bag, target=targets[name]) for name, bag in cohort.bags.items()})
