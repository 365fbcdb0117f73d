"""A cross-validation from names to files: store and label table in, a model folder out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.bags.coding import resolve
from pathotune_pipeline.bags.dataset import BagDataset
from pathotune_pipeline.bags.labels import LabelJoin, join_labels
from pathotune_pipeline.bags.sites import TCGA
from pathotune_pipeline.bags.target_table import join_targets, targets_of_label
from pathotune_pipeline.bags.targets import target_specs
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.crossval import CrossvalProgress, CrossvalSpec, crossval
from pathotune_pipeline.evaluation.result import CrossvalResult, write_result, write_results
from pathotune_pipeline.evaluation.target_crossval import crossval_targets
from pathotune_pipeline.store.store import open_store


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be learnt from what.

    Attributes:
        store: the store's folder.
        features: name of a feature set, or the beginning of one.
        labels: the label table.
        target: its column with the class; or one or several as `bags.targets.parse_target` takes them.
        out: the model folder to write.
        overwrite: whether an older result there may be replaced.
    """

    store: Path | str
    features: str
    labels: Path
    target: str | tuple[str, ...]
    out: Path
    overwrite: bool = False


def run_study(
    study: Study, spec: CrossvalSpec, *, on_progress: Callable[[CrossvalProgress], None] | None = None
) -> tuple[dict[str, CrossvalResult], list[str]]:
    """Read the bags, cross-validate, write `study.out`; of several targets each into a folder of its name.

    Returns:
        The result of each target, and what a reader should know of slides and rows that were left out.

    Raises:
        UsageError: the store, the set, the table or the folds do not allow it.
    """
    if study.out.exists() and any(study.out.iterdir()) and not study.overwrite:
        raise UsageError(f"--out {study.out}: the folder is not empty. Give a new one, or --overwrite.")
    targets = target_specs(study.target, spec.targets)
    store = open_store(study.store)
    features_set = store.find_set(study.features)
    records = store.records(features_set)
    rows = read_table(study.labels).rows
    join = join_targets(records, rows, targets)
    dataset = BagDataset(store, features_set, join.labels)
    bags = [dataset[index] for index in range(len(dataset))]
    notes = [*join.notes, *dataset.notes, *_left_out(join)]
    name = str(features_set).removeprefix("features-")
    sites = _sites_of(join.labels, rows, spec.site)
    context: dict[str, Any] = {"features": name, "slides": len(bags), "notes": notes}
    if len(targets) == 1 and all(target.plain for target in targets.values()):
        (column, target), results = next(iter(targets.items())), {}
        if target.kind == "binary":  # says so where there are more
            resolve(target, [str(bag.target) for bag in bags])
        results[column] = crossval(bags, spec, feature_set=name, sites=sites, on_progress=on_progress)
    else:
        spec = spec.with_values(targets={column: target.model_dump(mode="json") for column, target in targets.items()})
        if len(targets) > 1:
            bags = [replace(bag, target=targets_of_label(str(bag.target))) for bag in bags]
        results = crossval_targets(bags, targets, spec, feature_set=name, sites=sites, on_progress=on_progress)
    for column, result in results.items():
        result.context = {**context, "target": column}
    if len(results) == 1:
        write_result(next(iter(results.values())), study.out, overwrite=study.overwrite)
    else:
        write_results(results, study.out, overwrite=study.overwrite)
    return results, notes


def _sites_of(slides: Iterable[str], rows: Sequence[Mapping[str, str]], column: str | None) -> dict[str, str] | None:
    """Each slide's site from the table; None where no column is named, or the barcode tells."""
    if column is None or (column == TCGA and TCGA not in rows[0]):
        return None
    found = join_labels(slides, rows, target=column)
    return {slide: row.label for slide, row in found.labels.items()}


def _left_out(join: LabelJoin, most: int = 3) -> list[str]:
    notes = []
    if join.slides_without_row:
        shown = ", ".join(join.slides_without_row[:most])
        notes.append(f"{len(join.slides_without_row)} slides have no row in the label table ({shown}).")
    if join.rows_without_slide:
        shown = ", ".join(join.rows_without_slide[:most])
        notes.append(f"{len(join.rows_without_slide)} rows of the label table have no slide in the set ({shown}).")
    return notes
