"""What a run leaves behind while it trains: two tables of numbers, and checkpoints to go on from."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pathotune_pipeline.engine.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from pathotune_pipeline.errors import CorruptDataError, OutputExistsError
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.provenance import canonical_json

KEPT = 2
"""Checkpoints that are kept: a file that turns out damaged has one before it."""
_NAME = re.compile(r"step-(\d+)\.json")


class Table:
    """A CSV file that grows by rows with a column `step`; columns are those of the first row."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """Open it, and forget the rows after step `upto`: they will be made again."""
        self._path = path
        self._names: list[str] = []
        if path.exists():
            text = path.read_text()
            reader = csv.DictReader(
                io.StringIO(text[: text.rfind("\n") + 1])
            )  # a kill may have cut the last line short
            kept = [row for row in reader if int(row["step"]) <= upto]
            self._names = list(reader.fieldnames or ())
            write_atomically(path, self._text(kept, header=bool(self._names)).encode())

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on its way to the disk when this returns."""
        first = not self._names
        if first:
            self._names = list(row)
        with self._path.open("a", newline="") as file:
            file.write(self._text([row], header=first))

    def _text(self, rows: list[Any], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._names, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def save_state(folder: Path, state: Mapping[str, Tensor], *, step: int, recipe: Mapping[str, Any]) -> None:
    """Write a checkpoint of its own name, then drop the oldest ones.

    Args:
        folder: of the checkpoints.
        state: name -> tensor.
        step: how many steps are done.
        recipe: what decides the run's result.
    """
    save_checkpoint(folder / f"step-{step:08d}", state, {"step": step, "recipe": dict(recipe)})
    failpoint("pretrain.checkpoint")
    for old in _steps(folder)[:-KEPT]:
        for suffix in (".json", ".safetensors"):
            (folder / f"step-{old:08d}{suffix}").unlink(missing_ok=True)


def load_state(folder: Path, recipe: Mapping[str, Any]) -> tuple[dict[str, Tensor], int] | None:
    """The newest checkpoint that can be read, and how many steps it has done; None where there is none.

    Raises:
        OutputExistsError: it is of a run with other settings.
        CorruptDataError: there are checkpoints, and none can be read.
    """
    damage: CorruptDataError | None = None
    for step in reversed(_steps(folder)):
        try:
            state, meta = load_checkpoint(folder / f"step-{step:08d}")
        except (CorruptDataError, FileNotFoundError) as error:
            damage = error if isinstance(error, CorruptDataError) else CorruptDataError(str(error))
            continue
        _check_recipe(folder, meta["recipe"], recipe)
        return state, int(meta["step"])
    if damage:
        raise damage
    return None


def _check_recipe(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if canonical_json(dict(found)) == canonical_json(dict(asked)):
        return
    names = sorted(name for name in {*found, *asked} if found.get(name) != asked.get(name))
    raise OutputExistsError(
        f"{folder.parent}: holds a run with another {', '.join(names)}. Give the settings it was begun with, or another --out."
    )


def _steps(folder: Path) -> list[int]:
    found = [_NAME.fullmatch(path.name) for path in folder.glob("step-*.json")]
    return sorted(int(match[1]) for match in found if match)
