"""A cross-validation as a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

import flows.environment  # noqa: F401 - before Prefect
from pathotune_pipeline import config
from pathotune_pipeline.evaluation.crossval import CrossvalSpec
from pathotune_pipeline.evaluation.study import Study, run_study
from pathotune_pipeline.models.card import card_writer


@task(name="cross-validate", cache_policy=NO_CACHE, persist_result=False)
def crossval_task(study: Study, spec: CrossvalSpec) -> dict[str, Any]:
    """Cross-validate one head; its scores and notes."""
    results, notes = run_study(study, spec, finish=card_writer(study))
    said = [note for result in results.values() for note in result.notes]
    scores = {name: result.scores for name, result in results.items()}
    told = {"scores": next(iter(scores.values()))} if len(scores) == 1 else {"targets": scores}
    return {**told, "notes": list(dict.fromkeys([*said, *notes]))}


@flow(name="crossval", persist_result=False)
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
    spec = CrossvalSpec.parse(config.check(("crossval",), settings or {})["crossval"].model_dump())
    targets = (target,) if isinstance(target, str) else tuple(target)
    study = Study(store, features, Path(labels), targets, Path(out), overwrite, Path(cache) if cache else None)
    told = crossval_task(study, spec)
    lines: list[str] = []
    for name, scores in told.get("targets", {targets[0]: told.get("scores")}).items():
        lines += [f"# {spec.head} on `{features}`, target `{name}`", ""]
        lines += ["| score | value | 95 % interval |", "|---|---|---|"]
        shown = ("auroc", "balanced_accuracy") if "brier" in scores else scores
        for score_name, score in ((each, scores[each]) for each in shown):
            if score["low"] is not None:
                lines.append(f"| {score_name} | {score['value']:.3f} | {score['low']:.3f} to {score['high']:.3f} |")
    create_markdown_artifact(key="crossval-summary", markdown="\n".join(lines), description="Out-of-fold scores")
    return told
