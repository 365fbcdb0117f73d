"""Survival metrics against published numbers, against the hand, and against definitions written as loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.metrics import (
    brier_at,
    censoring_curve,
    censoring_of,
    concordance_index,
    concordance_index_ipcw,
    dynamic_auc,
    integrated_brier,
    kaplan_meier,
    log_rank,
)
from pathotune_pipeline.evaluation.metrics.concordance import (
    inverse_weights,
    weighted_concordance,
    weighted_dynamic_auc,
)
from pathotune_pipeline.evaluation.metrics.survival import Censoring, chi_squared_tail
from pathotune_pipeline.evaluation.metrics.survival_brier import weighted_integrated_brier

# Weeks of remission of 42 children, Freireich et al. 1963, as in every textbook of survival analysis.
MP6 = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
MP6_EVENTS = [True] * 9 + [False] * 12
HORIZONS = np.array([2.0, 4.0, 6.0, 8.0])


def drawn(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, events and risks with many ties of all kinds."""
    rng = np.random.default_rng(seed)
    times = rng.integers(1, 12, n).astype(float)
    risks = np.round(-times / 6 + rng.standard_normal(n), 1)
    return times, rng.random(n) < 0.6, risks


def censoring(times: np.ndarray) -> Censoring:
    train_times, train_events, _ = drawn(200, seed=9)
    return censoring_of(censoring_curve(train_times, train_events), times, HORIZONS)


def test_kaplan_meier_of_the_remission_data():
    curve = kaplan_meier(np.array(MP6), np.array(MP6_EVENTS))
    published = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    assert curve.at(np.array(list(published), float)) == pytest.approx(list(published.values()), abs=5e-4)
    assert curve.at(np.array([6.0, 0.0, 99.0]), before=True) == pytest.approx([1, 1, curve.survival[-1]])
    first = int(np.flatnonzero(curve.times == 6)[0])
    assert (curve.at_risk[first], curve.events[first]) == (21, 3)
    assert (curve.low[first], curve.high[first]) == pytest.approx((0.620, 0.952), abs=5e-4)
    assert curve.median() == 23
    assert kaplan_meier(np.array(PLACEBO), np.ones(21, bool)).median() == 8
    assert kaplan_meier(np.array([1.0]), np.array([False])).median() is None


def test_log_rank_of_the_remission_data():
    times, events = np.array([*MP6, *PLACEBO]), np.array(MP6_EVENTS + [True] * 21)
    found = log_rank(times, events, ["6-MP"] * 21 + ["placebo"] * 21)
    assert found.chi2 == pytest.approx(16.79, abs=5e-3)
    assert found.freedom == 1
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(found.chi2 / 2)))


def test_log_rank_of_three_groups_is_that_of_the_definition():
    times, events, _ = drawn(90)
    groups = np.arange(90) % 3
    excess, variance = np.zeros(3), np.zeros((3, 3))
    for t in np.unique(times[events]):
        at = np.array([((times >= t) & (groups == g)).sum() for g in range(3)], float)
        died = np.array([((times == t) & events & (groups == g)).sum() for g in range(3)], float)
        n, d = at.sum(), died.sum()
        excess += died - d * at / n
        if n > 1:
            variance += d * (n - d) / (n - 1) * (np.diag(at / n) - np.outer(at / n, at / n))
    expected = excess @ np.linalg.pinv(variance) @ excess
    assert log_rank(times, events, groups).chi2 == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "freedom", "tail"),
    [(3.841, 1, 0.05), (5.991, 2, 0.05), (7.815, 3, 0.05), (18.307, 10, 0.05), (11.345, 3, 0.01)],
)
def test_the_tail_of_chi_squared_is_that_of_the_tables(value, freedom, tail):
    assert chi_squared_tail(value, freedom) == pytest.approx(tail, rel=1e-3)


def test_censoring_lets_events_go_first():
    # At 2 one dies and one is censored: of the two left for censoring after the death, one goes.
    curve = censoring_curve(np.array([1.0, 2, 2, 3]), np.array([True, True, False, True]))
    assert curve.at(np.array([1.0, 2, 3])) == pytest.approx([1, 0.5, 0.5])
    assert curve.at(np.array([2.0]), before=True) == pytest.approx([1])


