from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.bags.assignments import Assignments, Place, keep_assignments, read_assignments
from pathotune_pipeline.bags.splits import Fold, check_disjoint
from pathotune_pipeline.errors import ManifestError, UsageError


def cohort(cases: range, shift: int = 0) -> tuple[dict[str, str], dict[str, str]]:
    """Every third case has two slides; a class in four is rare."""
    labels, groups = {}, {}
    for case in cases:
        for slide in range(1 + (case % 3 == 0)):
            bag = f"c{case:03d}-{slide}"
            labels[bag], groups[bag] = "rare" if (case + shift) % 4 == 0 else "often", bag[:-2]
    return labels, groups


def keep(path: Path, data: tuple[dict[str, str], dict[str, str]], seed: int = 0, folds: int = 5, **more) -> list[Fold]:
    return keep_assignments(path, *data, folds=folds, seed=seed, val_share=0.2, **more)[0]


def places(folds: list[Fold]) -> dict[tuple[int, str], str]:
    return {(fold.index, bag): part for fold in folds for part, bags in fold.parts().items() for bag in bags}


def test_a_growing_cohort_never_moves_a_case(tmp_path):
    """Night by night: cases come one by one and in batches, leave, come back, and change their labels and slides."""
    rng = np.random.default_rng(1)
    path = tmp_path / "a.json"
    before: dict[tuple[int, str], str] = {}
    known: dict[str, Place] = {}
    for night, size in enumerate((12, 13, 14, 40, 41, 90, 200)):
        labels, groups = cohort(range(size), shift=night)
        gone = {f"c{case:03d}" for case in rng.integers(0, size, 3)} if size < 200 else set()
        labels = {bag: label for bag, label in labels.items() if groups[bag] not in gone}
        folds = keep(path, (labels, groups), seed=night)
        now = places(folds)
        assert {at: before[at] for at in now.keys() & before.keys()} == {
            at: now[at] for at in now.keys() & before.keys()
        }
        before |= now
        stored = dict(read_assignments(path).cases)
        assert known.items() <= stored.items()
        known = stored
        for fold in folds:
            check_disjoint(fold.parts(), groups)
            assert sorted([*fold.train, *fold.val, *fold.test]) == sorted(labels)
    assert len(known) == 200


def test_places_are_stratified_and_every_part_is_of_its_size(tmp_path):
    labels, groups = data = cohort(range(120))
    folds = keep(tmp_path / "a.json", data)
    for label in ("rare", "often"):
        cases = {groups[bag] for bag in labels if labels[bag] == label}
        counts = [len({groups[bag] for bag in fold.test} & cases) for fold in folds]
        assert max(counts) - min(counts) <= 1
        for fold in folds:
            val, rest = (len({groups[bag] for bag in part} & cases) for part in (fold.val, (*fold.val, *fold.train)))
            assert abs(val - 0.2 * rest) <= 1
    train = Counter(groups[bag] for fold in folds for bag in fold.train)
    assert train.keys() == set(groups.values())  # nobody validates in all folds


def test_cases_that_come_one_by_one_are_shared_out_too(tmp_path):
    path = tmp_path / "a.json"
    for size in range(10, 80):
        folds = keep(path, cohort(range(size)))
    tested = Counter(place.fold for place in read_assignments(path).cases.values())
    assert max(tested.values()) - min(tested.values()) <= 2
    assert all(0.1 < len(fold.val) / (len(fold.val) + len(fold.train)) < 0.3 for fold in folds)
    assert max(len(place.val) for place in read_assignments(path).cases.values()) < 4


def test_the_file_is_short_sorted_and_equal_for_equal_input(tmp_path):
    labels, groups = cohort(range(20))
    keep(tmp_path / "a.json", (labels, groups))
    keep(tmp_path / "b.json", (dict(reversed(labels.items())), groups))
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text()
    assert len(text.splitlines()) == 20 + 7
    assert json.loads(text)["cases"]["c000"].keys() == {"fold", "val"}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.json", "b.json"]


def test_what_is_not_to_be_recorded_is_not(tmp_path):
    keep(tmp_path / "a.json", cohort(range(20)), record=False)
    assert list(tmp_path.iterdir()) == []


def test_notes_count_the_new_and_the_absent(tmp_path):
    keep(tmp_path / "a.json", cohort(range(20)))
    _, notes = keep_assignments(tmp_path / "a.json", *cohort(range(5, 22)), folds=5, seed=0, val_share=0.2)
    assert notes == ["a.json: 15 cases keep their fold, 2 are new, 5 on record are not in this cohort."]


def test_two_runs_at_once_lose_no_case(tmp_path):
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: keep(path, cohort(range(start, start + 12))), range(0, 96, 6)))
    assert len(read_assignments(path).cases) == 102


def test_what_is_no_such_file_is_said(tmp_path):
    path, data = tmp_path / "a.json", cohort(range(20))
    keep(path, data)
    with pytest.raises(ManifestError, match="it has 5 folds, and 3 were asked for"):
        keep(path, data, folds=3)
    with pytest.raises(UsageError, match="absent cannot be opened"):
        keep(tmp_path / "absent" / "a.json", data)
    for text in ("{", "[]", '{"format": "else"}', path.read_text().replace('"fold": 1', '"fold": 7')):
        path.write_text(text)
        with pytest.raises(ManifestError, match="no assignments of a format"):
            keep(path, data)
        assert path.read_text() == text


def test_a_case_without_a_place_is_no_fold():
    with pytest.raises(KeyError):
        Assignments(2, {"p": Place(0)}).fold_list({"x": "q"})
