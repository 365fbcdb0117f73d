"""The table of predictions: a row for each slide or case, whatever became of it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pathotune_pipeline.bags.targets import LABEL_SEPARATOR, NO_LABELS
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.result import table_columns
from pathotune_pipeline.evaluation.scoring import CLASSES
from pathotune_pipeline.models.card import TargetFacts

Status = Literal["predicted", "abstained", "failed", "left"]
STATUSES: tuple[Status, ...] = ("predicted", "abstained", "left", "failed")
"""Of slides and cases; a case has the first one that one of its slides has."""
LIKELY = 0.5
"""Probability from which a label of several counts as said."""


@dataclass(frozen=True, slots=True)
class PredictionLine:
    """What became of one slide.

    Attributes:
        slide_id: whose.
        case_id: the patient; empty where not known.
        status: predicted, abstained (seen, and not to be judged), failed (no features) or left (the time was over before its
            features' turn).
        reason: why not predicted.
        values: of each target [P] float64; empty where not predicted.
        tiles: readable ones.
        new: whether it was worked out now; False where an earlier answer to the same was kept.
    """

    slide_id: str
    case_id: str
    status: Status
    reason: str = ""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    tiles: int = 0
    new: bool = True


def count_statuses(lines: Sequence[PredictionLine]) -> dict[str, int]:
    """How many slides of each status, and in all."""
    found = Counter(line.status for line in lines)
    return {"slides": len(lines), **{name: found[name] for name in STATUSES}}


def count_new(lines: Sequence[PredictionLine]) -> int:
    """How many slides with features were judged now, rather than by an earlier answer that was kept."""
    return sum(line.new and bool(line.tiles) for line in lines)


def slide_table(lines: Sequence[PredictionLine], targets: Sequence[TargetFacts], model: str) -> list[list[str]]:
    """Header and one row for each slide.

    Args:
        lines: of the slides.
        targets: of the model.
        model: its short fingerprint.
    """
    header = ["slide_id", "case_id", "status", "reason", *_value_columns(targets), "tiles", "model"]
    rows = [
        [line.slide_id, line.case_id, line.status, line.reason, *_cells(line.values, targets), str(line.tiles), model]
        for line in lines
    ]
    return [header, *rows]


def case_table(lines: Sequence[PredictionLine], targets: Sequence[TargetFacts], model: str) -> list[list[str]]:
    """Header and one row for each case: the mean over its predicted slides. A slide without a case is one of its own."""
    cases: dict[str, list[PredictionLine]] = {}
    for line in lines:
        cases.setdefault(line.case_id or line.slide_id, []).append(line)
    header = ["case_id", "status", "reason", *_value_columns(targets), "slides", "slides_predicted", "model"]
    rows = []
    for case, own in cases.items():
        said = [line for line in own if line.status == "predicted"]
        status = next(name for name in STATUSES if any(line.status == name for line in own))
        values = (
            {name: np.mean([line.values[name] for line in said], axis=0) for name in said[0].values} if said else {}
        )
        left = "; ".join(f"{line.slide_id}: {line.reason}" for line in own if line.status != "predicted")
        rows.append([case, status, left, *_cells(values, targets), str(len(own)), str(len(said)), model])
    return [header, *rows]


def write_table(path: Path, table: Sequence[Sequence[str]], *, overwrite: bool = False) -> None:
    """Write a CSV, whole or not at all.

    Raises:
        UsageError: it is there already, or cannot be written.
    """
    check_place(path, overwrite=overwrite)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.getvalue().encode())
    except OSError as error:
        raise UsageError(f"--out {path}: cannot write there ({error.strerror or error}).") from None


def check_place(path: Path, *, overwrite: bool) -> None:
    """Make sure that a table may be written there, before any work.

    Raises:
        UsageError: a folder, or a file that may not be replaced.
    """
    if path.is_dir():
        raise UsageError(f"--out {path}: this is a folder. Name the table's file, such as {path / 'predictions.csv'}.")
    if path.exists() and not overwrite:
        raise UsageError(f"--out {path}: it is there already. Give another name, or --overwrite.")


def likely_classes(target: TargetFacts, values: np.ndarray) -> tuple[str, ...]:
    """The likeliest class or grade, or all likely labels; none of other kinds."""
    if target.kind in (*CLASSES, "ordinal"):
        return (target.classes[int(values.argmax())],)
    if target.kind == "multilabel":
        return tuple(name for name, value in zip(target.classes, values, strict=True) if value >= LIKELY)
    return ()


def verdict(target: TargetFacts, values: np.ndarray) -> str:
    """What the values say in one word: the likeliest class or grade, or the likely labels; empty of other kinds."""
    said = LABEL_SEPARATOR.join(likely_classes(target, values))
    return said or (NO_LABELS if target.kind == "multilabel" else "")


def _own_columns(target: TargetFacts) -> list[str]:
    columns = table_columns(target.kind, target.columns)
    return ["predicted", *columns] if target.classes else columns


def _value_columns(targets: Sequence[TargetFacts]) -> list[str]:
    if len(targets) == 1:
        return _own_columns(targets[0])
    return [f"{target.name}.{column}" for target in targets for column in _own_columns(target)]


def _cells(values: dict[str, np.ndarray], targets: Sequence[TargetFacts]) -> list[str]:
    cells: list[str] = []
    for target in targets:
        said = values.get(target.name)
        if said is None:
            cells += [""] * len(_own_columns(target))
            continue
        cells += [*([verdict(target, said)] if target.classes else []), *(repr(float(value)) for value in said)]
    return cells
