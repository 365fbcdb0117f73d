"""Whether a night's slides are like those that the archive held before, for each stain and scanner.

Each slide gives one number a measure, so a slide counts once however large it is. Distributions are compared by the
two-sample Kolmogorov-Smirnov test, features by an energy test. p-values are Holm-corrected over all tests of a night
(Holm, Scand J Stat 1979). An alert needs both: p under `alpha`, and a shift that is large enough to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from pathotune_pipeline.reports.nights.energy import energy_test
from pathotune_pipeline.spec import Spec, setting

FENCE = 3.0
"""Quartile ranges beyond the quartiles from which on one slide is called unlike the past (Tukey's outer fence)."""
_EXACT = 20_000
"""Products of sample sizes up to which the Kolmogorov-Smirnov p-value is exact."""


class DriftSpec(Spec):
    """From where on a night is said to differ from the archive's past."""

    alpha: float = setting(
        0.01,
        "Holm-corrected p-value under which a shift is an alert, 0 to 1.",
        hashed=False,
        flag="drift-alpha",
        gt=0,
        lt=1,
    )
    min_shift: float = setting(
        0.3,
        "Least Kolmogorov-Smirnov distance of an alert, 0 to 1: how far the shares of slides below a value differ.",
        hashed=False,
        flag="drift-min-shift",
        ge=0,
        le=1,
    )
    min_feature_shift: float = setting(
        0.1,
        "Least energy coefficient of an alert on features, 0 to 1.",
        hashed=False,
        flag="drift-min-feature-shift",
        ge=0,
        le=1,
    )
    min_past: int = setting(
        20,
        "Slides of the past that a stain and scanner needs to be compared.",
        hashed=False,
        flag="drift-min-past",
        ge=5,
    )
    min_night: int = setting(
        5,
        "Slides of the night that a stain and scanner needs to be tested.",
        hashed=False,
        flag="drift-min-night",
        ge=2,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """What is measured of one slide.

    Attributes:
        name: the slide's id.
        group: stain and scanner.
        values: by measure; without those that are not known.
    """

    name: str
    group: tuple[str, str]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measure:
    """One number a slide.

    Attributes:
        title: as the page names it.
        floor: the least quartile range that is believed when single slides are judged.
        read: from the share of tissue and the quality's plain values; None where it is not known.
    """

    title: str
    floor: float
    read: Callable[[float | None, Mapping[str, Any]], float | None]


def _hue(stain: str, channel: int) -> Callable[[float | None, Mapping[str, Any]], float | None]:
    def read(_: float | None, quality: Mapping[str, Any]) -> float | None:
        vector = quality.get(stain)
        total = sum(vector) if vector else 0
        return float(vector[channel]) / total if vector and total > 0 else None

    return read


def _named(name: str) -> Callable[[float | None, Mapping[str, Any]], float | None]:
    return lambda _, quality: None if quality.get(name) is None else float(quality[name])


def _glass(_: float | None, quality: Mapping[str, Any]) -> float | None:
    return float(np.mean(quality["background"])) if quality.get("background") else None


MEASURES = {
    "tissue": Measure("Tissue, share of the slide", 0.02, lambda share, _: None if share is None else float(share)),
    "blur": Measure("Focus, blurred share of the tissue", 0.02, _named("blur_share")),
    "folds": Measure("Folds, share of the tissue", 0.01, _named("fold_share")),
    "haematoxylin-red": Measure("Haematoxylin, share of red absorbed", 0.01, _hue("hematoxylin", 0)),
    "haematoxylin-blue": Measure("Haematoxylin, share of blue absorbed", 0.01, _hue("hematoxylin", 2)),
    "eosin-red": Measure("Eosin, share of red absorbed", 0.01, _hue("eosin", 0)),
    "eosin-blue": Measure("Eosin, share of blue absorbed", 0.01, _hue("eosin", 2)),
    "glass": Measure("Brightness of the glass, 0 to 255", 3.0, _glass),
}
FEATURES = "Features, mean of the tiles"


def measure(share: float | None, quality: Mapping[str, Any] | None) -> dict[str, float]:
    """What is known of a slide, by measure.

    Args:
        share: of the slide that is tissue.
        quality: as `Quality.as_dict` gives it, or None.
    """
    read = {name: each.read(share, quality or {}) for name, each in MEASURES.items()}
    return {name: value for name, value in read.items() if value is not None and np.isfinite(value)}


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles of one measure over some slides."""

    count: int
    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The quartiles of at least one value."""
        low, middle, high = np.percentile(values, [25, 50, 75])
        return cls(len(values), float(low), float(middle), float(high))


@dataclass(slots=True)
class Shift:
    """One measure of one group.

    Attributes:
        title: of the measure.
        past, night: quartiles; None of features.
        counts: slides of the past and of the night.
        size: Kolmogorov-Smirnov distance, or energy coefficient, 0 to 1; None where there are too few slides.
        p_value: Holm-corrected; None where there are too few slides.
        alert: whether it is one.
    """

    title: str
    past: Spread | None
    night: Spread | None
    counts: tuple[int, int]
    size: float | None = None
    p_value: float | None = None
    least_shift: float = 0.0
    alert: bool = False


@dataclass(slots=True)
class Group:
    """One stain and scanner."""

    stain: str
    scanner: str
    past: int
    night: int
    shifts: list[Shift] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.stain or 'stain not told'}, {self.scanner or 'scanner not told'}"

    @property
    def alerts(self) -> list[Shift]:
        return [test for test in self.shifts if test.alert]


Means = Callable[[Sequence[str]], np.ndarray]
"""Mean features of slides by id: float [n, D]; a row of NaN where they cannot be read."""


def compare(
    past: Sequence[Sample], night: Sequence[Sample], spec: DriftSpec, *, means: Means | None = None
) -> list[Group]:
    """Hold a night's slides against the archive's past.

    Args:
        past: slides that were there before.
        night: slides that the night added or replaced.
        spec: what counts as an alert.
        means: their mean features; None leaves features out.

    Returns:
        A group for each stain and scanner of the night, the largest first.
    """
    groups = []
    for stain, scanner in sorted({sample.group for sample in night}):
        before = [sample for sample in past if sample.group == (stain, scanner)]
        now = [sample for sample in night if sample.group == (stain, scanner)]
        group = Group(stain, scanner, len(before), len(now))
        for name, each in MEASURES.items():
            test = _test(each.title, before, now, name=name, spec=spec)
            if test is not None:
                group.shifts.append(test)
        if means is not None and len(before) >= spec.min_past and len(now) >= spec.min_night:
            group.shifts.append(_test_features(means, before, now, spec))
        groups.append(group)
    tests = [test for group in groups for test in group.shifts]
    _correct([test for test in tests if test.p_value is not None])
    for test in tests:
        test.alert = test.p_value is not None and test.p_value < spec.alpha and (test.size or 0.0) >= test.least_shift
    return sorted(groups, key=lambda group: (-len(group.alerts), -group.night, group.title))


def _test(title: str, before: Sequence[Sample], now: Sequence[Sample], *, name: str, spec: DriftSpec) -> Shift | None:
    old = [sample.values[name] for sample in before if name in sample.values]
    new = [sample.values[name] for sample in now if name in sample.values]
    if not new:
        return None
    test = Shift(
        title, Spread.of(old) if old else None, Spread.of(new), (len(old), len(new)), least_shift=spec.min_shift
    )
    if len(old) >= spec.min_past and len(new) >= spec.min_night:
        found = ks_2samp(old, new, method="exact" if len(old) * len(new) <= _EXACT else "asymp")
        test.size, test.p_value = float(found.statistic), float(found.pvalue)
    return test


def _test_features(means: Means, before: Sequence[Sample], now: Sequence[Sample], spec: DriftSpec) -> Shift:
    old, new = (means([sample.name for sample in samples]) for samples in (before, now))
    old, new = (each[np.isfinite(each).all(axis=1)] for each in (old, new))
    test = Shift(FEATURES, None, None, (len(old), len(new)), least_shift=spec.min_feature_shift)
    if len(old) >= spec.min_past and len(new) >= spec.min_night:
        test.size, test.p_value = energy_test(old, new)
    return test


def _correct(tests: Sequence[Shift]) -> None:
    """Holm's step-down correction, in place."""
    largest = 0.0
    for rank, test in enumerate(sorted(tests, key=lambda test: test.p_value or 0.0)):
        largest = max(largest, min(1.0, (len(tests) - rank) * (test.p_value or 0.0)))
        test.p_value = largest


def unlike_past(past: Sequence[Sample], night: Sequence[Sample], *, min_past: int) -> dict[str, list[str]]:
    """Slides of the night that lie far outside of the past of their stain and scanner, with a sentence a measure.

    Args:
        past, night: as of `compare`.
        min_past: slides that a group's past needs.

    Returns:
        Sentences by slide id; only slides that have one.
    """
    ranges: dict[tuple[tuple[str, str], str], tuple[float, float] | None] = {}
    found: dict[str, list[str]] = {}
    for sample in night:
        for name, value in sample.values.items():
            place = (sample.group, name)
            if place not in ranges:
                ranges[place] = _range([each for each in past if each.group == sample.group], name, min_past)
            limits = ranges[place]
            if limits is not None and not limits[0] <= value <= limits[1]:
                title = MEASURES[name].title
                said = f"{title}: {value:.3g}, expected {limits[0]:.3g} to {limits[1]:.3g}"
                found.setdefault(sample.name, []).append(said)
    return found


def _range(past: Sequence[Sample], name: str, min_past: int) -> tuple[float, float] | None:
    values = [sample.values[name] for sample in past if name in sample.values]
    if len(values) < min_past:
        return None
    spread = Spread.of(values)
    reach = FENCE * max(spread.high - spread.low, MEASURES[name].floor)
    floor = 0.0 if min(values) >= 0 else -np.inf
    return max(floor, spread.low - reach), spread.high + reach
