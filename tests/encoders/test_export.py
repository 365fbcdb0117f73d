"""Encoders whose weights were changed, written as folders and loaded again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pathotune_pipeline.encoders.bundle import CARD_FILE, FORMAT
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.checkpoint import file_sha256
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.encoders.export import write_encoder
from pathotune_pipeline.errors import SpecError, WeightsError
from tests.encoders.conftest import filled, toy_card
from tests.encoders.test_timm import write_checkpoint


def changed(encoder: Encoder) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    state = encoder.module.state_dict()
    return {name: tensor + 0.05 * torch.randn(tensor.shape, generator=draw) for name, tensor in state.items()}


def tiles(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, side, side, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def check_written(encoder: Encoder, folder: Path, side: int) -> Encoder:
    """The folder's encoder differs from the one before by what was changed alone."""
    state = changed(encoder)
    write_encoder(folder, state, card=encoder.card, spec=encoder.spec, changed="Changed in a test.")
    written = create_encoder(EncoderSpec(name=f"local:{folder}"))
    before = encoder.encode(tiles(side))
    encoder.module.load_state_dict(state)
    expected = encoder.encode(tiles(side))
    assert torch.equal(written.encode(tiles(side)), expected)
    assert not torch.allclose(before, expected, atol=1e-3)
    kept = {name: value for name, value in encoder.card.recipe().items() if name not in ("weights_sha256", "pooling")}
    assert {name: written.card.recipe()[name] for name in kept} == kept
    assert written.card.weights_sha256 != encoder.card.weights_sha256
    assert written.card.licence == encoder.card.licence
    return written


def test_a_folder_of_timm(tmp_path):
    write_checkpoint(tmp_path / "before")
    encoder = create_encoder(EncoderSpec(name=f"local:{tmp_path / 'before'}"))
    written = check_written(encoder, tmp_path / "after", 64)
    assert written.card.name == "local:after"


@pytest.mark.parametrize("pooling", ["card", "mean"])
def test_a_bundle_of_the_catalogue(tmp_path, pooling):
    card, folder = toy_card(), tmp_path / "before"
    folder.mkdir()
    save_file(filled(card).state_dict(), folder / "model.safetensors")
    facts = {
        "bytes": (folder / "model.safetensors").stat().st_size,
        "sha256": file_sha256(folder / "model.safetensors"),
    }
    content = {"format": FORMAT, "card": card.model_dump(mode="json"), "weights": "model.safetensors",
               "files": {"model.safetensors": facts}}  # fmt: skip
    (folder / CARD_FILE).write_text(json.dumps(content))
    encoder = create_encoder(EncoderSpec(name=f"local:{folder}", pooling=pooling))
    written = check_written(encoder, tmp_path / "My model!", 80)
    assert written.card.name == "toy-my-model"
    assert written.card.pooling == ("cls+mean" if pooling == "card" else "mean")
    (tmp_path / "My model!" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match=r"model.safetensors"):
        create_encoder(EncoderSpec(name=f"local:{tmp_path / 'My model!'}"))


def test_what_no_folder_can_build_is_refused(tmp_path):
    encoder = create_encoder(EncoderSpec(name="stain-texture"))
    with pytest.raises(SpecError, match="code of its own"):
        write_encoder(tmp_path / "x", {}, card=encoder.card, spec=encoder.spec, changed="")
    assert not (tmp_path / "x").exists()
