"""A study from its file to its tables."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.run_scores import SCORES
from pathotune_pipeline.tuning.studies.cell import Fit
from pathotune_pipeline.tuning.studies.compute import OnCell, compute_cells
from pathotune_pipeline.tuning.studies.file import StudyFile
from pathotune_pipeline.tuning.studies.grid import Grid, domains_grid, scaling_grid
from pathotune_pipeline.tuning.studies.ledger import Ledger, records_of
from pathotune_pipeline.tuning.studies.processes import Work, compute_in_processes
from pathotune_pipeline.tuning.studies.write import write_tables

Kind = Literal["scaling", "domains", "protocol"]


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What was asked; plain, so that it can be handed to another process.

    Attributes:
        kind: of study.
        file: the study's YAML.
        out: folder of its cells and tables.
        flags: settings of the kind's own section that go over the file's.
    """

    kind: Kind
    file: Path
    out: Path
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class OpenStudy:
    """A study whose data are read and whose cells are known.

    Attributes:
        grid: its cells.
        fit: trains one.
        draws: of the bootstrap.
        about: for the page: "kind", "title", "note", "settings".
    """

    grid: Grid
    fit: Fit
    draws: int
    about: Mapping[str, Any]


def open_study(request: StudyRequest) -> OpenStudy:
    """Read a study's data, load its encoders, and cut its cells.

    Raises:
        UsageError: a setting, a label table or a split is wrong.
        WeightsError: an encoder's weights are absent or do not fit.
    """
    from pathotune_pipeline.tuning.patches.read import read_patches
    from pathotune_pipeline.tuning.studies.methods import PatchFit

    file = StudyFile.read(request.file)
    rows, encoders = file.rows(), file.encoder_specs()
    spec = file.scaling_spec(request.flags) if request.kind == "scaling" else file.domains_spec(request.flags)
    patches = read_patches(file.patches)
    patches = patches.subset(patches.where(labelled=True)) if (patches.labels < 0).any() else patches
    fit = PatchFit(patches, encoders, rows)
    cut: Callable[..., Grid] = scaling_grid if request.kind == "scaling" else domains_grid
    grid = cut(patches, fit.contenders, spec)
    about = {
        "kind": request.kind,
        "headline": SCORES[0],
        "title": file.title or f"Study: {request.kind}",
        "note": file.note,
        "settings": {request.kind: spec.model_dump(mode="json")},
    }
    return OpenStudy(replace(grid, notes=(*patches.notes, *grid.notes)), fit, spec.bootstrap, about)


def run_study(
    request: StudyRequest,
    *,
    jobs: int = 1,
    opener: Callable[[StudyRequest], OpenStudy] = open_study,
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
    return write_tables(request.out, study.grid, records, draws=study.draws, about=study.about)


def open_work(request: StudyRequest, opener: Callable[[StudyRequest], OpenStudy]) -> Work:
    """The study's cells in another process."""
    study = opener(request)
    return Work(study.grid.cells, study.fit, Ledger(request.out, study.grid.items))
