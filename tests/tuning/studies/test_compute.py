from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies.cell import CellRecord, Contender, Fitted
from pathotune_pipeline.tuning.studies.compute import compute_cells
from pathotune_pipeline.tuning.studies.grid import Grid, scaling_grid
from pathotune_pipeline.tuning.studies.ledger import Ledger, records_of
from pathotune_pipeline.tuning.studies.material import items_of
from pathotune_pipeline.tuning.studies.spec import ScalingSpec
from tests.tuning.studies.conftest import CONTENDERS, GuessingFit

ROOT = Path(__file__).resolve().parents[3]
SPEC = ScalingSpec(fractions=(0.5, 1.0), seeds=2)
ELSEWHERE = """
import sys, time
from pathlib import Path
from pathotune_pipeline.tuning.studies.compute import compute_cells
from pathotune_pipeline.tuning.studies.ledger import Ledger
from pathotune_pipeline.tuning.studies.grid import scaling_grid
from pathotune_pipeline.tuning.studies.material import items_of
from tests.tuning.studies.conftest import CONTENDERS, GuessingFit, make_patches
from tests.tuning.studies.test_compute import SPEC

out, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
patches = make_patches()
guess = GuessingFit(patches)

def fit(cell):
    with log.open("a") as file:
        file.write(cell.file_name + "\\n")
    time.sleep(seconds)
    return guess(cell)

compute_cells(scaling_grid(patches, CONTENDERS, SPEC).cells, fit, Ledger(out, items_of(patches)), run="r")
"""


def grid_of(patches: PatchSet, contenders: tuple[Contender, ...] = CONTENDERS) -> Grid:
    return scaling_grid(patches, contenders, SPEC)


def compute(grid: Grid, patches: PatchSet, out: Path, *, run: str = "r") -> tuple[GuessingFit, dict[str, CellRecord]]:
    fit, ledger, told = GuessingFit(patches), Ledger(out, items_of(patches)), dict[str, CellRecord]()
    compute_cells(grid.cells, fit, ledger, run=run, on_cell=lambda cell, record: told.update({cell.file_name: record}))
    assert set(told) == {cell.file_name for cell in grid.cells if not cell.not_run}
    return fit, dict(records_of(ledger, list(grid.cells)))


