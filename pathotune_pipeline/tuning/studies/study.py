"""A study from its file to its tables."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.studies.compute import OnCell, compute_cells
from pathotune_pipeline.tuning.studies.ledger import Ledger, records_of
from pathotune_pipeline.tuning.studies.opening import OpenStudy, StudyRequest, open_study
from pathotune_pipeline.tuning.studies.processes import Work, compute_in_processes
from pathotune_pipeline.tuning.studies.write import write_tables

Opener = Callable[[StudyRequest], OpenStudy]


def run_study(
    request: StudyRequest,
    *,
    jobs: int = 1,
    opener: Opener = open_study,
    on_open: Callable[[OpenStudy], None] | None = None,
    on_cell: OnCell | None = None,
) -> dict[str, Any]:
    """Compute what is missing of a study, and write its tables.

    Args:
        request: which.
        jobs: processes; 1 computes in this one, with more each has its share of the cores, and sums of floats may differ
            in their last digits; 0 computes nothing, and writes the tables of what is there.
        opener: opens the study, here and in the other processes.
        on_open: told what is to be computed.
        on_cell: told of each cell once.

    Returns:
        What `study.json` holds.

    Raises:
        UsageError: a setting is wrong, or `out` cannot be written.
        WeightsError: an encoder's weights are absent or do not fit.
    """
    if jobs < 0:
        raise UsageError(f"--jobs {jobs}: give how many processes compute, or 0 for the tables of what is there.")
    study = opener(request)
    ledger, run = Ledger(request.out, study.grid.items), secrets.token_hex(4)
    if on_open:
        on_open(study)
    work = Work(study.grid.cells, study.fit, ledger)
    if jobs == 1:
        compute_cells(work.cells, work.fit, ledger, run=run, on_cell=on_cell)
    elif jobs > 1:
        compute_in_processes(work, partial(open_work, request, opener), jobs=jobs, run=run, on_cell=on_cell)
    records = records_of(ledger, list(study.grid.cells))
    return write_tables(request.out, study.grid, records, draws=study.draws, about=study.about, baseline=study.baseline)


def open_work(request: StudyRequest, opener: Opener) -> Work:
    """The study's cells in another process."""
    study = opener(request)
    return Work(study.grid.cells, study.fit, Ledger(request.out, study.grid.items))
