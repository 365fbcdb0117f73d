"""Who trains, who chooses the epoch, who is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pathotune_pipeline.bags.splits import split_off_validation
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.tuning.cases.spec import CaseSpec
from pathotune_pipeline.tuning.cases.table import Case, CaseTable

_DRAW_TEST, _DRAW_VAL = 0xCA5E, 0xCA5F


@dataclass(frozen=True, slots=True)
class CaseParts:
    """Cases by part, ids sorted.

    Attributes:
        train: the network, and the classifiers on its embeddings, learn from them.
        val: choose the epoch.
        test: are judged.
        unseen: part -> ids of the cohorts that the network never sees; only classifiers learn from their "train".
        drawn: whether parts were drawn, and not given.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    unseen: Mapping[str, tuple[str, ...]]
    drawn: bool

    def of_case(self) -> dict[str, str]:
        """Case id -> part, of all cohorts."""
        own = {"train": self.train, "val": self.val, "test": self.test}
        return {case: part for parts in (own, self.unseen) for part, ids in parts.items() for case in ids}


def part_cases(table: CaseTable, spec: CaseSpec, *, needs_val: bool = True) -> CaseParts:
    """Part the cases as their table says, or by a draw with about the same cohorts, classes and events in each part.

    Args:
        table: cases that can be used.
        spec: shares, seed, cohorts to hold out.
        needs_val: whether an epoch has to be chosen.

    Raises:
        UsageError: a cohort to hold out is not there, or none is left.
        ManifestError: a part that is needed is empty.
    """
    absent = [cohort for cohort in spec.hold_out if cohort not in table.cohorts]
    if absent:
        known = ", ".join(table.cohorts)
        raise UsageError(
            f"--hold-out {absent[0]}: there is no such cohort.{nearest(absent[0], table.cohorts)} Known: {known}."
        )
    given = any(case.part for case in table.cases)
    of_case = {case.case_id: case.part for case in table.cases if case.part} if given else _draw(table.cases, spec)
    outside = {case.case_id for case in table.cases if case.cohort in spec.hold_out}
    found = {
        part: tuple(sorted(case for case, own in of_case.items() if own == part and case not in outside))
        for part in ("train", "val", "test")
    }
    unseen = {
        part: tuple(sorted(case for case, own in of_case.items() if own == part and case in outside))
        for part in ("train", "val", "test")
    }
    for part, what in (("train", "to train with"), ("val", "to choose the epoch with")):
        if not found[part] and (needs_val or part == "train"):
            raise ManifestError(
                f"{table.name}: {len(of_case)} cases, and none {what}. "
                + ("Mend the column of parts." if given else "Add cases, or hold out fewer cohorts.")
            )
    return CaseParts(found["train"], found["val"], found["test"], unseen if outside else {}, drawn=not given)


def _draw(cases: tuple[Case, ...], spec: CaseSpec) -> dict[str, str]:
    strata = {case.case_id: _stratum(case) for case in cases}
    own = {case: case for case in strata}
    rest, test = split_off_validation(
        sorted(strata), strata, own, key=(spec.split_seed, _DRAW_TEST), share=spec.test_share
    )
    train, val = split_off_validation(rest, strata, own, key=(spec.split_seed, _DRAW_VAL), share=spec.val_share)
    return dict.fromkeys(train, "train") | dict.fromkeys(val, "val") | dict.fromkeys(test, "test")


def _stratum(case: Case) -> str:
    event = "" if case.survival is None else str(case.survival[1])
    return f"{case.cohort}|{case.label or ''}|{event}"
