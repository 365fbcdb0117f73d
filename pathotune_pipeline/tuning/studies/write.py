"""What a study leaves behind: two tables, and the values that its page is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathotune_pipeline.provenance import now, package_versions
from pathotune_pipeline.store.files import replace_file, to_json
from pathotune_pipeline.tuning.studies.cell import CellRecord, Contender
from pathotune_pipeline.tuning.studies.grid import Grid
from pathotune_pipeline.tuning.studies.tables import (
    CELL_COLUMNS,
    SUMMARY_COLUMNS,
    as_csv,
    cell_rows,
    summary_rows,
)

CELLS_TABLE, SUMMARY_TABLE, STUDY = "cells.csv", "summary.csv", "study.json"


def write_tables(
    out: Path,
    grid: Grid,
    records: Mapping[str, CellRecord],
    *,
    draws: int,
    about: Mapping[str, Any],
    baseline: Contender | None = None,
) -> dict[str, Any]:
    """Write `cells.csv`, `summary.csv` and `study.json`, each whole.

    Args:
        out: folder; is there.
        grid: the study's cells.
        records: what is known of them, by file name.
        draws: of the bootstrap.
        baseline: the row that others are compared with.
        about: "kind", "title" and what else the page is to say.

    Returns:
        What `study.json` holds.
    """
    cells = cell_rows(grid.items, grid.cells, records)
    summary = [row.plain() for row in summary_rows(grid.cells, records, draws=draws, baseline=baseline)]
    study = {
        **about,
        "baseline": baseline.title if baseline else "",
        "classes": list(grid.items.classes),
        "notes": list(grid.notes),
        "summary": summary,
        "cells": [{name: row.get(name) for name in CELL_COLUMNS} for row in cells],
        "made": now(),
        "versions": package_versions(),
    }
    replace_file(out / CELLS_TABLE, as_csv(CELL_COLUMNS, cells).encode())
    replace_file(out / SUMMARY_TABLE, as_csv(SUMMARY_COLUMNS, summary).encode())
    replace_file(out / STUDY, to_json(study))
    return study
