"""A model for use as a flow. Training is an explicit act: no night does it by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.crossval import tell_scores, told_of
from flows.environment import refuse_remote
from flows.guarded import guarded_flow
from flows.notify import tell_of_failure
from pathotune_pipeline import config
from pathotune_pipeline.evaluation.study import Study
from pathotune_pipeline.models.card import NOT_STATED
from pathotune_pipeline.models.train import ModelSpec, train_model


@task(name="train", cache_policy=NO_CACHE, persist_result=False)
def train_task(study: Study, spec: ModelSpec, licence: str) -> dict[str, Any]:
    """Train a model and write its folder; its scores and notes."""
    return told_of(*train_model(study, spec, licence=licence))


@guarded_flow(name="train", persist_result=False, on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def train_flow(  # noqa: PLR0913 - a flow's parameters are its form in Prefect's pages
    store: str,
    features: str,
    labels: str,
    target: str | list[str],
    out: str,
    overwrite: bool = False,  # noqa: FBT001, FBT002
    settings: dict[str, Any] | None = None,
    cache: str | None = None,
    data_licence: str = NOT_STATED,
) -> dict[str, Any]:
    """Train a model for use: a folder with weights, a card and held-out scores.

    Args:
        store: the store's folder.
        features: name of a feature set, or the beginning of one.
        labels: the label table.
        target: its column with the class; or `COLUMN:KIND`, `TIME:KIND:EVENT`, or several of them.
        out: the model folder to write.
        overwrite: whether an older model there may be replaced.
        settings: sections and settings, as in `configs/default.yaml`.
        cache: folder of a training cache; without one all features are read into memory.
        data_licence: licence of the data, for the card.

    Returns:
        Scores with intervals, and notes; of several targets the scores by target.
    """
    refuse_remote()
    spec = ModelSpec.parse(config.check(("model",), settings or {})["model"].model_dump())
    targets = (target,) if isinstance(target, str) else tuple(target)
    study = Study(store, features, Path(labels), targets, Path(out), overwrite, Path(cache) if cache else None)
    told = train_task(study, spec, data_licence)
    tell_scores(told, f"{spec.head} on `{features}`", targets[0], key="train-summary")
    return told