def elsewhere(out: Path, log: Path, *, seconds: float = 0.0, failpoint: str = "") -> subprocess.Popen[bytes]:
    environment = {"PATHOTUNE_FAILPOINT": failpoint, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", ELSEWHERE, str(out), str(log), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def results(out: Path) -> dict[str, object]:
    """What lies in a study's folder, but for times."""
    found = {}
    for path in sorted((out / "cells").iterdir()):
        facts = json.loads(path.read_bytes())
        found[path.name] = {name: value for name, value in facts.items() if name not in ("made", "seconds")}
    return found


def test_what_is_there_is_not_computed_again(patches: PatchSet, tmp_path: Path) -> None:
    first, records = compute(grid_of(patches), patches, tmp_path)
    assert len(first.fitted) == 8
    assert {record.status for record in records.values()} == {"done"}
    again, same = compute(grid_of(patches), patches, tmp_path, run="later")
    assert again.fitted == []
    for name, record in records.items():
        for test, run in record.tests.items():
            np.testing.assert_array_equal(run.probs, same[name].tests[test].probs)
            assert run.scores() == same[name].tests[test].scores()


def test_a_changed_setting_gives_other_cells_and_leaves_the_old(patches: PatchSet, tmp_path: Path) -> None:
    compute(grid_of(patches), patches, tmp_path)
    changed = (CONTENDERS[0], Contender("vit", "lora", {"skill": 5.0}))
    fit, _ = compute(grid_of(patches, changed), patches, tmp_path)
    assert len(fit.fitted) == 4
    assert all("lora" in name for name in fit.fitted)
    assert len(results(tmp_path)) == 12
    back, _ = compute(grid_of(patches), patches, tmp_path)
    assert back.fitted == []


def test_a_renamed_row_is_not_computed_again(patches: PatchSet, tmp_path: Path) -> None:
    compute(grid_of(patches), patches, tmp_path)
    renamed = (Contender("small vit", "probe", CONTENDERS[0].recipe),)
    fit, records = compute(grid_of(patches, renamed), patches, tmp_path)
    assert fit.fitted == []
    assert len(records) == 4


def test_a_failed_cell_says_why_the_rest_go_on_and_the_next_run_tries_again(patches: PatchSet, tmp_path: Path) -> None:
    bad = Contender("vit", "lora", {"skill": 3.0, "fails_in_fold": 0})
    fit, records = compute(grid_of(patches, (bad, CONTENDERS[0])), patches, tmp_path)
    assert len(fit.fitted) == 8
    failed = [record for record in records.values() if record.status == "failed"]
    assert {record.reason for record in failed} == {"ValueError: the optimiser ran away"}
    assert len(failed) == 4
    again, _ = compute(grid_of(patches, (bad, CONTENDERS[0])), patches, tmp_path, run="later")
    assert len(again.fitted) == 4


@pytest.mark.parametrize("wrong", ["shape", "nan"])
def test_a_prediction_that_makes_no_sense_fails_its_cell(patches: PatchSet, tmp_path: Path, wrong: str) -> None:
    def fit(cell: object) -> Fitted:
        return Fitted(lambda index: np.full((len(index), 3 if wrong == "shape" else 2), np.nan))

    grid, ledger = grid_of(patches), Ledger(tmp_path, items_of(patches))
    compute_cells(grid.cells[:1], fit, ledger, run="r")
    record = ledger.read(grid.cells[0])
    assert record is not None
    assert record.status == "failed"
    assert "one finite probability each" in record.reason


def test_a_file_that_is_not_a_result_is_computed_over(patches: PatchSet, tmp_path: Path) -> None:
    compute(grid_of(patches), patches, tmp_path)
    whole = results(tmp_path)
    torn, foreign, changed = sorted((tmp_path / "cells").iterdir())[:3]
    facts = json.loads(changed.read_bytes())
    changed.write_text(json.dumps({**facts, "probabilities": {name: [[0.5]] for name in facts["probabilities"]}}))
    torn.write_bytes(torn.read_bytes()[:1000])
    foreign.write_text('{"format": 1, "fingerprint": "another"}')
    fit, _ = compute(grid_of(patches), patches, tmp_path)
    assert sorted(fit.fitted) == sorted([torn.name, foreign.name, changed.name])
    assert results(tmp_path) == whole


@pytest.mark.parametrize("place", ["study.fitted:3", "study.cell:3"])
def test_a_killed_study_goes_on_where_it_was(patches: PatchSet, tmp_path: Path, place: str) -> None:
    killed = elsewhere(tmp_path / "killed", tmp_path / "log", failpoint=place)
    assert killed.wait(timeout=60) == -signal.SIGKILL
    done = len(results(tmp_path / "killed"))
    assert done == (2 if "fitted" in place else 3)
    fit, _ = compute(grid_of(patches), patches, tmp_path / "killed")
    assert len(fit.fitted) == 8 - done
    compute(grid_of(patches), patches, tmp_path / "whole")
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


def test_two_runs_at_once_share_the_cells(patches: PatchSet, tmp_path: Path) -> None:
    both = [elsewhere(tmp_path / "shared", tmp_path / "log", seconds=0.3) for _ in range(2)]
    assert [each.wait(timeout=60) for each in both] == [0, 0]
    fitted = (tmp_path / "log").read_text().splitlines()
    assert len(fitted) == len(set(fitted)) == 8
    compute(grid_of(patches), patches, tmp_path / "alone")
    assert results(tmp_path / "shared") == results(tmp_path / "alone")


def test_a_folder_that_cannot_be_made_is_the_calls_fault(patches: PatchSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        Ledger(tmp_path / "file", items_of(patches))
