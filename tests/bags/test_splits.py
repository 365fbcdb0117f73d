from __future__ import annotations

import pytest

from pathotune_pipeline.bags.splits import check_disjoint, patient_folds, patient_labels
from pathotune_pipeline.errors import ManifestError, PathotuneError, UsageError


def cohort(patients: int = 30, slides: int = 3) -> tuple[dict[str, str], dict[str, str]]:
    labels, groups = {}, {}
    for p in range(patients):
        for s in range(1 + p % slides):
            labels[f"p{p:02d}-{s}"] = "ab"[p % 2]
            groups[f"p{p:02d}-{s}"] = f"p{p:02d}"
    return labels, groups


def test_every_bag_is_tested_once_and_no_patient_is_on_two_sides():
    labels, groups = cohort()
    folds = patient_folds(labels, groups, folds=5, seed=3)
    assert sorted(bag for fold in folds for bag in fold.test) == sorted(labels)
    for fold in folds:
        check_disjoint(fold.parts(), groups)
        assert sorted([*fold.train, *fold.val, *fold.test]) == sorted(labels)
        for part in fold.parts().values():
            assert {labels[bag] for bag in part} == {"a", "b"}
        assert 3 <= len({groups[bag] for bag in fold.val}) <= 7


def test_the_order_of_the_input_does_not_matter_and_the_seed_does():
    labels, groups = cohort()
    backwards = dict(reversed(labels.items()))
    assert patient_folds(labels, groups, seed=1) == patient_folds(backwards, groups, seed=1)
    assert patient_folds(labels, groups, seed=1) != patient_folds(labels, groups, seed=2)


def test_a_patient_in_two_parts_is_leakage():
    with pytest.raises(PathotuneError, match="patient 'p' is in both train and test"):
        check_disjoint({"train": ["x"], "val": ["z"], "test": ["y"]}, {"x": "p", "y": "p", "z": "q"})


def test_too_few_patients_say_what_was_found():
    labels, groups = cohort(8, 1)
    with pytest.raises(ManifestError, match=r"5 folds.*class 'a' has 4 patients .a: 4, b: 4.*ask for 4 folds"):
        patient_folds(labels, groups)
    with pytest.raises(ManifestError, match="two classes"):
        patient_folds({"x": "a"}, {"x": "p"})
    with pytest.raises(UsageError, match="no patient"):
        patient_folds(labels, {})
    with pytest.raises(UsageError, match="at least 2"):
        patient_folds(labels, groups, folds=1)


def test_the_smallest_cohort_that_is_allowed():
    labels, groups = cohort(6, 1)
    for seed in range(5):
        assert len(patient_folds(labels, groups, folds=3, seed=seed)) == 3


def test_a_patients_class_is_the_most_frequent():
    assert patient_labels({"1": "b", "2": "a", "3": "b"}, dict.fromkeys("123", "p")) == {"p": "b"}
