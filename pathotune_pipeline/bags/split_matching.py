"""Which slides of a cohort a file of fixed splits means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pathotune_pipeline.bags.labels import SlideIndex
from pathotune_pipeline.bags.split_files import SplitFile, some_names
from pathotune_pipeline.bags.splits import check_disjoint
from pathotune_pipeline.errors import ManifestError


@dataclass(frozen=True, slots=True)
class CohortFold:
    """One cut of a cohort.

    Attributes:
        seed: of the repetition, or None.
        fold: its number.
        parts: "train", "val", "test" -> ids of slides, sorted; val may be empty, the others are not.
    """

    seed: int | None
    fold: int
    parts: Mapping[str, tuple[str, ...]]


def match_splits(splits: SplitFile, groups: Mapping[str, str]) -> tuple[list[CohortFold], list[str]]:
    """Find the slides of a cohort that fixed splits mean.

    Ids that a column calls slides are compared as `join_labels` compares them; where not one fits, the file's patients
    are taken instead. Ids that a column calls patients stand for all slides of the patient. Where no column says, they
    are patients if at least as many slides of the cohort are reached that way, else slides. Without any test part,
    as in SurvPath's files, what is called val is what the models are judged on, so it is the test part.

    Args:
        splits: of `read_splits`.
        groups: slide id -> patient, of the cohort.

    Returns:
        The folds, and notes with the counts of what fits nothing.

    Raises:
        ManifestError: nothing fits, or a fold has no slide to train with or to test.
        PathotuneError: a patient is in two parts of one fold.
    """
    finder = _pick_finder(splits, groups)
    notes: list[str] = []
    judged_on_val = not any(fold.parts["test"] for fold in splits.folds)
    if judged_on_val:
        notes.append(f"{splits.source} has no test part: its val part is tested, and validation is cut from train.")
    folds: list[CohortFold] = []
    strangers: dict[str, None] = {}
    used: set[str] = set()
    for named in splits.folds:
        parts = {}
        for part, names in named.parts.items():
            found = {name: finder(name) for name in names}
            strangers.update(dict.fromkeys(name for name, slides in found.items() if not slides))
            parts[part] = tuple(sorted({slide for slides in found.values() for slide in slides}))
        if judged_on_val:
            parts["val"], parts["test"] = (), parts["val"]
        where = f"{splits.source}, fold {named.fold}"
        check_disjoint(parts, groups, where=where)
        bare = [part for part in ("train", "test") if not parts[part]]
        if bare:
            raise ManifestError(
                f"{where}: no slide of the cohort is in its {bare[0]} part (the file names {len(named.parts[bare[0]])} "
                "there). Leave the fold out, or add slides."
            )
        used.update(*parts.values())
        folds.append(CohortFold(named.seed, named.fold, parts))
    left = sorted(groups.keys() - used)
    if strangers:
        notes.append(f"{len(strangers)} ids of {splits.source} are not in the cohort ({some_names(strangers)}).")
    if left:
        notes.append(
            f"{len(left)} slides of the cohort are in no part of {splits.source} and stay out ({some_names(left)})."
        )
    return folds, notes


class _Finder:
    """From an id of the file to slides of the cohort."""

    def __init__(self, splits: SplitFile, groups: Mapping[str, str], *, as_patients: bool) -> None:
        self._index = None if as_patients else SlideIndex(sorted(groups))
        self._patients: dict[str, list[str]] = defaultdict(list)
        for slide, patient in groups.items():
            self._patients[patient].append(slide)
        self._owner = splits.patients

    def __call__(self, name: str) -> list[str]:
        if self._index is None:
            return self._patients.get(self._owner.get(name, name), [])
        slide = self._index.find(name)
        return [] if slide is None else [slide]


def _pick_finder(splits: SplitFile, groups: Mapping[str, str]) -> _Finder:
    names = dict.fromkeys(name for fold in splits.folds for part in fold.parts.values() for name in part)
    by_patient, by_slide = (_Finder(splits, groups, as_patients=each) for each in (True, False))
    patients, slides = (
        len({slide for name in names for slide in finder(name)}) if allowed else 0
        for finder, allowed in (
            (by_patient, splits.names != "slides" or bool(splits.patients)),
            (by_slide, splits.names != "patients"),
        )
    )
    if not patients and not slides:
        slide, patient = min(groups.items())
        raise ManifestError(
            f"{splits.source}: none of its {len(names)} ids is in the cohort. It says {some_names(names)}; a slide here is "
            f"called {slide!r}, its patient {patient!r}. Write ids, paths or file names of slides, or patients."
        )
    if splits.names == "slides":
        return by_slide if slides else by_patient
    return by_patient if patients >= slides else by_slide
