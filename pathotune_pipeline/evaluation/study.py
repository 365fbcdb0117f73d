"""A cross-validation from names to files: store and label table in, a model folder out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelJoin, join_labels
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.crossval import CrossvalProgress, CrossvalSpec, crossval
from pathotune_pipeline.evaluation.result import CrossvalResult, write_result
from pathotune_pipeline.store.store import open_store


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be learnt from what.

    Attributes:
        store: the store's folder.
        features: name of a feature set, or the beginning of one.
        labels: the label table.
        target: its column with the class.
        out: the model folder to write.
        overwrite: whether an older result there may be replaced.
    """

    store: Path | str
    features: str
    labels: Path
    target: str
    out: Path
    overwrite: bool = False


def run_study(
    study: Study, spec: CrossvalSpec, *, on_progress: Callable[[CrossvalProgress], None] | None = None
) -> tuple[CrossvalResult, list[str]]:
    """Read the bags, cross-validate, write `study.out`.

    Returns:
        The result, and what a reader should know of slides and rows that were left out.

    Raises:
        UsageError: the store, the set, the table or the folds do not allow it.
    """
    if study.out.exists() and any(study.out.iterdir()) and not study.overwrite:
        raise UsageError(f"--out {study.out}: the folder is not empty. Give a new one, or --overwrite.")
    store = open_store(study.store)
    features_set = store.find_set(study.features)
    records = store.records(features_set)
    join = join_labels(records, read_table(study.labels).rows, target=study.target)
    dataset = BagDataset(store, features_set, join.labels)
    bags = [dataset[index] for index in range(len(dataset))]
    notes = [*join.notes, *dataset.notes, *_left_out(join)]
    name = str(features_set).removeprefix("features-")
    result = crossval(bags, spec, feature_set=name, on_progress=on_progress)
    context: dict[str, Any] = {"features": name, "target": study.target, "slides": len(bags), "notes": notes}
    write_result(result, study.out, context=context, overwrite=study.overwrite)
    return result, notes


def _left_out(join: LabelJoin, most: int = 3) -> list[str]:
    notes = []
    if join.slides_without_row:
        shown = ", ".join(join.slides_without_row[:most])
        notes.append(f"{len(join.slides_without_row)} slides have no row in the label table ({shown}).")
    if join.rows_without_slide:
        shown = ", ".join(join.rows_without_slide[:most])
        notes.append(f"{len(join.rows_without_slide)} rows of the label table have no slide in the set ({shown}).")
    return notes