def looped_concordance(times, events, risks, pair_weights) -> float:
    wins = total = 0.0
    for i in np.flatnonzero(events):
        for j in range(len(times)):
            if times[j] > times[i] or (times[j] == times[i] and not events[j]):
                total += pair_weights[i]
                wins += pair_weights[i] * (1.0 if risks[j] < risks[i] else 0.5 if risks[j] == risks[i] else 0.0)
    return wins / total


@pytest.mark.parametrize("seed", range(5))
def test_concordance_is_that_of_the_definition(seed):
    times, events, risks = drawn(seed=seed)
    assert concordance_index(times, events, risks).value == pytest.approx(
        looped_concordance(times, events, risks, np.ones(60))
    )
    left = censoring(times)
    found = concordance_index_ipcw(times, events, risks, censoring=left)
    assert found.value == pytest.approx(looped_concordance(times, events, risks, 1 / left.own**2))


def test_concordance_by_hand():
    times, events = np.array([1.0, 2, 3, 4]), np.array([True, False, True, True])
    # pairs led by 1: three; by 3: one
    assert concordance_index(times, events, np.array([9.0, 1, 5, 2])).value == 1
    assert concordance_index(times, events, np.array([9.0, 1, 5, 5])).value == 3.5 / 4
    assert concordance_index(times, events, np.array([0.0, 1, 2, 3])).value == 0  # not turned round
    assert concordance_index(times, events & False, times).reason == "no comparable pair of slides"
    assert concordance_index(np.zeros(0), np.zeros(0, bool), np.zeros(0)).value is None
    both = concordance_index(np.array([1.0, 1]), np.array([True, True]), np.array([1.0, 2]))
    assert both.value is None  # two events at one time
    one = concordance_index(np.array([1.0, 1]), np.array([True, False]), np.array([2.0, 1]))
    assert one.value == 1  # censored at the time of the event: it outlived it


def test_concordance_of_many_slides_is_quick_and_right():
    rng = np.random.default_rng(0)
    times, risks = rng.random(100_000), rng.random(100_000)
    assert concordance_index(times, np.ones(100_000, bool), -times).value == 1
    assert concordance_index(times, rng.random(100_000) < 0.3, risks).value == pytest.approx(0.5, abs=0.01)


def test_events_beyond_the_training_parts_follow_up_count_nothing():
    curve = censoring_curve(np.array([1.0, 2]), np.array([True, False]))  # G is 0 from 2 on
    left = censoring_of(curve, np.array([1.0, 3, 4]), HORIZONS)
    assert inverse_weights(left).tolist() == [1, 0, 0]
    found = concordance_index_ipcw(np.array([1.0, 3, 4]), np.ones(3, bool), np.array([3.0, 1, 2]), censoring=left)
    assert found.value == 1


@pytest.mark.parametrize("by_horizon", [False, True])
def test_dynamic_auc_is_that_of_the_definition(by_horizon):
    times, events, risks = drawn()
    given = np.round(risks[:, None] + np.random.default_rng(5).standard_normal((60, 4)), 1) if by_horizon else risks
    left = censoring(times)
    mean, each = dynamic_auc(times, events, given, censoring=left, horizons=HORIZONS)
    expected = []
    for k, t in enumerate(HORIZONS):
        risk = given[:, k] if by_horizon else given
        wins = total = 0.0
        for i in np.flatnonzero(events & (times <= t)):
            for j in np.flatnonzero(times > t):
                total += 1 / left.own[i]
                wins += (1.0 if risk[j] < risk[i] else 0.5 if risk[j] == risk[i] else 0.0) / left.own[i]
        expected.append(wins / total)
    assert [score.value for score in each] == pytest.approx(expected)
    survival = kaplan_meier(times, events).at(HORIZONS)
    falls = np.concatenate([[1 - survival[0]], survival[:-1] - survival[1:]])
    assert mean.value == pytest.approx((falls * expected).sum() / falls.sum())


