"""Real loading code on small checkpoints: local folders, and the Hugging Face cache's own layout, offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.errors import UnknownNameError, WeightsError
from tests.encoders.checkpoints import CONFIG, write_checkpoint


def tiles(count: int = 3, side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_a_local_checkpoint_gives_what_the_network_gives(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "toy")
    encoder = create_encoder(EncoderSpec(name=f"local:{tmp_path / 'toy'}", batch_size=4))
    card = encoder.card
    assert (card.dim, card.input_px, card.tile_px, card.licence) == (32, 64, 64, "apache-2.0")
    assert str(tmp_path) not in card.name
    pixels = torch.from_numpy(tiles()).permute(0, 3, 1, 2) / 255.0
    mean, std = torch.tensor(CONFIG["pretrained_cfg"]["mean"]), torch.tensor(CONFIG["pretrained_cfg"]["std"])
    with torch.inference_mode():
        expected = model((pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    torch.testing.assert_close(encoder.encode(tiles()), expected, rtol=1e-4, atol=1e-5)


def test_the_same_weights_have_one_fingerprint_whatever_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a")
    write_checkpoint(tmp_path / "b", pickled=True)
    write_checkpoint(tmp_path / "c", seed=1)
    prints = [create_encoder(EncoderSpec(name=f"local:{tmp_path / name}")).fingerprint() for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_the_hubs_cache_is_used_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--lab--toy"
    model = write_checkpoint(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    encoder = create_encoder(EncoderSpec(name="hf-hub:lab/toy"))
    assert encoder.card.weights_sha256 == state_sha256(model)
    assert encoder.card.source == "hf-hub"


def test_absent_hub_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="local:PATH"):
        create_encoder(EncoderSpec(name="hf-hub:lab/absent"))
    with pytest.raises(WeightsError, match="local:PATH"):
        create_encoder(EncoderSpec(name="timm:vit_tiny_patch16_224"))


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_checkpoint(tmp_path / "toy")
    state = load_file(tmp_path / "toy" / "model.safetensors")
    del state["blocks.1.attn.qkv.weight"]
    save_file(state, tmp_path / "toy" / "model.safetensors")
    with pytest.raises(WeightsError, match="do not fit"):
        create_encoder(EncoderSpec(name=f"local:{tmp_path / 'toy'}"))


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    write_checkpoint(tmp_path / "toy", pickled=True)
    (tmp_path / "toy" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(WeightsError):
        create_encoder(EncoderSpec(name=f"local:{tmp_path / 'toy'}"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "nothing lies at"),
        (lambda folder: folder.mkdir(), "no config.json"),
        (lambda folder: (folder.mkdir(), (folder / "config.json").write_text("{}")), "no weights"),
        (lambda folder: (write_checkpoint(folder), (folder / "config.json").write_text("{")), "not JSON"),
        (lambda folder: (write_checkpoint(folder), (folder / "config.json").write_text("{}")), "architecture"),
    ],
)
def test_a_wrong_folder_is_one_clear_error(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "toy")
    with pytest.raises(WeightsError, match=message):
        create_encoder(EncoderSpec(name=f"local:{tmp_path / 'toy'}"))


@pytest.mark.parametrize("name", ["stain-textur", "timm:vit_tinny_patch16_224", "nothing"])
def test_unknown_names_offer_the_nearest(name: str) -> None:
    with pytest.raises(UnknownNameError):
        create_encoder(EncoderSpec(name=name))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_do_not_depend_on_batch_neighbours(tmp_path: Path, precision: str) -> None:
    write_checkpoint(tmp_path / "toy")
    encoder = create_encoder(EncoderSpec(name=f"local:{tmp_path / 'toy'}", batch_size=8, precision=precision))
    one, others = tiles(1), tiles(8, seed=1)
    with cpu_threads(1):
        alone = encoder.encode(one)
        for place in (0, 3, 7):
            batch = others.copy()
            batch[place] = one
            assert torch.equal(encoder.encode(batch)[place], alone[0])


def test_tiles_of_another_size_are_resized_to_the_cards(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "toy")
    encoder = create_encoder(EncoderSpec(name=f"local:{tmp_path / 'toy'}"))
    assert encoder.encode(tiles(2, side=128)).shape == (2, 32)


def test_what_is_no_batch_of_tiles_is_refused() -> None:
    encoder = create_encoder(EncoderSpec(batch_size=2))
    for wrong in (tiles().astype(np.float32), tiles()[0], tiles(3)):
        with pytest.raises(ValueError, match="tiles"):
            encoder.encode(wrong)
