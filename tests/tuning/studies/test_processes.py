from __future__ import annotations

from functools import partial
from pathlib import Path

from pathotune_pipeline.tuning.studies.cell import Cell, CellRecord, Contender
from pathotune_pipeline.tuning.studies.processes import compute_in_processes
from pathotune_pipeline.tuning.studies.spec import ScalingSpec
from tests.tuning.studies.conftest import CONTENDERS, open_deadly_work

SPEC = ScalingSpec(fractions=(1.0,), seeds=3)


def test_a_cell_that_kills_its_process_fails_alone(tmp_path: Path) -> None:
    deadly = Contender("vit", "deadly", {"skill": 1.0, "kills_seed": 1})
    open_work = partial(open_deadly_work, tmp_path, (deadly, CONTENDERS[0]), SPEC)
    work, told = open_work(), dict[str, CellRecord]()

    def on_cell(cell: Cell, record: CellRecord) -> None:
        assert cell.file_name not in told
        told[cell.file_name] = record

    compute_in_processes(work, open_work, jobs=2, run="r", on_cell=on_cell)
    assert set(told) == {cell.file_name for cell in work.cells}
    failed = [name for name, record in told.items() if record.status == "failed"]
    assert len(failed) == 1
    for name in failed:
        assert "deadly" in name
        assert "~s1@" in name
        assert "by SIGKILL" in told[name].reason
    assert sum(record.status == "done" for record in told.values()) == 5
