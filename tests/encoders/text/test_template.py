from __future__ import annotations

import pytest

from pathotune_pipeline.encoders.text import DEFAULT_TEMPLATE, fill_template
from pathotune_pipeline.errors import SpecError

ALL = {"stain": "H&E", "organ": "colon", "task": "tissue typing", "classes": "tumour, stroma"}


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (ALL, "H&E-stained colon histopathology image for tissue typing; classes: tumour, stroma"),
        ({}, "histopathology image"),
        ({**ALL, "stain": None, "task": ""}, "colon histopathology image; classes: tumour, stroma"),
        ({"stain": "IHC", "organ": "  "}, "IHC-stained histopathology image"),
        ({"task": "grading [ISUP] {x}"}, "histopathology image for grading [ISUP] {x}"),
    ],
)
def test_what_is_not_known_is_left_out(known: dict[str, str | None], text: str) -> None:
    assert fill_template(DEFAULT_TEMPLATE, known) == text


def test_templates_of_ones_own() -> None:
    assert fill_template("{organ}, {stain}", ALL) == "colon, H&E"
    assert fill_template("a fixed sentence", {}) == "a fixed sentence"
    assert fill_template("x[ in {organ} by {stain}]", {"organ": "lung"}) == "x"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{stian} image", "no field 'stian'.*Did you mean 'stain'"),
        ("[{colour} ]image", "no field 'colour'"),
        ("{stain} image", "needs stain.*square brackets"),
        ("image[ for {task}", "bracket"),
        ("[image[ for {task}]]", "bracket"),
        ("{stain!r}", "plain fields"),
        ("{stain:>10}", "plain fields"),
        ("{0.real}", "plain fields"),
        ("{stain", "cannot be read"),
        ("[{stain}]", "Nothing is left"),
    ],
)
def test_what_is_refused(template: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        fill_template(template, {})


def test_a_value_of_no_field_is_refused() -> None:
    with pytest.raises(SpecError, match="no field 'stains'"):
        fill_template(DEFAULT_TEMPLATE, {"stains": "H&E"})
