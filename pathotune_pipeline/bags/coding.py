"""TargetCoding: a target as numbers for a head, with all that is measured on the training part alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.bags.targets import (
    SURVIVAL,
    Classes,
    TargetSpec,
    read_labels,
    read_number,
    read_survival,
)
from pathotune_pipeline.errors import ManifestError

Value = str | int | float
"""What a bag says of one target: as the table writes it."""


@dataclass(frozen=True, slots=True)
class TargetCoding:
    """One target between table and head.

    Attributes:
        name: of the target.
        kind: resolved, never "auto".
        classes: of a class or a grade in their order, or the labels of a multi-label target.
        class_weights: of each class in the loss, or empty.
        mean: of a number over the training part.
        std: of a number over the training part.
        cuts: the ends of all intervals of discrete survival, the last one included.
        horizons: times at which survival is predicted.
        baseline: Breslow's cumulative hazard at each horizon, known once the head is trained.
        alpha: share of the censored loss that is left out.
        weight: of this target's loss.
    """

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    cuts: tuple[float, ...] = ()
    horizons: tuple[float, ...] = ()
    baseline: tuple[float, ...] = ()
    alpha: float = 0.0
    weight: float = 1.0

    @property
    def outputs(self) -> int:
        """Logits that the head gives it."""
        match self.kind:
            case "ordinal":
                return len(self.classes) - 1
            case "survival-discrete":
                return len(self.cuts)
            case "regression" | "survival-cox":
                return 1
        return len(self.classes)

    @property
    def width(self) -> int:
        """Numbers that `encode` gives: classes one, labels one each, survival two (interval or time, and event)."""
        return len(self.classes) if self.kind == "multilabel" else 2 if self.kind in SURVIVAL else 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is predicted."""
        return output_columns(self.kind, self.classes, self.horizons)

    def encode(self, value: Value | None) -> np.ndarray:
        """One slide's numbers, [width] float64; all NaN where the value is not known.

        Raises:
            ManifestError: the value is not of this kind, or a class that is not known.
        """
        if value is None:
            return np.full(self.width, np.nan)
        match self.kind:
            case "multilabel":
                said = read_labels(str(value))
                strangers = [label for label in said if label not in self.classes]
                if strangers:
                    raise ManifestError(f"Label {strangers[0]!r} is none of {', '.join(self.classes)}.")
                return np.array([float(label in said) for label in self.classes])
            case "regression":
                return np.array([(read_number(value) - self.mean) / self.std])
            case "survival-discrete":
                time, seen = read_survival(value)
                return np.array([min(np.searchsorted(self.cuts, time), len(self.cuts) - 1), float(seen)])
            case "survival-cox":
                return np.array(read_survival(value), np.float64)
        return np.array([float(Classes(self.classes).index(str(value)))])


def output_columns(kind: str, classes: Sequence[str], horizons: Sequence[float]) -> tuple[str, ...]:
    """Names of what a target of this kind predicts: classes, "predicted", or risk and survival at each horizon."""
    if kind == "regression":
        return ("predicted",)
    if kind in SURVIVAL:
        return ("risk", *(f"survival_at_{time:.10g}" for time in horizons))
    return tuple(classes)


def resolve(spec: TargetSpec, values: Sequence[Value]) -> tuple[str, tuple[str, ...]]:
    """The kind that "auto" means, and the classes, grades or labels, over all of a cohort.

    Raises:
        ManifestError: there are too few or too many of them, or a grade that the order lacks.
    """
    if spec.kind in (*SURVIVAL, "regression"):
        return spec.kind, ()
    if spec.kind == "multilabel":
        labels = sorted({label for value in values for label in read_labels(str(value))})
        if not labels:
            raise ManifestError("A multi-label target needs a label; no slide has one. Look at the target column.")
        return spec.kind, tuple(labels)
    found = Classes.of(str(value) for value in values).names
    if spec.kind == "ordinal" and spec.order:
        strangers = [name for name in found if name not in spec.order]
        if strangers or len(set(spec.order)) != len(spec.order):
            raise ManifestError(
                f"The order of the grades is {', '.join(spec.order)}; the table has {', '.join(found)}."
            )
        return spec.kind, tuple(name for name in spec.order if name in found)
    if spec.kind == "binary" and len(found) != 2:
        raise ManifestError(
            f"A binary target has two classes; found {', '.join(found)}. Call it multiclass, or join some."
        )
    kind = spec.kind if spec.kind != "auto" else "binary" if len(found) == 2 else "multiclass"
    return kind, found


