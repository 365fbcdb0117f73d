"""Drift: found where it is, silent where it is not, and never out of too few slides."""

from __future__ import annotations

import numpy as np
import pytest

from pathotune_pipeline.reports.nights.drift import FEATURES, DriftSpec, Sample, compare, measure, unlike_past
from pathotune_pipeline.reports.nights.energy import energy_test
from pathotune_pipeline.reports.nights.means import stable_sample

GROUP = ("H&E", "AT2")


def samples(
    rng: np.random.Generator, count: int, *, shift: float = 0.0, group: tuple[str, str] = GROUP
) -> list[Sample]:
    return [
        Sample(
            f"{shift}-{index}",
            group,
            {"tissue": float(rng.normal(0.3, 0.05)), "blur": float(rng.normal(0.1 + shift, 0.02))},
        )
        for index in range(count)
    ]


def test_a_shift_is_an_alert_and_only_where_it_is() -> None:
    rng = np.random.default_rng(0)
    past = samples(rng, 200) + samples(rng, 50, group=("Ki-67", "P1000"))
    (group,) = compare(past, samples(rng, 20, shift=0.05), DriftSpec())
    assert [test.title for test in group.alerts] == ["Focus, blurred share of the tissue"]
    assert (group.past, group.night) == (200, 20)
    by_title = {test.title: test for test in group.shifts}
    assert not by_title["Tissue, share of the slide"].alert


def test_no_alert_without_drift() -> None:
    rng = np.random.default_rng(1)
    alerts = 0
    for _ in range(40):
        (group,) = compare(samples(rng, 100), samples(rng, 30), DriftSpec())
        alerts += len(group.alerts)
    assert alerts <= 1  # under 1 in 100 nights is expected


def test_too_few_slides_say_so_and_alert_nobody() -> None:
    rng = np.random.default_rng(2)
    for past, night in ((19, 30), (100, 4), (0, 8)):
        (group,) = compare(samples(rng, past), samples(rng, night, shift=5.0), DriftSpec())
        assert not group.alerts
        assert all(test.p_value is None for test in group.shifts)


def test_small_shifts_of_many_slides_are_no_alert() -> None:
    rng = np.random.default_rng(3)
    (group,) = compare(samples(rng, 3000), samples(rng, 3000, shift=0.003), DriftSpec())
    focus = next(test for test in group.shifts if test.title.startswith("Focus"))
    assert focus.p_value is not None
    assert focus.p_value < 0.01
    assert not focus.alert


def test_features_are_compared_by_slide() -> None:
    rng = np.random.default_rng(4)
    past, night = samples(rng, 60), samples(rng, 12, shift=1e-9)
    vectors = {each.name: rng.normal(size=16) for each in past} | {each.name: rng.normal(1.0, 1, 16) for each in night}
    (group,) = compare(past, night, DriftSpec(), means=lambda names: np.stack([vectors[name] for name in names]))
    assert [test.title for test in group.alerts] == [FEATURES]
    vectors |= {each.name: np.full(16, np.nan) for each in night[:8]}  # four are left: too few
    (group,) = compare(past, night, DriftSpec(), means=lambda names: np.stack([vectors[name] for name in names]))
    assert not group.alerts


def test_energy_coefficient_of_known_distributions() -> None:
    near = np.repeat([[0.0], [1.0]], 5, axis=0)  # spread 0.5, so a mean distance of 1 within
    size, p_value = energy_test(near, near + 1000)
    assert size == pytest.approx((2 * 2000 - 1 - 1) / (2 * 2000))
    assert p_value == pytest.approx(1e-4, rel=1.1)  # two of 184,756 labellings are as far apart
    assert energy_test(near, near[::-1])[1] == 1.0
    assert energy_test(np.ones((4, 2)), np.ones((4, 2))) == (0.0, 1.0)


def test_energy_p_values_are_uniform_without_drift() -> None:
    rng = np.random.default_rng(5)
    p_values = [energy_test(rng.normal(size=(25, 6)), rng.normal(size=(10, 6)))[1] for _ in range(60)]
    assert 0.3 < float(np.mean(p_values)) < 0.7
    assert sum(p < 0.05 for p in p_values) <= 8


def test_single_slides_far_from_the_past_are_named() -> None:
    rng = np.random.default_rng(6)
    odd = Sample("odd", GROUP, {"blur": 0.9, "tissue": 0.3})
    told = unlike_past(samples(rng, 40), [odd, *samples(rng, 3)], min_past=20)
    assert list(told) == ["odd"]
    assert told["odd"][0].startswith("Focus, blurred share of the tissue: 0.9, expected")
    assert not unlike_past(samples(rng, 10), [odd], min_past=20)
    equal = [Sample(str(i), GROUP, {"blur": 0.0}) for i in range(30)]
    assert not unlike_past(equal, [Sample("near", GROUP, {"blur": 0.05})], min_past=20)  # no spread is not believed


def test_what_is_measured_of_a_slide() -> None:
    told = {
        "blur_share": 0.1,
        "fold_share": 0.0,
        "hematoxylin": [0.5, 0.3, 0.2],
        "eosin": None,
        "background": [240, 240, 246],
    }
    found = measure(0.25, told)
    assert found == pytest.approx(
        {"tissue": 0.25, "blur": 0.1, "folds": 0.0, "haematoxylin-red": 0.5, "haematoxylin-blue": 0.2, "glass": 242.0}
    )
    assert measure(None, None) == {}


def test_a_sample_of_a_growing_archive_stays() -> None:
    names = [f"slide-{index}" for index in range(400)]
    before, after = stable_sample(names[:300], 100), stable_sample(names, 100)
    assert len({*before} & {*after}) > 50
    assert stable_sample(names, 100) == stable_sample(names[::-1], 100)
