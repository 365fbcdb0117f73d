"""A table of predictions against labels: published ones, another tool's, or our own `predict`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.bags.coding import resolve
from pathotune_pipeline.bags.labels import SLIDE_COLUMNS, LabelJoin
from pathotune_pipeline.bags.target_table import join_targets
from pathotune_pipeline.bags.targets import SURVIVAL, read_number, target_specs
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation.pooling import PredictionRow
from pathotune_pipeline.evaluation.result import PROBABLE, CrossvalResult, write_results
from pathotune_pipeline.models.evaluate import EvaluateSpec
from pathotune_pipeline.provenance import package_versions
from pathotune_pipeline.registry import nearest

_SURVIVAL_AT = "survival_at_"
_TOLERANCE = 1e-3
"""By how much the probabilities of a slide may miss 1 in sum."""


@dataclass(frozen=True, slots=True)
class TabularStudy:
    """Predictions and what is true.

    Attributes:
        predictions: a table with a column that names the slide and columns of what was predicted.
        labels: the label table; None where the labels stand in the same one.
        target: as `--target` takes it, one.
        id_column: that names the slide in the predictions; empty finds it.
        probabilities: `COLUMN=CLASS`, or of two classes `COLUMN` for the second; empty takes `prob_<class>`.
        out: folder for the result, or None to write none.
        overwrite: whether an older result there may be replaced.
    """

    predictions: Path
    labels: Path | None
    target: str
    id_column: str = ""
    probabilities: tuple[str, ...] = ()
    out: Path | None = None
    overwrite: bool = False


def evaluate_table(study: TabularStudy, spec: EvaluateSpec) -> CrossvalResult:
    """Judge a table of predictions.

    Rows that our `predict` did not predict are left out, with a note. Several rows of one slide, as of several seeds, are
    averaged. Classes are those of the labels.

    Args:
        study: the tables.
        spec: of the bootstrap.

    Raises:
        ManifestError: a column is missing, a cell is no number, or nothing joins.
        UsageError: the predictions do not fit the kind of target, or the folder is not empty.
    """
    table = read_table(study.predictions)
    name_column = _name_column(table, study.id_column)
    rows, notes = _predicted(table, name_column)
    targets = target_specs(study.target, {})
    (column, target), *_ = targets.items()
    label_rows = read_table(study.labels).rows if study.labels else tuple(rows)
    if study.labels is None:
        label_rows = tuple({**row, "slide_id": row[name_column]} for row in rows)
    join = join_targets(dict.fromkeys(row[name_column] for row in rows), label_rows, targets)
    labels = [row.label for row in join.labels.values()]
    kind, classes = resolve(target, labels)
    columns, horizons = _prediction_columns(table, study, kind, classes)
    result = CrossvalResult(
        settings={"head": study.predictions.stem},
        classes=classes or (("predicted",) if kind == "regression" else tuple(columns)),
        feature_set="",
        versions=package_versions(),
        notes=[*notes, *join.notes, *_not_judged(join)],
        context={"target": column, "predictions": study.predictions.name, "slides": len(join.labels)},
        kind=kind,
        horizons=horizons,
    )
    turns: dict[str, int] = {}
    for row in rows:
        slide = row[name_column]
        if slide in join.labels:
            seed = turns[slide] = turns.get(slide, -1) + 1
            values = _values(row, slide, columns, kind=kind, of_one=len(columns) < len(classes))
            label = join.labels[slide]
            result.predictions.append(PredictionRow(slide, label.case_id, label.label, seed, 0, values))
    result.summarise(draws=spec.bootstrap, seed=spec.seed)
    if study.out is not None:
        write_results({"": result}, study.out, overwrite=study.overwrite)
    return result


def _name_column(table: Table, asked: str) -> str:
    if asked:
        return table.column(asked)
    found = table.first_of((*SLIDE_COLUMNS, "slide_name", "case_id", "id"))
    if found is None:
        raise ManifestError(
            f"{table.name}: no column names the slide. Say which: --id COLUMN. Columns: {', '.join(table.columns)}."
        )
    return found


def _predicted(table: Table, name_column: str) -> tuple[list[dict[str, str]], list[str]]:
    status = table.first_of(("status",))
    if status is None:
        return list(table.rows), []
    rows = [row for row in table.rows if row[status] in ("predicted", "")]
    left = len(table.rows) - len(rows)
    if not rows:
        raise ManifestError(f"{table.name}: none of its {len(table.rows)} rows is predicted.")
    return rows, [f"{left} of {len(table.rows)} rows are not predicted and were left out."] if left else []


def _prediction_columns(
    table: Table, study: TabularStudy, kind: str, classes: Sequence[str]
) -> tuple[list[str], tuple[float, ...]]:
    """Columns of the values in their order, and the times of survival."""
    if kind in SURVIVAL:
        risk = table.column("risk")
        at = sorted((float(n.removeprefix(_SURVIVAL_AT)), n) for n in table.columns if n.startswith(_SURVIVAL_AT))
        if not at:
            raise ManifestError(
                f"{table.name}: survival is judged by risk and by columns {_SURVIVAL_AT}<time>; there is none. "
                f"Columns: {', '.join(table.columns)}."
            )
        return [risk, *(name for _, name in at)], tuple(time for time, _ in at)
    if kind == "regression":
        return [table.column(study.probabilities[0] if study.probabilities else "predicted")], ()
    if not study.probabilities:
        return [_of_class(table, name) for name in classes], ()
    named: dict[str, str] = {}
    for text in study.probabilities:
        column, mark, name = text.rpartition("=")
        if not mark:
            column, name = text, classes[-1]
        if name not in classes:
            raise UsageError(
                f"--probability {text!r}: {name!r} is none of the classes {', '.join(classes)}.{nearest(name, classes)}"
            )
        named[name] = table.column(column)
    if len(named) == len(classes):
        return [named[name] for name in classes], ()
    if len(classes) == 2 and kind in PROBABLE and len(named) == 1:
        (name,) = named
        return [named[name]] if name == classes[1] else [f"!{named[name]}"], ()
    absent = [name for name in classes if name not in named]
    raise UsageError(f"--probability: class {absent[0]!r} has none. Give COLUMN={absent[0]}.")


def _of_class(table: Table, name: str) -> str:
    found = table.first_of((f"prob_{name}",))
    if found is None:
        raise ManifestError(
            f"{table.name}: there is no column 'prob_{name}'. Say which holds it: --probability COLUMN={name}. "
            f"Columns: {', '.join(table.columns)}."
        )
    return found


def _values(
    row: Mapping[str, str], slide: str, columns: Sequence[str], *, kind: str, of_one: bool
) -> tuple[float, ...]:
    """What was predicted of a slide; of one probability of two, both."""
    found = []
    for column in columns:
        try:
            found.append(read_number(row[column.removeprefix("!")]))
        except ManifestError as error:
            raise ManifestError(f"Slide {slide}, column {column.removeprefix('!')!r}: {error}") from None
    if kind in PROBABLE:
        wrong = [value for value in found if not -_TOLERANCE <= value <= 1 + _TOLERANCE]
        if wrong:
            raise ManifestError(f"Slide {slide}: {wrong[0]:g} is no probability; they lie between 0 and 1.")
    if of_one:
        (sure,) = found
        return (sure, 1 - sure) if columns[0].startswith("!") else (1 - sure, sure)
    if kind in PROBABLE and kind != "multilabel" and not math.isclose(sum(found), 1, abs_tol=_TOLERANCE):
        raise ManifestError(f"Slide {slide}: its probabilities sum to {sum(found):g}, not to 1.")
    return tuple(found)


def _not_judged(join: LabelJoin) -> list[str]:
    notes = []
    if join.slides_without_row:
        notes.append(f"{len(join.slides_without_row)} predicted slides have no label and are not judged.")
    if join.rows_without_slide:
        notes.append(f"{len(join.rows_without_slide)} rows of the label table have no prediction and are not judged.")
    return notes
