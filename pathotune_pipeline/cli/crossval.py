"""Train a head on a store's features and judge it by patient-grouped, stratified cross-validation.

Example:
  pathotune crossval --store store/ --features stain-texture --labels labels.csv --target class --head abmil --out model/
  pathotune crossval ... --target grade:ordinal --out model/
  pathotune crossval ... --target os_months:survival-cox:os_event --out model/
  pathotune crossval ... --target er_status --target ki67:regression --out model/

Kinds of target: binary, multiclass, multilabel, ordinal, regression, survival-discrete, survival-cox.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import add_settings, given, store_address


def add_study(parser: argparse.ArgumentParser) -> None:
    """The flags that name a study."""
    where = parser.add_argument_group("where")
    where.add_argument("--store", type=store_address, required=True, metavar="STORE", help="the store's folder")
    where.add_argument("--features", required=True, metavar="NAME", help="a feature set, or the beginning of its name")
    where.add_argument("--labels", type=Path, required=True, metavar="CSV", help="table of slides, patients and labels")
    where.add_argument(
        "--target",
        required=True,
        action="append",
        metavar="COLUMN[:KIND[:EVENT]]",
        help="the table's column that holds the class; or of another kind; several times for several targets at once",
    )
    where.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for scores, predictions and models"
    )
    where.add_argument("--overwrite", action="store_true", help="replace an older result in --out")
    where.add_argument(
        "--cache",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder for a training cache, made once and mapped; without it all features are read into memory",
    )


def add_licence(parser: argparse.ArgumentParser) -> None:
    """The flags for what goes into a model's folder."""
    parser.add_argument(
        "--data-licence", default="not stated", metavar="TEXT", help="licence of the data, for the model card"
    )
    parser.add_argument(
        "--adapter",
        default=None,
        metavar="FILE",
        help="the adapter that the features were made with, to lie in the folder: predict then needs no other",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    add_settings(parser, ("crossval",))
    add_licence(parser)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def study_of(arguments: argparse.Namespace) -> Any:
    from pathotune_pipeline.evaluation.study import Study

    return Study(
        arguments.store,
        arguments.features,
        arguments.labels,
        tuple(arguments.target),
        arguments.out,
        arguments.overwrite,
        arguments.cache,
    )


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.evaluation.crossval import CrossvalSpec
    from pathotune_pipeline.evaluation.study import run_study
    from pathotune_pipeline.models.card import card_writer

    settings = config.load(("crossval",), arguments.config, arguments.assignments, given(arguments))
    spec, study = CrossvalSpec.parse(settings["crossval"].model_dump()), study_of(arguments)
    finish = card_writer(study, licence=arguments.data_licence, adapter=arguments.adapter)
    return learn(arguments, spec, lambda told: run_study(study, spec, finish=finish, on_progress=told))


def learn(arguments: argparse.Namespace, spec: Any, work: Callable[[Any], Any]) -> int:
    """Train with a progress bar, and tell the scores of each target.

    Args:
        arguments: as `add_study` has them.
        spec: of the training.
        work: is given what to tell of each trained model; returns results by target, and notes.
    """
    from pathotune_pipeline.evaluation.crossval import CrossvalProgress

    bar = tqdm(desc=spec.head, unit="fit", disable=True if arguments.json else None, file=sys.stderr)

    def on_progress(progress: CrossvalProgress) -> None:
        bar.total = progress.total
        bar.update(progress.done - bar.n)

    with bar:
        results, notes = work(on_progress)
    tell_results(results, notes, arguments.out, as_json=arguments.json)
    return 0


def tell_results(
    results: Mapping[str, Any], notes: list[str], out: Path | None, *, as_json: bool, every: bool = False
) -> None:
    """Print the scores of each target.

    Args:
        results: a CrossvalResult for each target.
        notes: what a reader should know besides what the results say.
        out: the folder that was written, or None.
        as_json: as JSON.
        every: all scores, and not the first ones alone.
    """
    said = list(dict.fromkeys(note for result in results.values() for note in [*result.notes, *notes]))
    if len(results) == 1:
        (result,) = results.values()
        tell(result.scores, said, out, as_json=as_json, every=every, beside=beside(result))
    elif as_json:
        scores = {name: result.scores for name, result in results.items()}
        print(json.dumps({"targets": scores, "notes": said, "out": str(out)}))
    else:
        for name, result in results.items():
            print(name)
            tell(result.scores, [], out / name if out else None, as_json=False, every=every, beside=beside(result))
        for note in said:
            print(f"note: {note}")


def beside(result: Any) -> dict[str, Any]:
    """What is told beside the headline: scores of the last epoch's weights, and of an external test set."""
    found = {"last": result.scores_last, "external": result.external.get("scores", {})}
    return {name: scores for name, scores in found.items() if scores}


def tell(
    scores: dict[str, Any],
    notes: list[str],
    out: Path | None,
    *,
    as_json: bool,
    every: bool = False,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Print the scores; the first ones, or every one."""
    more = beside or {}
    if as_json:
        others = {f"scores_{name}": each for name, each in more.items()}
        print(json.dumps({"scores": scores, **others, "notes": notes, "out": str(out) if out else None}))
        return
    for name in scores if every else headlines(scores):
        print(f"{name:<18} {_value(scores[name])}")
    for where, each in more.items():
        name = headlines(each)[0]
        print(f"{name + ', ' + where:<18} {_value(each[name])}")
    for note in notes:
        print(f"note: {note}")
    if out:
        print(f"written to {out}")


def _value(score: Mapping[str, Any]) -> str:
    value = "undefined" if score["value"] is None else f"{score['value']:.3f}"
    return value if score["low"] is None else f"{value} [{score['low']:.3f}, {score['high']:.3f}]"


def headlines(scores: Mapping[str, Any]) -> list[str]:
    """The scores that are told first: two of classes, all of other kinds."""
    return ["auroc", "balanced_accuracy"] if "brier" in scores else list(scores)
