"""Whether one model is better than another on the same slides: paired by patient, several questions corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pathotune_pipeline.bags.targets import SURVIVAL
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.intervals import LEAST_DRAWS, Weighted, patient_draws, percentile_interval
from pathotune_pipeline.evaluation.metrics.survival import Censoring
from pathotune_pipeline.evaluation.ranking import mid_ranks
from pathotune_pipeline.evaluation.result import CrossvalResult, PredictionRow
from pathotune_pipeline.evaluation.scoring import RANKED, Sample, scorers
from pathotune_pipeline.registry import nearest

_BLOCK = 4_000_000
"""Weights held at once."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same slides.

    Attributes:
        value_a: score of the first.
        value_b: score of the second.
        difference: value_a - value_b.
        low: lower bound of the difference, from resampled patients.
        high: upper bound.
        level: share of the draws between them.
        p_value: two-sided, of a permutation test; never 0.
        patients: how many.
    """

    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    patients: int


def compare_paired(
    score: Weighted,
    *,
    groups: Sequence[str],
    strata: Sequence[object] | np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare two models that judged the same N slides.

    The interval comes from a bootstrap in which both models get the same patients. The test exchanges the two models'
    predictions for all slides of a patient at once, patient by patient with probability one half, which changes
    nothing where neither is better; p = (1 + draws at least as far apart) / (1 + draws). A score of ranks asks for
    predictions on one scale, such as each model's own ranks.

    Args:
        score: of weights [R, 2N] over the first model's slides and then, in the same order, the second's.
        groups: the patient of each of the N slides.
        strata: as for `bootstrap_scores`.
        draws: of the bootstrap, and of the permutations; at least 1000.
        seed: of both.
        level: of the interval.

    Raises:
        UsageError: too few draws, no slides, or the score of a model is not defined.
    """
    if draws < LEAST_DRAWS:
        raise UsageError(f"comparison: {draws} draws were asked for; at least {LEAST_DRAWS} are needed.")
    count = len(groups)
    first, second = np.ones((1, count)), np.zeros((1, count))
    value_a, value_b = (float(score(np.hstack(each))[0]) for each in ((first, second), (second, first)))
    if not np.isfinite([value_a, value_b]).all():
        raise UsageError("comparison: the score of a model is not defined on these slides.")
    drawn = []
    for weights in patient_draws(groups, strata=strata, draws=draws, seed=seed):
        drawn.append(_difference(score, weights, np.zeros_like(weights)))
    interval = percentile_interval(np.concatenate(drawn), level=level)
    if interval is None:
        raise UsageError("comparison: the score is not defined in most draws of the patients. Add slides.")
    patients, owner = np.unique(np.asarray(groups), return_inverse=True)
    apart = abs(value_a - value_b)
    rng = np.random.default_rng([seed, 0x9E])
    farther, done = 0, 0
    step = max(1, _BLOCK // (2 * count))
    while done < draws:
        rows = min(step, draws - done)
        kept = rng.integers(0, 2, (rows, len(patients))).astype(np.float64)[:, owner]
        # Rounding must not part what is equal by symmetry.
        farther += int((np.abs(_difference(score, kept, 1 - kept)) >= apart - 1e-12).sum())
        done += rows
    return Comparison(
        value_a=value_a,
        value_b=value_b,
        difference=value_a - value_b,
        low=interval.low,
        high=interval.high,
        level=level,
        p_value=(1 + farther) / (1 + draws),
        patients=len(patients),
    )


def compare_results(
    a: CrossvalResult, b: CrossvalResult, score: str = "", *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Compare two cross-validations of one target on the slides that both judged, each slide's mean over the seeds.

    A score that looks at the order alone is given each model's own ranks.

    Args:
        a: one.
        b: the other; discrete and Cox survival may be held against each other.
        score: a name among `scorers` of their kind; empty takes the headline.
        draws: of the bootstrap, and of the permutations.
        seed: of both.
        level: of the interval.

    Raises:
        UsageError: the two are of different kinds or classes, disagree about a slide, share none, or there is no such
            score.
    """
    alike = a.kind == b.kind or {a.kind, b.kind} == set(SURVIVAL)
    if not alike or a.classes != b.classes:
        raise UsageError(
            f"comparison: one model is {a.kind} of {', '.join(a.classes)}, the other {b.kind} of {', '.join(b.classes)}. "
            "Compare models of one target; of survival, with the same horizons."
        )
    rows_a, rows_b = ({row.slide_id: row for row in result.pooled()} for result in (a, b))
    shared = sorted(rows_a.keys() & rows_b.keys())
    if not shared:
        raise UsageError("comparison: the two models judged no slide in common.")
    for slide in shared:
        one, other = rows_a[slide], rows_b[slide]
        if (one.label, one.case_id) != (other.label, other.case_id):
            raise UsageError(f"comparison: slide {slide} is {_say(one)} of one model and {_say(other)} of the other.")
    keep = set(shared)
    parts = [each.sample([row for row in each.predictions if each.pool().unit_of(row) in keep]) for each in (a, b)]
    known = scorers(parts[0])
    name = score or next(iter(known))
    if name not in known:
        raise UsageError(f"comparison: there is no score {name!r}.{nearest(name, known)} Scores: {', '.join(known)}.")
    if name in RANKED:
        parts = [replace(part, values=_ranks(part.values)) for part in parts]
    scorer = scorers(_stacked(*parts)).get(name)
    if scorer is None:
        raise UsageError(f"comparison: one of the models has no {name}.")
    return compare_paired(
        scorer.weighted,
        groups=[rows_a[slide].case_id for slide in shared],
        strata=parts[0].strata(),
        draws=draws,
        seed=seed,
        level=level,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the given order; each at most 1.

    Raises:
        UsageError: one is not between 0 and 1.
    """
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise UsageError(f"Holm's correction: {wrong[0]} is no p-value; they lie between 0 and 1.")
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def _difference(score: Weighted, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return score(np.hstack([first, second])) - score(np.hstack([second, first]))


def _stacked(a: Sample, b: Sample) -> Sample:
    both = a.scaled is not None and b.scaled is not None
    cut = a.thresholds is not None and b.thresholds is not None
    left = None
    if a.censoring is not None and b.censoring is not None:
        left = Censoring(*(np.concatenate([getattr(x.censoring, name) for x in (a, b)]) for name in ("own", "at")))
    return replace(
        a,
        labels=[*a.labels, *b.labels],
        values=np.concatenate([a.values, b.values]),
        scaled=np.concatenate([np.asarray(a.scaled), np.asarray(b.scaled)]) if both else None,
        censoring=left,
        thresholds=np.concatenate([np.asarray(a.thresholds), np.asarray(b.thresholds)]) if cut else None,
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Each column's ranks over N, equal values sharing their mean, [N, P] float64."""
    return np.column_stack([mid_ranks(column) / len(values) for column in values.T])


def _say(row: PredictionRow) -> str:
    return f"{row.label!r} of patient {row.case_id!r}"
