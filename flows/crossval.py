"""A cross-validation as a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.environment import refuse_remote
from flows.guarded import guarded_flow
from flows.notify import tell_of_failure
from flows.summaries import leave_summary
from pathotune_pipeline import config
from pathotune_pipeline.evaluation.crossval import CrossvalSpec
from pathotune_pipeline.evaluation.result import CrossvalResult
from pathotune_pipeline.evaluation.study import Study, run_study
from pathotune_pipeline.models.card import card_writer


@task(name="cross-validate", cache_policy=NO_CACHE, persist_result=False)
def crossval_task(study: Study, spec: CrossvalSpec) -> dict[str, Any]:
    """Cross-validate one head; its scores and notes."""
    return told_of(*run_study(study, spec, finish=card_writer(study)))


def told_of(results: Mapping[str, CrossvalResult], notes: Sequence[str]) -> dict[str, Any]:
    """Scores and notes in plain values; of several targets the scores by target."""
    said = [note for result in results.values() for note in result.notes]
    scores = {name: result.scores for name, result in results.items()}
    told = {"scores": next(iter(scores.values()))} if len(scores) == 1 else {"targets": scores}
    return {**told, "notes": list(dict.fromkeys([*said, *notes]))}


@guarded_flow(name="crossval", persist_result=False, on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def crossval_flow(  # noqa: PLR0913 - a flow's parameters are its form in Prefect's pages
    store: str,
    features: str,
    labels: str,
    target: str | list[str],
    out: str,
    overwrite: bool = False,  # noqa: FBT001, FBT002
    settings: dict[str, Any] | None = None,
    cache: str | None = None,
) -> dict[str, Any]:
    """Train a head and judge it by patient-grouped cross-validation.

    Args:
        store: the store's folder.
        features: name of a feature set, or the beginning of one.
        labels: the label table.
        target: its column with the class; or `COLUMN:KIND`, `TIME:KIND:EVENT`, or several of them.
        out: the model folder to write.
        overwrite: whether an older result there may be replaced.
        settings: sections and settings, as in `configs/default.yaml`.
        cache: folder of a training cache; without one all features are read into memory.

    Returns:
        Scores with intervals, and notes; of several targets the scores by target.
    """
    refuse_remote()
    spec = CrossvalSpec.parse(config.check(("crossval",), settings or {})["crossval"].model_dump())
    targets = (target,) if isinstance(target, str) else tuple(target)
    study = Study(store, features, Path(labels), targets, Path(out), overwrite, Path(cache) if cache else None)
    told = crossval_task(study, spec)
    tell_scores(told, f"{spec.head} on `{features}`", targets[0], key="crossval-summary")
    return told


def tell_scores(told: Mapping[str, Any], title: str, target: str, *, key: str) -> None:
    """Leave an artifact with the scores of each target.

    Args:
        told: of `crossval_task`, or of the train flow's.
        title: what was trained on what.
        target: name of the only target, where there is one.
        key: of the artifact.
    """
    lines: list[str] = []
    for name, scores in told.get("targets", {target: told.get("scores")}).items():
        lines += [f"# {title}, target `{name}`", ""]
        lines += ["| score | value | 95 % interval |", "|---|---|---|"]
        shown = ("auroc", "balanced_accuracy") if "brier" in scores else scores
        for score_name, score in ((each, scores[each]) for each in shown):
            if score["low"] is not None:
                lines.append(f"| {score_name} | {score['value']:.3f} | {score['low']:.3f} to {score['high']:.3f} |")
    leave_summary(key, "\n".join(lines), "Scores of slides that were held out")
