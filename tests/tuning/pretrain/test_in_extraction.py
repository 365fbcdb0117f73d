"""From slides to features: an encoder pretrained on the slides, prompts learnt on it, and both in one extraction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.store.store import open_store
from tests.tuning.pretrain.toy import SETTINGS


def test_slides_to_encoder_to_prompts_to_features(small_archive: Path, tmp_path: Path) -> None:
    slides = small_archive / "case-0"
    data = {"slides": str(slides), "mpps": [1.0, 2.0]}
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({"pretrain": {**SETTINGS, "epoch_images": 32, "data": data}}))
    assert main(["pretrain", "mae", "--config", str(config), "--out", str(tmp_path / "mae")]) == 0
    base = f"local:{tmp_path / 'mae' / 'mae-encoder'}"
    words = ["pretrain", "puzzle", "--config", str(config), "--base", base, "--prompts", "3", "--group", "4"]
    assert main([*words, "--out", str(tmp_path / "puzzle")]) == 0

    prompts = str(tmp_path / "puzzle" / "puzzle-prompts.safetensors")
    store = tmp_path / "store"
    words = ["extract", "--slides", str(slides), "--store", str(store), "--encoder", base, "--mpp", "1.0"]
    assert main([*words, "--adapter", "none", "--adapter", prompts]) == 3  # one of the files is no slide
    held = open_store(store)
    found = [[held.read(record, "features") for record in held.records(one).values()] for one in held.sets("features")]
    assert [len(each) for each in found] == [2, 2]
    bare, prompted = (np.concatenate(each) for each in found)
    assert bare.shape == prompted.shape
    assert bare.shape[1] == 32
    assert np.isfinite(prompted).all()
    assert not np.allclose(bare, prompted, atol=1e-3)
