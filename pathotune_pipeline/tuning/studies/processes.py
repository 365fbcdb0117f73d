"""Computing a study's cells in several processes; a cell that kills its process fails alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.tuning.studies.cell import Cell, CellRecord, Fit
from pathotune_pipeline.tuning.studies.compute import OnCell, compute_cells
from pathotune_pipeline.tuning.studies.ledger import Ledger

BEGIN, END = "begin", "end"


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What one process needs to compute a study's cells."""

    cells: Sequence[Cell]
    fit: Fit
    ledger: Ledger


OpenWork = Callable[[], Work]
"""Makes the work anew in another process; a function of a module, or a `functools.partial` of one."""


def compute_in_processes(
    work: Work, open_work: OpenWork, *, jobs: int, run: str, on_cell: OnCell | None = None
) -> None:
    """Compute every cell that has no result yet in several processes, each with its share of the cores.

    They share the cells as several runs do, by the ledger's claims. Where a process dies, the cell that it had in hand is
    written down as failed with what killed it, and another process goes on.

    Args:
        work: of this process, to write down and to tell what became of cells.
        open_work: makes the same in the others.
        jobs: processes, 2 or more.
        run: a name for this run; what failed in it is not tried twice.
        on_cell: told of each cell once.

    Raises:
        PathotuneError: a process ends before it has begun a cell.
    """
    cells = {cell.file_name: cell for cell in work.cells if not cell.not_run}
    told: set[str] = set()
    crew = [_Hand(open_work, run, jobs) for _ in range(min(jobs, max(len(cells), 1)))]

    def tell(name: str) -> None:
        record = work.ledger.read(cells[name])
        if name not in told and record is not None:
            told.add(name)
            if on_cell:
                on_cell(cells[name], record)

    try:
        while crew:
            ready = wait([hand.inbox for hand in crew])
            for hand in [each for each in crew if each.inbox in ready]:
                if hand.listen(tell):
                    continue
                crew.remove(hand)
                lost = hand.bury()
                if lost is None:
                    continue
                if not hand.in_hand:
                    raise PathotuneError(f"A process of the study ended {lost} before it began a cell. Try --jobs 1.")
                cell = cells[hand.in_hand]
                reason = f"the process that computed it ended {lost}"
                work.ledger.write(cell, CellRecord("failed", reason, run=run))
                tell(hand.in_hand)
                crew.append(_Hand(open_work, run, jobs))
    finally:
        for hand in crew:
            hand.end()


class _Hand:
    """One process, and what it said last."""

    def __init__(self, open_work: OpenWork, run: str, jobs: int) -> None:
        context = get_context("spawn")  # torch's threads do not survive a fork
        self.inbox, outbox = context.Pipe(duplex=False)
        self.in_hand = ""
        self._process: BaseProcess = context.Process(
            target=_work, args=(open_work, run, jobs, outbox), daemon=True, name="study"
        )
        self._process.start()
        outbox.close()  # so that the pipe ends with the process

    def listen(self, tell: Callable[[str], None]) -> bool:
        """Take one message. False where there will be no more."""
        try:
            word, name = self.inbox.recv()
        except (EOFError, ConnectionResetError):
            return False
        self.in_hand = name if word == BEGIN else ""
        if word == END:
            tell(name)
        return True

    def bury(self) -> str | None:
        """How the process ended; None where it did its work."""
        self._process.join()
        code = self._process.exitcode or 0
        self.inbox.close()
        if code < 0:
            name = signal.Signals(-code).name
            return f"by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
        return f"with exit code {code}" if code else None

    def end(self) -> None:
        """Stop the process."""
        self._process.terminate()
        self._process.join()
        self.inbox.close()


def _work(open_work: OpenWork, run: str, jobs: int, outbox: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told, and ends the others
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    work = open_work()
    try:
        compute_cells(
            work.cells,
            work.fit,
            work.ledger,
            run=run,
            on_begin=lambda cell: outbox.send((BEGIN, cell.file_name)),
            on_cell=lambda cell, _: outbox.send((END, cell.file_name)),
        )
    except BrokenPipeError:
        return  # the first process is gone