def pick_horizons(spec: TargetSpec, values: Sequence[Value]) -> tuple[float, ...]:
    """The times at which survival is predicted and judged: those asked for, or the deciles of the event times.

    They choose where to look and are no part of what is learnt, so they may be those of the whole cohort.

    Raises:
        ManifestError: no event was seen.
    """
    if spec.horizons:
        return tuple(sorted(set(spec.horizons)))
    seen = [time for time, event in map(read_survival, map(str, values)) if event]
    if not seen:
        raise ManifestError("No slide's event was seen. Look at the event column: 1 is seen, 0 is not.")
    # Six digits, so that rounding makes no two of one, and columns bear short names.
    return tuple(sorted({float(f"{time:.6g}") for time in np.quantile(seen, np.arange(1, 10) / 10)}))


def fit_coding(
    name: str,
    spec: TargetSpec,
    train_values: Sequence[Value | None],
    *,
    kind: str,
    classes: Sequence[str] = (),
    horizons: Sequence[float] = (),
    balanced: bool = False,
) -> TargetCoding:
    """The coding of a target, its scale, cuts and class weights measured on the training part.

    Args:
        name: of the target.
        spec: how it is learnt.
        train_values: of the training part's slides; None where not known.
        kind: as `resolve` says.
        classes: as `resolve` says.
        horizons: as `pick_horizons` says.
        balanced: whether classes weigh inversely to how often they occur; of binary and multiclass targets alone.

    Raises:
        ManifestError: the training part has no value, or no event.
    """
    known = [value for value in train_values if value is not None]
    if not known:
        raise ManifestError(f"Target {name!r}: no training slide has a value. Ask for fewer folds, or add labels.")
    mean, std = 0.0, 1.0
    cuts: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    if kind == "regression":
        numbers = np.array([read_number(value) for value in known])
        mean, std = float(numbers.mean()), float(numbers.std())
        std = std if std > 1e-12 * max(abs(mean), 1e-300) else 1.0
    elif kind in SURVIVAL:
        pairs = [read_survival(value) for value in known]
        if not any(seen for _, seen in pairs):
            raise ManifestError(f"Target {name!r}: no training slide's event was seen. Ask for fewer folds.")
        if kind == "survival-discrete":
            cuts = _cuts(pairs, spec.bins)
    elif balanced and kind in ("binary", "multiclass"):
        weights = _balanced([str(value) for value in known], classes)
    return TargetCoding(
        name=name,
        kind=kind,
        classes=tuple(classes),
        class_weights=weights,
        mean=mean,
        std=std,
        cuts=cuts,
        horizons=tuple(horizons),
        alpha=spec.alpha,
        weight=spec.weight,
    )


def _cuts(pairs: Sequence[tuple[float, bool]], bins: int) -> tuple[float, ...]:
    """Ends of intervals that hold equally many events; the last end is the longest time."""
    seen = np.array([time for time, event in pairs if event])
    longest = max(time for time, _ in pairs)
    inner = np.unique(np.quantile(seen, np.arange(1, bins) / bins))
    return (*inner[(inner > 0) & (inner < longest)].tolist(), longest)


def _balanced(values: Sequence[str], classes: Sequence[str]) -> tuple[float, ...]:
    counts = np.bincount(Classes(tuple(classes)).encode(values), minlength=len(classes))
    present = int((counts > 0).sum())
    return tuple(float(len(values) / (count * present)) if count else 0.0 for count in counts)
