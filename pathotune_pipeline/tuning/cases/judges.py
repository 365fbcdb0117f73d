"""Classifiers and Cox models on frozen embeddings, one for each task and cohort; solved to their optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.engine.convex import minimise
from pathotune_pipeline.errors import CorruptDataError, PathotuneError
from pathotune_pipeline.heads.losses import cox_loss
from pathotune_pipeline.tuning.cases.spec import JudgeSpec
from pathotune_pipeline.tuning.cases.table import Case
from pathotune_pipeline.tuning.run.probe import Labelled, LinearProbe, fit_linear

_GRADIENT = 1e-7
_LEAST_STD = 1e-6
_LEAST_EVENTS = 2
ALL = "overall"
"""What stands for all cohorts together."""


@dataclass(frozen=True, slots=True, eq=False)
class CoxModel:
    """A proportional-hazards model.

    Attributes:
        weight: float64 [D], on embeddings as they are; log hazard ratio, up to a constant.
        mean: float64 [D], of the training cases: risk is 0 there.
    """

    weight: np.ndarray
    mean: np.ndarray

    def risks(self, embeddings: np.ndarray) -> np.ndarray:
        """Log relative hazards, float64 [n]; higher is worse."""
        return np.asarray((embeddings.astype(np.float64) - self.mean) @ self.weight)


def fit_cox(embeddings: np.ndarray, times: np.ndarray, events: np.ndarray, *, penalty: float) -> CoxModel:
    """The Cox model of least negative log partial likelihood / N + penalty / 2 x (sum of squared weights).

    Ties are Breslow's. Embeddings have mean 0 and deviation 1, measured here, while it is solved (L-BFGS, float64); the
    scale is then folded into the weights.

    Args:
        embeddings: float [N, D].
        times: [N] float.
        events: [N] bool, at least one.
        penalty: above 0.

    Raises:
        PathotuneError: the embeddings are not finite.
    """
    if not np.isfinite(embeddings).all():
        raise PathotuneError("The embeddings are not finite. Lower --lr, and look for non-finite inputs.")
    values = embeddings.astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std > _LEAST_STD, std, np.inf)
    x = torch.from_numpy((values - mean) / std)
    t, seen = torch.from_numpy(np.asarray(times, np.float64)), torch.from_numpy(np.asarray(events, bool))
    share = float(seen.sum()) / max(len(seen), 1)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return share * cox_loss(x @ weights, t, seen) + 0.5 * penalty * weights.square().sum()

    found = minimise(loss, torch.zeros(x.shape[1], dtype=torch.float64), gradient=_GRADIENT)
    return CoxModel(found.numpy() / std, mean)


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A logistic regression.

    Attributes:
        classes: in the order of the probabilities.
        probe: its weights.
    """

    classes: tuple[str, ...]
    probe: LinearProbe

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """float64 [n, C]."""
        return self.probe.probabilities(embeddings)


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """What is fitted on the embeddings of training cases.

    Attributes:
        cox: (task, cohort) -> model.
        classifiers: (task, cohort) -> classifier of the cohort's classes; under ALL that of the cohorts themselves.
        notes: what could not be fitted.
    """

    cox: Mapping[tuple[str, str], CoxModel]
    classifiers: Mapping[tuple[str, str], Classifier]
    notes: tuple[str, ...] = ()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All numbers by name, for a file; with `told` they make it again."""
        named = {f"cox/{i}/weight": each.weight for i, each in enumerate(self.cox.values())}
        named |= {f"cox/{i}/mean": each.mean for i, each in enumerate(self.cox.values())}
        named |= {f"class/{i}/weight": each.probe.weight for i, each in enumerate(self.classifiers.values())}
        named |= {f"class/{i}/bias": each.probe.bias for i, each in enumerate(self.classifiers.values())}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in named.items()}

    def told(self) -> dict[str, Any]:
        """Which of them is whose, in plain values."""
        classes = [
            {"task": task, "cohort": cohort, "classes": list(each.classes), "l2": each.probe.l2}
            for (task, cohort), each in self.classifiers.items()
        ]
        return {"cox": [{"task": task, "cohort": cohort} for task, cohort in self.cox], "classifiers": classes}

    @classmethod
    def of(cls, told: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Judges:
        """What `told` and `tensors` gave.

        Raises:
            CorruptDataError: they do not belong together.
        """
        try:
            cox = {
                (each["task"], each["cohort"]): CoxModel(
                    tensors[f"cox/{i}/weight"].numpy(), tensors[f"cox/{i}/mean"].numpy()
                )
                for i, each in enumerate(told["cox"])
            }
            classifiers = {}
            for i, each in enumerate(told["classifiers"]):
                weight, bias = tensors[f"class/{i}/weight"].numpy(), tensors[f"class/{i}/bias"].numpy()
                probe = LinearProbe(weight, bias, float(each["l2"]))
                classifiers[each["task"], each["cohort"]] = Classifier(tuple(each["classes"]), probe)
        except (KeyError, TypeError) as error:
            raise CorruptDataError(
                f"The classifiers cannot be read ({error!r}). Train or copy the folder again."
            ) from None
        return cls(cox, classifiers)


def fit_judges(embeddings: np.ndarray, tasks: Sequence[str], cases: Sequence[Case], spec: JudgeSpec) -> Judges:
    """Fit what the training cases allow.

    Args:
        embeddings: float [N, T, D], of the training cases alone.
        tasks: T names.
        cases: N.
        spec: penalties.

    Raises:
        PathotuneError: embeddings are not finite.
    """
    cox: dict[tuple[str, str], CoxModel] = {}
    classifiers: dict[tuple[str, str], Classifier] = {}
    notes: list[str] = []
    cohorts = sorted({case.cohort for case in cases})
    for cohort in cohorts:
        own = [place for place, case in enumerate(cases) if case.cohort == cohort]
        timed = [place for place in own if cases[place].survival is not None]
        survival = [cases[place].survival for place in timed]
        times, events = (
            np.array([each[0] for each in survival if each]),
            np.array([each[1] for each in survival if each], bool),
        )
        named = [place for place in own if cases[place].label is not None]
        classes = tuple(sorted({str(cases[place].label) for place in named}))
        if timed and events.sum() < _LEAST_EVENTS:
            notes.append(f"{cohort}: {int(events.sum())} events among {len(timed)} training cases; no Cox model.")
        if len(classes) == 1:
            notes.append(f"{cohort}: all training cases are {classes[0]!r}; no classifier.")
        for at, task in enumerate(tasks):
            if len(timed) and events.sum() >= _LEAST_EVENTS:
                cox[task, cohort] = fit_cox(embeddings[timed, at], times, events, penalty=spec.cox_penalty)
            if len(classes) > 1:
                labels = [str(cases[place].label) for place in named]
                classifiers[task, cohort] = _classifier(embeddings[named, at], labels, spec)
    if len(cohorts) > 1:
        for at, task in enumerate(tasks):
            classifiers[task, ALL] = _classifier(embeddings[:, at], [case.cohort for case in cases], spec)
    return Judges(cox, classifiers, tuple(notes))


def _classifier(embeddings: np.ndarray, labels: Sequence[str], spec: JudgeSpec) -> Classifier:
    classes = tuple(sorted(set(labels)))
    index = np.array([classes.index(label) for label in labels], np.int64)
    train = Labelled(embeddings, index)
    found = fit_linear(train, None, classes=len(classes), penalties=(spec.l2,), select="loss", balanced=True)
    # In one order in memory, as a file gives it back: products are then the same bits.
    return Classifier(classes, LinearProbe(np.ascontiguousarray(found.weight), found.bias, found.l2))
