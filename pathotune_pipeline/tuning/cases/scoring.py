"""How well judges do on cases they have not seen: balanced accuracy and C-index by task, cohort and overall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from pathotune_pipeline.evaluation.intervals import bootstrap_scores
from pathotune_pipeline.evaluation.metrics.classification import weighted_share
from pathotune_pipeline.evaluation.metrics.concordance import weighted_pairs
from pathotune_pipeline.evaluation.metrics.score import once, ratio, score_of
from pathotune_pipeline.tuning.cases.judges import ALL, Judges
from pathotune_pipeline.tuning.cases.table import Case

COHORT = "cohort"
"""The name of the score that asks which cohort a case is of."""


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One score.

    Attributes:
        task: whose embedding.
        cohort: or "overall": then pairs within a cohort alone are compared, and recalls are averaged over all classes of
            all cohorts.
        score: "balanced_accuracy", "c_index", or "cohort" (the balanced accuracy of telling cohorts apart).
        value: None where it is not defined.
        low: of the 95 % interval from resampled cases.
        high: of it.
        cases: that were judged.
        events: of them, for survival; else None.
        reason: why it is not defined, or "".
    """

    task: str
    cohort: str
    score: str
    value: float | None
    low: float | None
    high: float | None
    cases: int
    events: int | None = None
    reason: str = ""

    def told(self) -> dict[str, Any]:
        """In plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CaseAnswers:
    """What the judges say of one case and task; None where none of them can.

    Attributes:
        risk: log relative hazard within its cohort.
        probabilities: class -> probability, within its cohort.
        cohort: cohort -> probability.
    """

    risk: float | None
    probabilities: Mapping[str, float] | None
    cohort: Mapping[str, float] | None


def answer(
    judges: Judges, embeddings: np.ndarray, tasks: Sequence[str], cases: Sequence[Case]
) -> list[list[CaseAnswers]]:
    """What each case's judges say, [N][T].

    Args:
        judges: fitted.
        embeddings: float [N, T, D].
        tasks: T names.
        cases: N.
    """
    found: list[list[CaseAnswers]] = []
    for place, case in enumerate(cases):
        row = []
        for at, task in enumerate(tasks):
            vector = embeddings[place : place + 1, at]
            cox = judges.cox.get((task, case.cohort))
            of_class, of_cohort = (_named(judges, (task, who), vector) for who in (case.cohort, ALL))
            row.append(CaseAnswers(None if cox is None else float(cox.risks(vector)[0]), of_class, of_cohort))
        found.append(row)
    return found


def score_cases(
    answers: Sequence[Sequence[CaseAnswers]],
    tasks: Sequence[str],
    cases: Sequence[Case],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[CaseScore]:
    """Scores by task, cohort and overall, with intervals from resampled cases.

    Args:
        answers: [N][T].
        tasks: T names.
        cases: N, none of which any judge has learnt from.
        draws: resamplings.
        seed: of them.
    """
    found: list[CaseScore] = []
    cohorts = sorted({case.cohort for case in cases})
    for at, task in enumerate(tasks):
        own = [row[at] for row in answers]
        for cohort in [*cohorts, *([ALL] if len(cohorts) > 1 else [])]:
            here = [p for p, case in enumerate(cases) if cohort in (case.cohort, ALL)]
            told = [(cases[p], own[p]) for p in here]
            for score in (_survival(told), _classes(told), _cohorts(told) if cohort == ALL else None):
                if score is not None:
                    found.append(_scored(score, task, cohort, draws=draws, seed=seed))
    return found


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str
    weighted: Callable[[np.ndarray], np.ndarray]
    ids: Sequence[str]
    strata: Sequence[str]
    reason: str
    events: int | None = None


def _scored(asked: _Asked, task: str, cohort: str, *, draws: int, seed: int) -> CaseScore:
    value = score_of(asked.weighted(once(len(asked.ids))), asked.reason)
    interval = None
    if value.value is not None:
        scores = {asked.name: asked.weighted}
        interval = bootstrap_scores(scores, groups=asked.ids, strata=asked.strata, draws=draws, seed=seed)[asked.name]
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return CaseScore(task, cohort, asked.name, value.value, low, high, len(asked.ids), asked.events, value.reason)


def _survival(told: Sequence[tuple[Case, CaseAnswers]]) -> _Asked | None:
    known = [
        (case, case.survival, each.risk) for case, each in told if case.survival is not None and each.risk is not None
    ]
    if not known:
        return None
    times = np.array([survival[0] for _, survival, _ in known])
    events = np.array([survival[1] for _, survival, _ in known], bool)
    risks = np.array([risk for _, _, risk in known])
    cohorts = np.array([case.cohort for case, _, _ in known])
    return _Asked(
        "c_index",
        partial(stratified_concordance, times, events, risks, cohorts),
        [case.case_id for case, _, _ in known],
        [f"{case.cohort}|{event}" for (case, _, _), event in zip(known, events, strict=True)],
        "no comparable pair of cases",
        int(events.sum()),
    )


def stratified_concordance(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, strata: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Harrell's C over pairs of one stratum alone, for many weightings at once, [R] float64; NaN without such a pair.

    Risks of two Cox models are on no common scale, so cases of two cohorts are never compared.

    Args:
        times: [N] float.
        events: [N] bool.
        risks: [N] float; higher is worse.
        strata: [N], of any kind.
        weights: [R, N] float: how often each case counts.
    """
    right, total = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in np.unique(strata):
        own = strata == stratum
        each = weighted_pairs(
            times[own], events[own], risks[own], weights[:, own], pair_weights=np.ones(int(own.sum()))
        )
        right, total = right + each[0], total + each[1]
    return ratio(right, total)


def _classes(told: Sequence[tuple[Case, CaseAnswers]]) -> _Asked | None:
    known = [(case, case.label, each.probabilities) for case, each in told if each.probabilities is not None]
    known = [each for each in known if each[1] is not None]
    truth = [f"{case.cohort}|{label}" for case, label, _ in known]
    said = [f"{case.cohort}|{most_probable(probs)}" for case, _, probs in known]
    return _accuracy("balanced_accuracy", [case.case_id for case, _, _ in known], truth, said)


def _cohorts(told: Sequence[tuple[Case, CaseAnswers]]) -> _Asked | None:
    known = [(case, each.cohort) for case, each in told if each.cohort is not None and case.cohort in each.cohort]
    truth = [case.cohort for case, _ in known]
    return _accuracy(COHORT, [case.case_id for case, _ in known], truth, [most_probable(each) for _, each in known])


def _accuracy(name: str, ids: Sequence[str], truth: Sequence[str], said: Sequence[str]) -> _Asked | None:
    if not ids:
        return None
    of, right = np.array(truth), np.array(truth) == np.array(said)
    return _Asked(name, partial(_mean_recall, of, right), ids, truth, "a class without a case")


def _mean_recall(truth: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean share of each class that occurs that is right, [R] float64."""
    recalls = [weighted_share(right, truth == each, weights) for each in np.unique(truth)]
    return np.asarray(np.mean(recalls, axis=0))


def most_probable(probabilities: Mapping[str, float] | None) -> str:
    """The name with the highest probability, the first of equals; "" where there are none."""
    known = probabilities or {"": 0.0}
    return max(known, key=lambda name: known[name])


def _named(judges: Judges, key: tuple[str, str], vector: np.ndarray) -> dict[str, float] | None:
    classifier = judges.classifiers.get(key)
    if classifier is None:
        return None
    return dict(zip(classifier.classes, classifier.probabilities(vector)[0].tolist(), strict=True))
