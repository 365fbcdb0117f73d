"""A trained model's answers to slides it did not learn from, and what its validation part settles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.bags.targets import SURVIVAL, read_survival
from pathotune_pipeline.evaluation.cohort import Cohort
from pathotune_pipeline.evaluation.metrics.calibration import fit_temperature
from pathotune_pipeline.evaluation.metrics.survival import censoring_curve, censoring_of
from pathotune_pipeline.evaluation.pooling import FoldRun, PredictionRow, mean_by_patient
from pathotune_pipeline.evaluation.result import CrossvalResult, SplitRow
from pathotune_pipeline.evaluation.scoring import CLASSES
from pathotune_pipeline.evaluation.threshold import youden_threshold
from pathotune_pipeline.heads.learner import TrainedHead
from pathotune_pipeline.heads.task import value_of
from pathotune_pipeline.heads.train import predict


def judge_model(
    results: Mapping[str, CrossvalResult], trained: TrainedHead, cohort: Cohort, *, seed: int, fold: Fold
) -> None:
    """Add to the results what a model says of its test part and of the external bags, and where each slide was.

    Both the weights with the lowest validation loss and those of the last epoch are judged, each with a temperature
    and a threshold of its own from the validation part. The test part and the external bags choose nothing.

    Args:
        results: of each target by its name; all hold the same attention.
        trained: the model.
        cohort: all bags.
        seed: of the run.
        fold: of the model.
    """
    train, val, test = cohort.parts(fold)
    at = (seed, fold.index)
    epochs = len(trained.history)
    said, on_val = predict(trained, test), _by_target(trained, predict(trained, val).probs, results)
    tested = _by_target(trained, said.probs, results)
    last = trained.last
    last_tested = _by_target(last, predict(last, test).probs, results) if last else tested
    last_on_val = _by_target(last, predict(last, val).probs, results) if last else on_val
    abroad = _by_target(trained, predict(trained, cohort.external).probs, results) if cohort.external else {}
    for name, result in results.items():
        run = _settled(FoldRun(*at, trained.best_epoch, epochs), result, name, val, on_val[name])
        final = replace(run, best_epoch=epochs - 1)
        result.runs.append(run)
        result.runs_last.append(_settled(final, result, name, val, last_on_val[name]) if last else final)
        result.predictions.extend(_rows(name, test, tested[name], at=at))
        result.predictions_last.extend(_rows(name, test, last_tested[name], at=at))
        if cohort.external:
            result.predictions_external.extend(_rows(name, cohort.external, abroad[name], at=at))
        if result.kind in SURVIVAL:
            _keep_censoring(result, name, train, [*test, *cohort.external], at=at)
        for part, ids in fold.parts().items():
            result.splits.extend(SplitRow(*at, part, each) for each in ids)
        result.models[at] = trained
    shared = next(iter(results.values())).attention
    for weights, bag in zip(said.attention or (), test, strict=said.attention is not None):
        shared[bag.bag_id] = shared.get(bag.bag_id, 0.0) + weights.astype(np.float64)


def _by_target(model: TrainedHead, probs: np.ndarray, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return model.task.split(probs) if model.task else dict.fromkeys(results, probs)


def _known(name: str, bags: Sequence[Bag]) -> list[int]:
    return [place for place, bag in enumerate(bags) if value_of(bag, name) is not None]


def _rows(name: str, bags: Sequence[Bag], values: np.ndarray, *, at: tuple[int, int]) -> list[PredictionRow]:
    return [
        PredictionRow(bags[i].bag_id, bags[i].group, str(value_of(bags[i], name)), *at, tuple(values[i].tolist()))
        for i in _known(name, bags)
    ]


def _settled(run: FoldRun, result: CrossvalResult, name: str, val: Sequence[Bag], probs: np.ndarray) -> FoldRun:
    """The run with the temperature and the threshold that its validation part asks for."""
    places = _known(name, val)
    if result.kind not in CLASSES or not places:
        return run
    labels, values = [str(value_of(val[i], name)) for i in places], probs[places]
    if result.by_patient:
        labels, values = mean_by_patient([val[i].group for i in places], labels, values)
    truth = np.array([result.classes.index(label) for label in labels])
    threshold = youden_threshold(truth == 1, values[:, 1]) if result.kind == "binary" else None
    return replace(run, temperature=fit_temperature(truth, values), threshold=threshold)


def _keep_censoring(
    result: CrossvalResult, name: str, train: Sequence[Bag], judged: Sequence[Bag], *, at: tuple[int, int]
) -> None:
    pairs = np.array([read_survival(str(value_of(train[i], name))) for i in _known(name, train)], np.float64)
    curve = censoring_curve(pairs[:, 0], pairs[:, 1] > 0)
    for i in _known(name, judged):
        time, _ = read_survival(str(value_of(judged[i], name)))
        left = censoring_of(curve, np.array([time]), np.array(result.horizons))
        result.censoring[(*at, judged[i].bag_id)] = np.concatenate([left.own, left.at[0]])
