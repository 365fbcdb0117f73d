"""Scores of class probabilities. What is not defined is None with a reason, never NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pathotune_pipeline.evaluation.metrics.score import Score, mean_of_defined, once, ratio, score_of


def auroc(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Area under the ROC curve; for more than two classes the mean of each class against the rest.

    Ties count half.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float; of two classes the second is the positive one.
    """
    return _of_present_classes(weighted_auroc, targets, probs)


def balanced_accuracy(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean over classes of the share that got its highest probability right.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
    """
    return _of_present_classes(weighted_balanced_accuracy, targets, probs)


def accuracy(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Share whose highest probability is on the right class.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
    """
    if not len(targets):
        return Score(None, "no slides")
    return Score(float((probs.argmax(axis=1) == targets).mean()))


def average_precision(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Area under the precision-recall curve as a sum of steps; for more classes the mean of each against the rest.

    Slides of one probability enter together: AP = sum over thresholds of (recall gained) x (precision there).

    Args:
        targets: [N] int class indices.
        probs: [N, C] float; of two classes the second is the positive one.
    """
    return _of_present_classes(weighted_average_precision, targets, probs)


def quadratic_kappa(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Cohen's kappa of the most probable grade with quadratic weights: 1 - observed / chance disagreement.

    Args:
        targets: [N] int grades, from 0.
        probs: [N, C] float, grades in their order.
    """
    reason = "all slides have one grade, and were given it" if len(targets) else "no slides"
    return score_of(weighted_quadratic_kappa(targets, probs, once(len(targets))), reason)


def multilabel_auroc(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean AUROC over labels that occur and lack somewhere; a label that is not known of a slide is passed over.

    Args:
        targets: [N, L] float: 1, 0, or NaN where it is not known.
        probs: [N, L] float, each label's own probability.
    """
    return score_of(weighted_multilabel_auroc(targets, probs, once(len(targets))), "no label has both sides")


def multilabel_average_precision(targets: np.ndarray, probs: np.ndarray) -> Score:
    """Mean average precision over labels; arguments as for `multilabel_auroc`."""
    values = weighted_multilabel_average_precision(targets, probs, once(len(targets)))
    return score_of(values, "no label has both sides")


def roc_points(targets: np.ndarray, probs: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """The ROC curve of the positive class, or of each of several classes against the rest.

    Args:
        targets: [N] int class indices.
        probs: [N, C] float.
        classes: C names.

    Returns:
        class -> {"fpr": [...], "tpr": [...]}, from (0, 0) to (1, 1); a class without both sides is left out.
    """
    from sklearn.metrics import roc_curve

    curves = {}
    for index in _judged(len(classes)):
        positive = targets == index
        if positive.any() and not positive.all():
            fpr, tpr, _ = roc_curve(positive, probs[:, index])
            curves[classes[index]] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
    return curves


def weighted_auroc(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`auroc` for many weightings at once, [R] float64.

    Args:
        targets: [N] int.
        probs: [N, C] float.
        weights: [R, N] float: how often each slide counts. Every class must have some weight in each row.
    """
    per_class = [area_of_ranking(targets == index, probs[:, index], weights) for index in _judged(probs.shape[1])]
    return np.mean(per_class, axis=0)


def weighted_balanced_accuracy(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`balanced_accuracy` for many weightings at once, [R] float64; arguments as for `weighted_auroc`."""
    right = probs.argmax(axis=1) == targets
    recalls = []
    for index in range(probs.shape[1]):
        of_class = targets == index
        recalls.append(ratio(weights[:, of_class & right].sum(axis=1), weights[:, of_class].sum(axis=1)))
    return np.mean(recalls, axis=0)


def weighted_accuracy(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`accuracy` for many weightings at once, [R] float64; arguments as for `weighted_auroc`."""
    right = probs.argmax(axis=1) == targets
    return ratio(weights[:, right].sum(axis=1), weights.sum(axis=1))


def weighted_share(right: np.ndarray, among: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The share of some slides that is right, for many weightings at once, [R] float64; NaN where none of them counts.

    Args:
        right: [N] bool.
        among: [N] bool, which slides are meant.
        weights: [R, N] float: how often each slide counts.
    """
    return ratio(weights @ (right & among).astype(np.float64), weights @ among.astype(np.float64))


def weighted_average_precision(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`average_precision` for many weightings at once, [R] float64; arguments as for `weighted_auroc`."""
    judged = _judged(probs.shape[1])
    return np.mean([precision_of_ranking(targets == index, probs[:, index], weights) for index in judged], axis=0)


def weighted_quadratic_kappa(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`quadratic_kappa` for many weightings at once, [R] float64; NaN where chance never disagrees."""
    grades = np.arange(probs.shape[1])
    truth = weights @ (targets[:, None] == grades).astype(np.float64)  # [R, C]
    given = probs.argmax(axis=1) if len(probs) else np.zeros(0, np.int64)
    said = weights @ (given[:, None] == grades).astype(np.float64)  # [R, C]
    apart = np.square(grades[:, None] - grades).astype(np.float64)  # [C, C]
    by_chance = np.einsum("rc,cd,rd->r", truth, apart, said)
    observed = weights @ np.square(given - targets).astype(np.float64)
    return 1 - ratio(observed * weights.sum(axis=1), by_chance)


def weighted_multilabel_auroc(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`multilabel_auroc` for many weightings at once, [R] float64; NaN where no label has both sides."""
    return _macro_over_labels(area_of_ranking, targets, probs, weights)


def weighted_multilabel_average_precision(targets: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`multilabel_average_precision` for many weightings at once, [R] float64."""
    return _macro_over_labels(precision_of_ranking, targets, probs, weights)


def area_of_ranking(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of (positive, negative) pairs in the right order, ties half, [R] float64; NaN without such a pair.

    Args:
        positive: [N] bool.
        scores: [N] float.
        weights: [R, N] float.
    """
    up, down = sides_by_score(positive, scores, weights)
    below = np.cumsum(down, axis=1) - 0.5 * down
    return ratio((up * below).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))


def precision_of_ranking(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision, [R] float64; NaN where one side has no weight; arguments as for `area_of_ranking`."""
    up, down = (each[:, ::-1] for each in sides_by_score(positive, scores, weights))  # highest score first
    found = np.cumsum(up, axis=1)
    precision = np.nan_to_num(ratio(found, found + np.cumsum(down, axis=1)))
    total = np.where(down.sum(axis=1) > 0, up.sum(axis=1), 0.0)
    return ratio((up * precision).sum(axis=1), total)


def sides_by_score(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at each distinct score, lowest first, [R, groups] each."""
    if not len(scores):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)  # one group for each distinct score
    sorted_weights = weights[:, order]
    up = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    down = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)
    return up, down


def _macro_over_labels(
    of_ranking: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    targets: np.ndarray,
    probs: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    per_label = []
    for index in range(targets.shape[1]):
        known = ~np.isnan(targets[:, index])
        per_label.append(of_ranking(targets[known, index] == 1, probs[known, index], weights[:, known]))
    return mean_of_defined(np.array(per_label))


def _judged(n_classes: int) -> list[int]:
    return [1] if n_classes == 2 else list(range(n_classes))


def _of_present_classes(
    weighted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], targets: np.ndarray, probs: np.ndarray
) -> Score:
    """A score that needs a slide of every class, each slide counted once."""
    absent = _absent(targets, probs.shape[1])
    if absent:
        return Score(None, f"no slide of class {absent[0]} among {len(targets)}")
    return Score(float(weighted(targets, probs, once(len(targets)))[0]))


def _absent(targets: np.ndarray, n_classes: int) -> list[int]:
    return [index for index in range(n_classes) if not (targets == index).any()]
