"""Where a study's cells lie: one file each, there whole or not at all, so that a killed study goes on where it was."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.run_scores import JudgedRun
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.provenance import canonical_json, now, package_versions, short
from pathotune_pipeline.store.files import parse_json, replace_file
from pathotune_pipeline.tuning.studies.cell import Cell, CellRecord, Items

CELLS, CLAIMS = "cells", "claims"
FORMAT = 1


class Ledger:
    """The results of a study's cells in a folder.

    Several processes and runs may write into one folder. A claim, which ends with its process, keeps two from doing the
    same cell at once; where it cannot (machines whose file system does not carry locks), both write the same result.
    """

    def __init__(self, folder: Path, items: Items) -> None:
        """Open, and make where it is new.

        Raises:
            UsageError: the folder cannot be written.
        """
        self._cells, self._claims, self.items = folder / CELLS, folder / CLAIMS, items
        try:
            self._cells.mkdir(parents=True, exist_ok=True)
            self._claims.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from None

    def read(self, cell: Cell) -> CellRecord | None:
        """What became of a cell; None where it is not known, or its file is not one of ours."""
        try:
            found = parse_json(self._path(cell).read_bytes())
        except FileNotFoundError:
            return None
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("fingerprint") != cell.fingerprint:
            return None
        try:
            tests = {
                name: self.items.run(cell.parts.tests[name], np.array(rows, np.float64))
                for name, rows in found["probabilities"].items()
            }
            return CellRecord(found["status"], found["reason"], tests, found["facts"], found["seconds"], found["run"])
        except (KeyError, AttributeError, TypeError, ValueError):  # somebody has changed it: it is computed again
            return None

    def write(self, cell: Cell, record: CellRecord) -> None:
        """Keep what became of a cell, over what was known before.

        Raises:
            UsageError: the folder cannot be written; the study stops, since every cell would meet it.
        """
        text = canonical_json(self._plain(cell, record)) + "\n"
        try:
            replace_file(self._path(cell), text.encode())
        except OSError as error:
            raise _unwritable(self._cells, error) from None
        failpoint("study.cell")

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell while inside. False where another process holds it; the claim of a process ends with it."""
        path = self._claims / short(cell.fingerprint)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(self._claims, error) from None
        try:
            if not _lock(handle):
                yield False
                return
            yield True
            path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _path(self, cell: Cell) -> Path:
        """The cell's file, also under the name that its row had in an earlier run or another study of this folder."""
        path = self._cells / cell.file_name
        if path.exists():
            return path
        return next(iter(sorted(self._cells.glob(f"*@{short(cell.fingerprint)}.json"))), path)

    def _plain(self, cell: Cell, record: CellRecord) -> dict[str, Any]:
        items, parts = self.items, cell.parts
        judged = {name: _of_run(run) for name, run in record.tests.items()}
        return {
            "format": FORMAT,
            "fingerprint": cell.fingerprint,
            "encoder": cell.contender.encoder,
            "method": cell.contender.method,
            "recipe": dict(cell.contender.recipe),
            "domain": cell.domain,
            "fraction": cell.fraction,
            "fold": cell.fold,
            "seed": cell.seed,
            "status": record.status,
            "reason": record.reason,
            "classes": list(items.classes),
            "probabilities": {name: each.pop("probabilities") for name, each in judged.items()},
            "judged": judged,
            "scores": {name: run.scores() for name, run in record.tests.items()},
            "train": [items.names[place] for place in parts.train.tolist()],
            "val": [items.names[place] for place in parts.val.tolist()],
            "facts": dict(record.facts),
            "seconds": round(record.seconds, 3),
            "run": record.run,
            "made": now(),
            "versions": package_versions(),
        }


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: at worst a cell is computed twice, to the same result
        return True
    return True


def _of_run(run: JudgedRun) -> dict[str, Any]:
    """Names, targets, groups and probabilities; these as float32 in its fewest digits, so that they come back as they are."""
    rows = np.asarray(run.probs, np.float32)
    return {
        "names": list(run.names),
        "targets": run.targets.tolist(),
        "groups": list(run.groups),
        "probabilities": [[float(str(value)) for value in row] for row in rows],
    }


def _unwritable(folder: Path, error: OSError) -> UsageError:
    told = error.strerror or type(error).__name__
    return UsageError(f"--out {folder}: cannot write there ({told}). Give a folder that can be written and has room.")


def records_of(ledger: Ledger, cells: list[Cell]) -> Mapping[str, CellRecord]:
    """What is known of cells, by file name; those that cannot be computed stand there with their reason."""
    found: dict[str, CellRecord] = {}
    for cell in cells:
        record = CellRecord("not run", cell.not_run) if cell.not_run else ledger.read(cell)
        if record is not None:
            found[cell.file_name] = record
    return found
