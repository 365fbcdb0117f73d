"""A cross-validation from names to files: store and label table in, a model folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.coding import resolve
from pathotune_pipeline.bags.targets import TargetSpec, target_specs
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.crossval import CrossvalProgress, CrossvalSpec, Sources, crossval, prepare
from pathotune_pipeline.evaluation.folds import Splitter
from pathotune_pipeline.evaluation.material import open_material
from pathotune_pipeline.evaluation.result import CrossvalResult, write_results
from pathotune_pipeline.evaluation.target_crossval import crossval_targets, prepare_targets


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
        cache: folder of a training cache, from which bags are mapped; None reads them into memory.
    """

    store: Path | str
    features: str
    labels: Path
    target: str | tuple[str, ...]
    out: Path
    overwrite: bool = False
    cache: Path | None = None


def run_study(
    study: Study,
    spec: CrossvalSpec,
    *,
    split: Splitter | None = None,
    finish: Callable[[Path], None] | None = None,
    on_progress: Callable[[CrossvalProgress], None] | None = None,
) -> tuple[dict[str, CrossvalResult], list[str]]:
    """Read the bags, cross-validate, write `study.out`; of several targets each into a folder of its name.

    Args:
        study: from what, and where to.
        spec: head, training, folds, seeds.
        split: what cuts the slides into seeds and folds, instead of what the settings name.
        finish: adds files of its own to each result's folder before any of it is seen.
        on_progress: told of each trained model.

    Returns:
        The result of each target, and what a reader should know of slides and rows that were left out.

    Raises:
        UsageError: the store, the set, the table or the folds do not allow it.
    """
    if study.out.exists() and any(study.out.iterdir()) and not study.overwrite:
        raise UsageError(f"--out {study.out}: the folder is not empty. Give a new one, or --overwrite.")
    targets = target_specs(study.target, spec.targets)
    plain = len(targets) == 1 and all(target.plain for target in targets.values())
    if not plain:
        spec = spec.with_values(targets={name: target.model_dump(mode="json") for name, target in targets.items()})
    material = open_material(study.store, study.features, study.labels, spec=spec, targets=targets)
    bags, sources = material.labelled()
    _check(bags, replace(sources, split=split), targets=targets, spec=spec, plain=plain)  # before features are read
    bags, sources = material.read(study.cache)
    sources = replace(sources, split=split)
    told: dict[str, Any] = {"feature_set": material.features, "sources": sources, "on_progress": on_progress}
    if plain:
        results = {next(iter(targets)): crossval(bags, spec, **told)}
    else:
        results = crossval_targets(bags, targets, spec, **told)
    context: dict[str, Any] = {"features": material.features, "slides": len(bags), "notes": material.notes}
    for name, result in results.items():
        result.context = {**context, "target": name}
    folders = results if len(results) > 1 else {"": next(iter(results.values()))}
    write_results(folders, study.out, overwrite=study.overwrite, finish=finish)
    return results, material.notes


def _check(
    bags: Sequence[Bag], sources: Sources, *, targets: Mapping[str, TargetSpec], spec: CrossvalSpec, plain: bool
) -> None:
    """Say what is wrong with labels and splits."""
    if not plain:
        prepare_targets(bags, targets, spec, sources)
        return
    (target,) = targets.values()
    if target.kind == "binary":  # says so where there are more
        resolve(target, [str(bag.target) for bag in bags])
    prepare(bags, spec, sources)
