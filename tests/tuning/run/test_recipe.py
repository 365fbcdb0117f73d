"""The recipes of studies are files that `pathotune study` takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pathotune_pipeline.tuning.studies.file import StudyFile

_FOLDER = Path(__file__).parents[3] / "configs" / "recipes"
RECIPES = sorted(path for path in _FOLDER.glob("*.yaml") if "methods" in yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_study(path):
    study = StudyFile.read(path)
    assert study.encoder_specs()
    assert study.scaling_spec({}).folds >= 2


def test_the_headline_question_has_both_of_its_sides():
    (path,) = (each for each in RECIPES if each.stem == "natural-against-pathology")
    rows = {(encoder, spec.method) for encoder, _, spec in StudyFile.read(path).rows()}
    assert {
        ("natural", "pathotune"),
        ("pathology", "linear"),
        ("pathology", "pathotune"),
        ("natural", "linear"),
    } <= rows
