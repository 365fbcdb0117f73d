from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies.cell import CellRecord, Contender
from pathotune_pipeline.tuning.studies.compute import compute_cells
from pathotune_pipeline.tuning.studies.grid import Grid, scaling_grid
from pathotune_pipeline.tuning.studies.ledger import Ledger, records_of
from pathotune_pipeline.tuning.studies.spec import ScalingSpec
from pathotune_pipeline.tuning.studies.write import write_tables
from tests.tuning.studies.conftest import CONTENDERS, DOMAINS, GuessingFit, make_patches


def computed(patches: PatchSet, out: Path, spec: ScalingSpec, *more: Contender) -> tuple[Grid, dict[str, CellRecord]]:
    grid = scaling_grid(patches, (*CONTENDERS, *more), spec)
    ledger = Ledger(out, grid.items)
    compute_cells(grid.cells, GuessingFit(patches), ledger, run="r")
    return grid, dict(records_of(ledger, list(grid.cells)))


def tables(out: Path, grid: Grid, records: dict[str, CellRecord]) -> tuple[list[dict[str, str]], ...]:
    write_tables(out, grid, records, draws=1000, about={"kind": "scaling"}, baseline=CONTENDERS[0])
    return tuple(list(csv.DictReader(io.StringIO((out / name).read_text()))) for name in ("cells.csv", "summary.csv"))


def test_every_cell_and_test_set_has_a_row_done_or_not(tmp_path: Path) -> None:
    patches = make_patches(ungrouped=("lab-c",))
    spec = ScalingSpec(fractions=(0.1, 1.0), seeds=2, train_domains=("lab-a",), min_per_class=6)
    bad = Contender("vit", "broken", {"skill": 1.0, "fails_in_fold": 0})
    grid, records = computed(patches, tmp_path, spec, bad)
    cells, summary = tables(tmp_path, grid, records)
    assert len(cells) == 3 * 2 * 2 * len(DOMAINS)
    by_status = {status: [row for row in cells if row["status"] == status] for status in ("done", "failed", "not run")}
    assert [len(rows) for rows in by_status.values()] == [2 * 2 * 3, 2 * 3, 3 * 2 * 3]
    for row in by_status["not run"]:
        assert "6 of each class are needed" in row["reason"]
        assert row["auroc"] == row["seconds"] == ""
    assert {row["reason"] for row in by_status["failed"]} == {"ValueError: the optimiser ran away"}
    units = {row["test"]: row["resampled"] for row in summary if row["mean"]}
    assert units == {"lab-a": "group", "lab-b": "group", "lab-c": "image"}
    assert {row["in_domain"] for row in summary if row["test"] == "lab-a"} == {"yes"}
    assert {row["in_domain"] for row in summary if row["test"] != "lab-a"} == {"no"}


def test_the_summary_is_of_the_cells_own_scores(patches: PatchSet, tmp_path: Path) -> None:
    grid, records = computed(patches, tmp_path, ScalingSpec(fractions=(1.0,), seeds=3))
    cells, summary = tables(tmp_path, grid, records)
    for row in summary:
        same = ("encoder", "method", "train_domain", "fraction", "test")
        own = [float(each[row["score"]]) for each in cells if all(each[name] == row[name] for name in same)]
        assert len(own) == 3
        assert float(row["mean"]) == pytest.approx(np.mean(own))
        assert float(row["std"]) == pytest.approx(np.std(own, ddof=1))
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert (row["runs"], row["cells"], row["reason"]) == ("3", "3", "")
    means = {row["method"]: float(row["mean"]) for row in summary if (row["score"], row["test"]) == ("auroc", "lab-b")}
    assert means["lora"] > means["linear"], "what was planted is found"


def test_a_mean_over_fewer_cells_than_the_study_has_says_so(patches: PatchSet, tmp_path: Path) -> None:
    bad = Contender("vit", "broken", {"skill": 1.0, "fails_in_fold": 1})
    grid, records = computed(patches, tmp_path, ScalingSpec(fractions=(1.0,), seeds=1, folds=3), bad)
    _, summary = tables(tmp_path, grid, records)
    (row,) = [row for row in summary if (row["method"], row["test"], row["score"]) == ("broken", "lab-a", "auroc")]
    assert (row["runs"], row["cells"]) == ("2", "3")
    assert row["reason"] == "1 of 3 failed: ValueError: the optimiser ran away"


def test_what_is_not_computed_yet_is_told(patches: PatchSet, tmp_path: Path) -> None:
    grid, records = computed(patches, tmp_path, ScalingSpec(fractions=(1.0,), seeds=1))
    gone = grid.cells[0].file_name
    cells, _ = tables(tmp_path, grid, {name: each for name, each in records.items() if name != gone})
    assert {row["reason"] for row in cells if row["status"] == "not run"} == {
        "not computed yet: the study was stopped before"
    }


def test_rows_are_compared_with_the_baseline_in_the_same_folds(patches: PatchSet, tmp_path: Path) -> None:
    bad = Contender("vit", "broken", {"skill": 3.0, "fails_in_fold": 1})
    grid, records = computed(patches, tmp_path, ScalingSpec(fractions=(1.0,), seeds=1, folds=3), bad)
    cells, summary = tables(tmp_path, grid, records)
    rows = {row["method"]: row for row in summary if (row["test"], row["score"]) == ("lab-a", "auroc")}
    own = {(row["method"], row["fold"]): row["auroc"] for row in cells if row["test"] == "lab-a"}
    assert (rows["linear"]["against"], rows["linear"]["difference"]) == ("", "")
    for method, folds in (("lora", "012"), ("broken", "02")):
        expected = np.mean([float(own[method, fold]) - float(own["linear", fold]) for fold in folds])
        assert float(rows[method]["difference"]) == pytest.approx(expected)
        assert rows[method]["against"] == "vit, linear"
        assert float(rows[method]["difference_low"]) <= expected <= float(rows[method]["difference_high"])