def test_a_horizon_before_every_event_has_no_auc():
    times, events, risks = drawn()
    left = censoring(times)
    early = np.array([0.5, 4.0])
    mean, each = dynamic_auc(times, events, risks, censoring=left, horizons=early)
    assert each[0].value is None
    assert "no event by 0.5" in each[0].reason
    assert mean.value == pytest.approx(each[1].value)


def test_the_brier_score_is_that_of_the_definition():
    times, events, _ = drawn()
    survival = np.sort(np.random.default_rng(2).random((60, 4)), axis=1)[:, ::-1]
    left = censoring(times)
    expected = []
    for k, t in enumerate(HORIZONS):
        total = 0.0
        for i in range(60):
            if times[i] <= t and events[i]:
                total += survival[i, k] ** 2 / left.own[i]
            elif times[i] > t:
                total += (1 - survival[i, k]) ** 2 / left.at[i, k]
        expected.append(total / 60)
    assert brier_at(times, events, survival, censoring=left, horizons=HORIZONS) == pytest.approx(expected)
    area = sum(2 * (a + b) / 2 for a, b in itertools.pairwise(expected)) / 6
    assert integrated_brier(times, events, survival, censoring=left, horizons=HORIZONS).value == pytest.approx(area)


def test_a_perfect_and_an_ignorant_model_have_the_brier_scores_they_should():
    times, events = np.arange(1.0, 11), np.ones(10, bool)
    at = np.array([2.5, 5.5, 8.5])
    left = censoring_of(censoring_curve(times, events), times, at)
    perfect = (times[:, None] > at).astype(float)
    assert integrated_brier(times, events, perfect, censoring=left, horizons=at).value == 0
    half = np.full((10, 3), 0.5)
    assert integrated_brier(times, events, half, censoring=left, horizons=at).value == pytest.approx(0.25)
    one = integrated_brier(times, events, half[:, :1], censoring=Censoring(left.own, left.at[:, :1]), horizons=at[:1])
    assert "fewer than two horizons" in one.reason


def test_weights_count_as_repeated_slides():
    times, events, risks = drawn()
    counts = np.random.default_rng(1).integers(0, 4, (4, 60))
    weights, rows = counts.astype(float), [np.repeat(np.arange(60), each) for each in counts]
    expected = [concordance_index(times[r], events[r], risks[r]).value for r in rows]
    assert weighted_concordance(times, events, risks, weights, pair_weights=np.ones(60)) == pytest.approx(expected)
    left = censoring(times)
    again = [Censoring(left.own[r], left.at[r]) for r in rows]
    survival = np.sort(np.random.default_rng(2).random((60, 4)), axis=1)[:, ::-1]
    integrals = [
        integrated_brier(times[r], events[r], survival[r], censoring=each, horizons=HORIZONS).value
        for r, each in zip(rows, again, strict=True)
    ]
    found = weighted_integrated_brier(times, events, survival, weights, censoring=left, horizons=HORIZONS)
    assert found == pytest.approx(integrals)
    areas = weighted_dynamic_auc(times, events, risks, weights, censoring=left, horizons=HORIZONS)
    for column, (r, each) in enumerate(zip(rows, again, strict=True)):
        _, scores = dynamic_auc(times[r], events[r], risks[r], censoring=each, horizons=HORIZONS)
        assert areas[:, column] == pytest.approx([score.value for score in scores])


def test_what_makes_no_sense_is_refused():
    times, events = np.array([1.0, 2]), np.array([True, True])
    with pytest.raises(UsageError, match="no slides"):
        kaplan_meier(np.zeros(0), np.zeros(0, bool))
    with pytest.raises(UsageError, match="times are 0 or more"):
        kaplan_meier(-times, events)
    with pytest.raises(UsageError, match="not finite"):
        concordance_index(times, events, np.array([1.0, np.nan]))
    with pytest.raises(UsageError, match="two are needed"):
        log_rank(times, events, ["a", "a"])
    with pytest.raises(UsageError, match="no event while all groups"):
        log_rank(np.array([1.0, 2, 3]), np.array([False, True, True]), ["a", "b", "b"])
    with pytest.raises(UsageError, match="one column for each"):
        brier_at(times, events, np.ones((2, 1)), censoring=censoring(times), horizons=HORIZONS)
