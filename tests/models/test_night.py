"""A real model on a night's page, by the verb that writes the page again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.models import open_model
from pathotune_pipeline.models.folder import Model
from pathotune_pipeline.models.night import night_model
from pathotune_pipeline.models.predict import predict_store
from pathotune_pipeline.models.quality import PredictSpec
from pathotune_pipeline.store.store import open_store
from tests.models.conftest import Study


def test_a_model_with_its_scores_answers_and_maps(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(study.store, tmp_path / "s")
    words = ["report", "--store", str(tmp_path / "s"), "--night", "--out", str(tmp_path / "out")]
    assert main([*words, "--model", str(study.model)]) == 0
    source = Path(capsys.readouterr().out.strip()).read_text()
    card = open_model(study.model).card
    assert card.fingerprint in source
    for score in card.scores["grade"].values():
        assert score["value"] is None or f"<b>{score['value']:.3f}</b>" in source
        assert score["low"] is None or f"{score['low']:.3f} to {score['high']:.3f}" in source
    assert source.count("data:image/webp") == 6, "all six slides are new"
    assert "predicted: <b>6</b> this night, 0 before" in source
    assert len(re.findall(r"<td class=\"wide\">g[01] \(0\.\d\d\)</td>", source)) == 6
    assert main([*words, "--model", str(study.model), "--model", str(study.model)]) == 2
    assert "Give --model once" in capsys.readouterr().err


def test_values_are_the_tables(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.store, tmp_path / "s")
    model, store = open_model(study.model, device="cpu"), open_store(tmp_path / "s")
    lines = predict_store(model, store, None, PredictSpec(device="cpu"))
    told = night_model(model, store, lines)
    records = store.records(store.find_set("stain-texture"))
    for line in lines:
        given = told.answers[line.slide_id]
        assert given.status == line.status
        if line.status == "predicted":
            assert given.said["grade"] == (f"g{int(line.values['grade'].argmax())}",)
            attention = told.attend(records[line.slide_id])
            assert attention is not None
            assert len(attention) == line.tiles
    fused = Model(model.folder, replace(model.card, training={**model.card.training, "unit": "fuse"}), model.members)
    assert night_model(fused, store, lines).attend(next(iter(records.values()))) is None
