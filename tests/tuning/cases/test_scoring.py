"""Judges are at their optimum; scores are what counting by hand gives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from pathotune_pipeline.errors import PathotuneError
from pathotune_pipeline.evaluation.metrics.score import once
from pathotune_pipeline.tuning.cases.judges import ALL, Judges, fit_cox, fit_judges
from pathotune_pipeline.tuning.cases.scoring import answer, score_cases, stratified_concordance
from pathotune_pipeline.tuning.cases.spec import JudgeSpec
from pathotune_pipeline.tuning.cases.table import Case


def brute(times: np.ndarray, events: np.ndarray, risks: np.ndarray, strata: np.ndarray, counts: np.ndarray) -> float:
    """Every ordered pair looked at, as often as both count."""
    right = total = 0.0
    for i, j in product(range(len(times)), repeat=2):
        later = times[j] > times[i] or (times[j] == times[i] and not events[j])
        if strata[i] == strata[j] and i != j and events[i] and later:
            weight = counts[i] * counts[j]
            total += weight
            right += weight * (1.0 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0.0)
    return right / total


@pytest.mark.parametrize("seed", range(6))
def test_concordance_is_that_of_brute_force_with_ties_and_censoring(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, risks = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 40).astype(float)
    events, strata = rng.random(40) < 0.6, rng.choice(["a", "b"], 40)
    counts = np.stack([np.ones(40), rng.integers(0, 3, 40)])
    found = stratified_concordance(times, events, risks, strata, counts)
    assert found.tolist() == pytest.approx([brute(times, events, risks, strata, each) for each in counts], abs=1e-12)
    one = stratified_concordance(times, events, risks, np.zeros(40), once(40))
    assert one[0] == pytest.approx(brute(times, events, risks, np.zeros(40), np.ones(40)), abs=1e-12)


def test_without_a_comparable_pair_there_is_no_concordance() -> None:
    times, events = np.array([1.0, 2.0]), np.array([True, False])
    assert np.isnan(stratified_concordance(times, events, times, np.array(["a", "b"]), once(2)))[0]


def penalised(w: np.ndarray, x: np.ndarray, times: np.ndarray, events: np.ndarray, penalty: float) -> float:
    """What a Cox model minimises, written out."""
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    eta, loss = scaled @ w, 0.0
    for i in np.flatnonzero(events):
        loss += np.log(np.exp(eta[times >= times[i]]).sum()) - eta[i]
    return loss / len(times) + penalty / 2 * (w**2).sum()


def test_the_cox_model_is_the_optimum_of_its_penalised_likelihood() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, [1, 5, 0.2], (60, 3))
    times = np.ceil(rng.exponential(10, 60) * np.exp(-(x[:, 0] - 3)))
    events = rng.random(60) < 0.7
    model = fit_cox(x, times, events, penalty=0.1)
    scaled = model.weight * x.std(axis=0)
    best = penalised(scaled, x, times, events, 0.1)
    for axis in range(3):
        for step in (-1e-3, 1e-3):
            assert penalised(scaled + step * np.eye(3)[axis], x, times, events, 0.1) > best
    assert scaled[0] > 0.3 > abs(scaled[1])
    assert model.risks(x.mean(axis=0, keepdims=True))[0] == pytest.approx(0, abs=1e-9)
    assert np.abs(fit_cox(x, times, events, penalty=100.0).weight).max() < np.abs(model.weight).max()
    with pytest.raises(PathotuneError, match="not finite"):
        fit_cox(np.full((2, 1), np.nan), np.ones(2), np.ones(2, bool), penalty=0.1)


def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[Case]]:
    """Embeddings of two tasks, of which the first says survival and class in numbers 0 and 1, and cases of two cohorts."""
    x = rng.normal(size=(count, 2, 6))
    cases = []
    for place in range(count):
        months = float(rng.exponential(10) * np.exp(-1.5 * x[place, 0, 0]))
        label = "AB"[int(x[place, 0, 1] + 0.3 * rng.normal() > 0)]
        survival = None if place % 11 == 0 else (months, bool(rng.random() < 0.7))
        x[place, :, 2] += 3.0 * (place % 2)
        cases.append(Case(f"c{place:03d}", "xy"[place % 2], label=None if place % 7 == 0 else label, survival=survival))
    return x, cases


def test_scores_by_task_and_cohort_find_what_the_embedding_says() -> None:
    rng = np.random.default_rng(5)
    x, cases = drawn(rng, 260)
    judges = fit_judges(x[:140], ["one", "two"], cases[:140], JudgeSpec())
    assert set(judges.cox) == {(task, cohort) for task in ("one", "two") for cohort in "xy"}
    assert set(judges.classifiers) == {(task, cohort) for task in ("one", "two") for cohort in ("x", "y", ALL)}
    told = answer(judges, x[140:], ["one", "two"], cases[140:])
    scores = {(s.task, s.cohort, s.score): s for s in score_cases(told, ["one", "two"], cases[140:], draws=1000)}
    for cohort in ("x", "y", ALL):
        assert scores["one", cohort, "c_index"].value > 0.7 > scores["two", cohort, "c_index"].value
        assert scores["one", cohort, "balanced_accuracy"].value > 0.8 > scores["two", cohort, "balanced_accuracy"].value
    assert scores["one", ALL, "cohort"].value > 0.85
    pooled = scores["one", ALL, "c_index"]
    known = [(case, row[0].risk) for case, row in zip(cases[140:], told, strict=True) if case.survival]
    times, events = np.array([case.survival[0] for case, _ in known]), np.array([case.survival[1] for case, _ in known])
    cohorts = np.array([case.cohort for case, _ in known])
    risks = np.array([risk for _, risk in known])
    assert pooled.value == pytest.approx(brute(times, events, risks, cohorts, np.ones(len(known))), abs=1e-12)
    assert (pooled.cases, pooled.events) == (len(known), int(events.sum()))
    assert pooled.low < pooled.value < pooled.high
    again = Judges.of(judges.told(), judges.tensors())
    assert answer(again, x[140:], ["one", "two"], cases[140:]) == told


def test_what_cannot_be_fitted_or_scored_is_told() -> None:
    rng = np.random.default_rng(1)
    cases = [Case(f"c{n}", "x", label="A", survival=(1.0 + n, n == 0)) for n in range(8)]
    judges = fit_judges(rng.normal(size=(8, 1, 3)), ["one"], cases, JudgeSpec())
    assert not judges.cox
    assert not judges.classifiers
    assert judges.notes == (
        "x: 1 events among 8 training cases; no Cox model.",
        "x: all training cases are 'A'; no classifier.",
    )
    assert score_cases(answer(judges, rng.normal(size=(8, 1, 3)), ["one"], cases), ["one"], cases) == []
