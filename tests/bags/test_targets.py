from __future__ import annotations

import pytest

from pathotune_pipeline.bags.coding import pick_horizons, resolve
from pathotune_pipeline.bags.targets import (
    TargetSpec,
    parse_target,
    read_event,
    read_labels,
    read_survival,
    target_specs,
    write_survival,
)
from pathotune_pipeline.errors import ManifestError, SpecError


@pytest.mark.parametrize(
    ("text", "column", "settings"),
    [
        ("grade", "grade", {}),
        ("grade:ordinal", "grade", {"kind": "ordinal"}),
        ("os:survival-cox:dead", "os", {"kind": "survival-cox", "event": "dead"}),
        ("a:b", "a:b", {}),
        ("a:b:regression", "a:b", {"kind": "regression"}),
    ],
)
def test_a_target_names_its_column_and_kind(text, column, settings):
    assert parse_target(text) == (column, settings)


def test_several_targets_and_settings_over_them():
    specs = target_specs(["a", "os:survival-discrete:dead"], {"os": {"bins": 6}})
    assert (specs["a"].kind, specs["os"].bins, specs["os"].event) == ("auto", 6, "dead")
    assert target_specs("a", {})["a"].plain
    with pytest.raises(SpecError, match="needs its event's column"):
        target_specs("os:survival-cox", {})
    with pytest.raises(SpecError, match="given already"):
        target_specs(["a", "a:ordinal"], {})
    with pytest.raises(SpecError, match="none of a"):
        target_specs(["a"], {"b": {}})
    with pytest.raises(SpecError, match="for survival"):
        parse_target("a:ordinal:b")
    with pytest.raises(SpecError, match="Did you mean 'bins'"):
        target_specs(["a"], {"a": {"bin": 3}})


def test_survival_is_written_with_a_plus_where_the_event_was_not_seen():
    assert write_survival("34.5", "1") == "34.5"
    assert write_survival(" 34.5", "0:LIVING") == "34.5+"
    assert read_survival("34.5+") == (34.5, False)
    assert read_survival("34.5") == (34.5, True)
    assert read_event("1:DECEASED")
    for wrong in ("-3", "soon", "nan", "+"):
        with pytest.raises(ManifestError):
            read_survival(wrong)
    with pytest.raises(ManifestError, match="Write 1 where"):
        write_survival("3", "perhaps")


def test_labels_of_a_cell():
    assert read_labels("b; a;b") == ("a", "b")
    assert read_labels("-") == ()


def test_kinds_are_resolved_over_a_cohort():
    assert resolve(TargetSpec(), ["a", "b"]) == ("binary", ("a", "b"))
    assert resolve(TargetSpec(), ["a", "b", "c"]) == ("multiclass", ("a", "b", "c"))
    assert resolve(TargetSpec(kind="multilabel"), ["a;b", "-", "c"]) == ("multilabel", ("a", "b", "c"))
    assert resolve(TargetSpec(kind="ordinal"), ["10", "9"]) == ("ordinal", ("9", "10"))
    ordered = TargetSpec(kind="ordinal", order=("low", "mid", "high"))
    assert resolve(ordered, ["high", "low"]) == ("ordinal", ("low", "high"))
    with pytest.raises(ManifestError, match="order of the grades"):
        resolve(ordered, ["high", "odd"])
    with pytest.raises(ManifestError, match="two classes; found"):
        resolve(TargetSpec(kind="binary"), ["a", "b", "c"])
    with pytest.raises(ManifestError, match="needs a label"):
        resolve(TargetSpec(kind="multilabel"), ["-"])


def test_horizons_are_the_deciles_of_the_event_times():
    spec = TargetSpec(kind="survival-cox", event="e")
    assert pick_horizons(spec, [*map(str, range(11)), "99+"]) == tuple(map(float, range(1, 10)))
    assert pick_horizons(spec.with_values(horizons=(12, 6)), []) == (6, 12)
    with pytest.raises(ManifestError, match="event column"):
        pick_horizons(spec, ["3+"])
