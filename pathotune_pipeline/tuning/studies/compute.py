"""Computing a study's cells one after the other: only those that are missing, each on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.evaluation.run_scores import JudgedRun
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.tuning.studies.cell import Cell, CellRecord, Fit, Fitted, Items
from pathotune_pipeline.tuning.studies.ledger import Ledger

WAIT_S = 0.5
"""Between two looks at cells that another process has in hand."""

OnCell = Callable[[Cell, CellRecord], None]


def compute_cells(
    cells: Sequence[Cell],
    fit: Fit,
    ledger: Ledger,
    *,
    run: str,
    on_begin: Callable[[Cell], None] | None = None,
    on_cell: OnCell | None = None,
) -> None:
    """Compute every cell that has no result yet.

    A cell that fails is written down with its reason, and the others go on; it is tried again by the next run. Cells
    that another process has in hand are put off, and then waited for, unless that process ends without a result.

    Args:
        cells: of the study.
        fit: trains one.
        ledger: where results lie.
        run: a name for this run; what failed in it is not tried twice.
        on_begin: told of each cell before it is trained.
        on_cell: told of each cell once, when its result is known, whoever computed it.
    """
    waiting = [cell for cell in cells if not cell.not_run]
    while waiting:
        held = []
        for cell in waiting:
            record = _settled(ledger, cell, run)
            if record is None:
                with ledger.claim(cell) as ours:
                    if ours:
                        record = _settled(ledger, cell, run)  # another may have written it in between
                        if record is None:
                            if on_begin:
                                on_begin(cell)
                            record = _compute(cell, fit, ledger, run)
                            ledger.write(cell, record)
            if record is None:
                held.append(cell)
            elif on_cell:
                on_cell(cell, record)
        if len(held) == len(waiting):
            time.sleep(WAIT_S)
        waiting = held


def _settled(ledger: Ledger, cell: Cell, run: str) -> CellRecord | None:
    """A result that is not computed again by this run."""
    record = ledger.read(cell)
    return record if record is not None and (record.status == "done" or record.run == run) else None


def _compute(cell: Cell, fit: Fit, ledger: Ledger, run: str) -> CellRecord:
    began = time.perf_counter()
    try:
        fitted = fit(cell)
        failpoint("study.fitted")
        tests = {name: _judged(ledger.items, index, fitted) for name, index in cell.parts.tests.items()}
    except Exception as error:  # noqa: BLE001 - one cell never stops the study; its row says what happened
        return CellRecord("failed", _told(error), seconds=time.perf_counter() - began, run=run)
    return CellRecord("done", tests=tests, facts=fitted.facts, seconds=time.perf_counter() - began, run=run)


def _judged(items: Items, index: np.ndarray, fitted: Fitted) -> JudgedRun:
    probs = np.asarray(fitted.predict(index))
    if probs.shape != (len(index), len(items.classes)) or not np.isfinite(probs).all():
        raise PathotuneError(
            f"The model gave {probs.shape} for {len(index)} images of {len(items.classes)} classes, "
            f"{int((~np.isfinite(probs)).sum())} of them not finite; one finite probability each is needed."
        )
    return items.run(index, probs)


def _told(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
