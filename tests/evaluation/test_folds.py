from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.errors import ManifestError, PathotuneError, UsageError
from pathotune_pipeline.evaluation.folds import SplitSpec, plan_folds

LABELS = {f"s{n:02d}{part}.svs": "ab"[n % 2] for n in range(24) for part in ("", "x")}
GROUPS = {slide: f"P{slide[1:3]}" for slide in LABELS}


def write(path: Path, rows: list[str]) -> str:
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def plan(**settings):
    return plan_folds(SplitSpec.parse({"folds": 3, "seeds": 2, **settings}), LABELS, GROUPS)


def test_a_file_without_seeds_is_used_for_each_seed_and_its_missing_validation_is_cut_by_patient(tmp_path):
    rows = ["case_id,fold_0,fold_1"]
    rows += [f"P{n:02d},{'test' if n < 6 else 'train'},{'test' if 6 <= n < 12 else 'train'}" for n in range(24)]
    found = plan(splits=write(tmp_path / "k=all.csv", rows))
    assert [(seed, fold.index) for seed, fold in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    folds = [fold for _, fold in found]
    assert folds[0].test == folds[2].test == tuple(sorted(slide for slide in LABELS if int(slide[1:3]) < 6))
    assert folds[0].val != folds[2].val
    for fold in folds:
        assert {LABELS[slide] for slide in fold.val} == {"a", "b"}
        assert len(fold.val) == 8  # round(0.2 x 9) patients of each class, two slides each
    assert found.notes == ("4 of 4 folds had no validation part; 20% of train became one.",)


def test_our_own_splits_come_back_as_they_were(tmp_path):
    first = plan()
    rows = [
        f"{seed},{fold.index},{part},{slide}"
        for seed, fold in first
        for part, slides in fold.parts().items()
        for slide in slides
    ]
    again = plan(splits=write(tmp_path / "splits.csv", ["seed,fold,part,slide_id", *rows]), seeds=1, folds=9)
    assert again.folds == first.folds
    assert again.notes == ()


@pytest.mark.parametrize("source", ["file", "assignments", "site"])
def test_a_leak_is_refused_whatever_its_source(source, tmp_path, monkeypatch):
    """Patients are held apart by the cohort's own table, not by what a source believes."""
    leaky = Fold(0, train=("s00.svs", "s01.svs"), val=("s02.svs",), test=("s00x.svs",))
    path = tmp_path / "splits_0.csv"
    if source == "file":
        settings = {"splits": write(path, [",train,val,test", "0,s00,s02,s00x", "1,s01,,"])}
    else:
        name = {"assignments": "keep_assignments", "site": "site_folds"}[source]
        answer = ([leaky], []) if source == "assignments" else [leaky]
        monkeypatch.setattr(f"pathotune_pipeline.evaluation.folds.{name}", lambda *_, **__: answer)
        settings = {source: str(path)}
    with pytest.raises(PathotuneError, match="patient 'P00' is in both train and test"):
        plan_folds(SplitSpec.parse(settings), LABELS, GROUPS, sites=dict.fromkeys(LABELS, "x"))


def test_sites_come_from_a_column_or_a_barcode():
    sites = {slide: f"site{int(slide[1:3]) // 4}" for slide in LABELS}
    found = plan_folds(SplitSpec(folds=3, seeds=1, site="hospital"), LABELS, GROUPS, sites=sites)
    for _, fold in found:
        parts = [{sites[slide] for slide in part} for part in fold.parts().values()]
        assert sum(map(len, parts)) == 6
    assert found.notes == ("Folds keep the 6 sites whole.",)
    with pytest.raises(UsageError, match="no slide's site was given"):
        plan(site="hospital")
    with pytest.raises(ManifestError, match="TCGA barcode"):
        plan(site="tcga")


def test_assignments_are_the_same_for_each_seed_and_only_recorded_where_allowed(tmp_path):
    path = tmp_path / "a.json"
    settings = SplitSpec(folds=3, seeds=2, assignments=str(path))
    dry = plan_folds(settings, LABELS, GROUPS, record=False)
    assert not path.exists()
    found = plan_folds(settings, LABELS, GROUPS)
    assert path.exists()
    assert [fold for seed, fold in found if seed == 0] == [fold for seed, fold in found if seed == 1]
    assert dry.folds == found.folds


def test_one_source_at_a_time():
    with pytest.raises(UsageError, match="--splits and --site were both given"):
        plan(splits="a.csv", site="b")
