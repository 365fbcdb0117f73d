"""Where the folds of a cross-validation come from: drawn by patient or by site, kept in a file, or given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.bags.assignments import keep_assignments
from pathotune_pipeline.bags.sites import TCGA, site_folds, tcga_sites
from pathotune_pipeline.bags.split_files import read_splits
from pathotune_pipeline.bags.split_matching import match_splits
from pathotune_pipeline.bags.splits import Fold, check_disjoint, patient_folds, split_off_validation
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.spec import Spec, setting


class SplitSpec(Spec):
    """How slides are parted into training, validation and test."""

    folds: int = setting(5, "Test parts that the patients are cut into.", ge=2)
    seeds: int = setting(3, "Repetitions with other splits and other initial weights.", ge=1)
    seed0: int = setting(0, "The first seed; the others follow it.", ge=0)
    val_share: float = setting(0.2, "Share of the non-test patients that chooses the epoch.", gt=0, lt=1)
    splits: str | None = setting(
        None, "Fixed splits: a file or folder of CLAM, SurvPath, TransMIL, Patho-Bench, STAMP, or a table."
    )
    site: str | None = setting(
        None, "Keep sites whole: the label table's column that holds the site, or tcga for that of the barcode."
    )
    assignments: str | None = setting(
        None, "File that keeps each patient's fold as the archive grows; made where there is none."
    )

    def seed_range(self) -> range:
        """The seeds of the repetitions."""
        return range(self.seed0, self.seed0 + self.seeds)


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """All folds of a study.

    Attributes:
        folds: seed and fold of each model to train, no two alike.
        notes: what a reader should know of where they come from.
    """

    folds: tuple[tuple[int, Fold], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.folds)

    def __iter__(self) -> Iterator[tuple[int, Fold]]:
        return iter(self.folds)


Splitter = Callable[[Any, Mapping[str, str], Mapping[str, str]], Iterable[tuple[int, Fold]]]
"""Cuts bags into parts: settings, bag id -> what shall be as frequent in every part, bag id -> patient."""


def plan_folds(
    spec: SplitSpec,
    strata: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    sites: Mapping[str, str] | None = None,
    split: Splitter | None = None,
    record: bool = True,
) -> FoldPlan:
    """Each seed and fold, no patient on two sides.

    Args:
        spec: where the folds come from.
        strata: bag id -> what shall be as frequent in every part.
        groups: bag id -> patient.
        sites: bag id -> site, where `spec.site` is a column's name.
        split: what cuts the bags, instead of the spec's source.
        record: whether `spec.assignments` may be written.

    Raises:
        UsageError: more than one source is named, or sites are asked for and not given.
        ManifestError: the source does not allow it.
        PathotuneError: a patient is in two parts.
    """
    named = [name for name in ("splits", "site", "assignments") if getattr(spec, name)]
    if len(named) > 1:
        raise UsageError(f"--{named[0]} and --{named[1]} were both given; each says where folds come from. Keep one.")
    if split is not None:
        plan = FoldPlan(tuple(split(spec, strata, groups)))
    else:
        plan = _planned(spec, strata, groups, sites=sites, record=record)
    for _, fold in plan:
        check_disjoint(fold.parts(), groups)
    return plan


def _planned(
    spec: SplitSpec,
    strata: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    sites: Mapping[str, str] | None,
    record: bool,
) -> FoldPlan:
    if spec.splits:
        return _fixed(spec, Path(spec.splits), strata, groups)
    if spec.assignments:
        folds, notes = keep_assignments(
            Path(spec.assignments),
            strata,
            groups,
            folds=spec.folds,
            seed=spec.seed0,
            val_share=spec.val_share,
            record=record,
        )
        return FoldPlan(tuple((seed, fold) for seed in spec.seed_range() for fold in folds), tuple(notes))
    if spec.site:
        if sites is None and spec.site != TCGA:
            raise UsageError(f"site is {spec.site!r}, and no slide's site was given. Pass sites, or say {TCGA!r}.")
        where = tcga_sites(groups) if sites is None else sites
        cut = [
            (seed, fold)
            for seed in spec.seed_range()
            for fold in site_folds(strata, groups, where, folds=spec.folds, seed=seed, val_share=spec.val_share)
        ]
        count = len({where[bag] for bag in strata})
        return FoldPlan(tuple(cut), (f"Folds keep the {count} sites whole.",))
    return FoldPlan(
        tuple(
            (seed, fold)
            for seed in spec.seed_range()
            for fold in patient_folds(strata, groups, folds=spec.folds, seed=seed, val_share=spec.val_share)
        )
    )


def _fixed(spec: SplitSpec, path: Path, strata: Mapping[str, str], groups: Mapping[str, str]) -> FoldPlan:
    """The folds of a file, for each seed where the file knows none; a fold without validation gets one from train."""
    told, notes = match_splits(read_splits(path), {bag: groups[bag] for bag in strata})
    cut: list[tuple[int, Fold]] = []
    short = 0
    for seed in spec.seed_range() if told[0].seed is None else sorted({each.seed or 0 for each in told}):
        for each in told:
            if each.seed not in (None, seed):
                continue
            train, val, test = (each.parts[part] for part in ("train", "val", "test"))
            if not val:
                short += 1
                train, val = split_off_validation(train, strata, groups, key=(seed, each.fold), share=spec.val_share)
            cut.append((seed, Fold(each.fold, train, val, test)))
    if short:
        notes.append(f"{short} of {len(cut)} folds had no validation part; {spec.val_share:.0%} of train became one.")
    return FoldPlan(tuple(cut), tuple(notes))
