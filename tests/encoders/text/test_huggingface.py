"""Language models in transformers' layout: small ones, in folders and in the hub's cache, with the hub out of reach."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from pathotune_pipeline.encoders.text import create_text_encoder
from pathotune_pipeline.errors import MissingExtraError, SpecError, WeightsError
from tests.encoders.conftest import in_cache
from tests.encoders.text.models import save, write_bert, write_clip

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
TEXT = "H&E-stained colon histopathology image for tumor"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bert"
    write_bert(folder)
    return folder


@pytest.fixture
def copied(bert: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(bert, tmp_path / "copied"))


def test_bert_gives_its_class_token_and_the_means_of_its_words(tmp_path: Path) -> None:
    model = write_bert(tmp_path / "toy")
    encoder = create_text_encoder(f"hf:{tmp_path / 'toy'}", n_tokens=3)
    assert (encoder.name, encoder.dim, encoder.learned) == ("hf:toy", 32, True)
    words = ("colon", "histopathology", "image", "tumor")
    ids = torch.tensor(
        [[2, *((tmp_path / "toy" / "vocab.txt").read_text().splitlines().index(word) for word in words), 3]]
    )
    with torch.inference_mode():
        states = model.bert(ids).last_hidden_state[0]
    expected = torch.stack([states[0], states[1:3].mean(0), states[3:5].mean(0)])
    torch.testing.assert_close(encoder.encode([" ".join(words).upper()])[0], expected)


def test_clip_gives_its_end_of_text_and_the_means_of_its_words(tmp_path: Path) -> None:
    model = write_clip(tmp_path / "clip")
    encoder = create_text_encoder(f"hf:{tmp_path / 'clip'}", n_tokens=2)
    tokens = encoder.encode(["tumor stroma image"])
    ids = torch.tensor([[15, 5, 6, 2, 16]])
    with torch.inference_mode():
        output = model.text_model(ids)
    states = output.last_hidden_state[0]
    torch.testing.assert_close(tokens[0], torch.stack([states[-1], states[1:4].mean(0)]))
    assert torch.equal(output.pooler_output[0], states[-1])


def test_a_texts_vectors_do_not_depend_on_those_beside_it(bert: Path) -> None:
    encoder = create_text_encoder(f"hf:{bert}")
    both = encoder.encode([TEXT, "colon"])
    assert torch.equal(both[0], encoder.encode([TEXT])[0])
    assert not both.requires_grad
    assert torch.equal(both.clone().requires_grad_(True) * 2, both * 2)  # usable in training: no inference tensor


def test_an_encoder_is_known_by_its_contents(bert: Path, copied: Path, tmp_path: Path) -> None:
    write_bert(tmp_path / "pickled", pickled=True)
    write_bert(tmp_path / "others", seed=1)
    write_bert(tmp_path / "words", vocabulary=("other", "words"))
    folders = (copied, tmp_path / "pickled", tmp_path / "others", tmp_path / "words")
    same, pickled, weights, vocabulary = (create_text_encoder(f"hf:{folder}").sha256 for folder in folders)
    assert create_text_encoder(f"hf:{bert}").sha256 == same == pickled
    assert len({same, weights, vocabulary, create_text_encoder(f"hf:{bert}", n_tokens=2).sha256}) == 4


def test_the_hubs_cache_is_used_offline(hub: Path, bert: Path) -> None:
    in_cache(hub, "lab/toy", {path.name: path.read_bytes() for path in bert.iterdir()})
    encoder = create_text_encoder("hf:lab/toy")
    assert encoder.name == "hf:lab/toy"
    local = create_text_encoder(f"hf:{bert}")
    assert encoder.sha256 == local.sha256
    assert torch.equal(encoder.encode([TEXT]), local.encode([TEXT]))


def test_what_is_not_there_is_said(hub: Path, bert: Path) -> None:
    with pytest.raises(WeightsError, match=r"hf:lab/absent.*hf:FOLDER"):
        create_text_encoder("hf:lab/absent")
    in_cache(hub, "lab/half", {"config.json": (bert / "config.json").read_bytes()})
    with pytest.raises(WeightsError, match=r"hf:lab/half.*not in the local cache.*hf:FOLDER"):
        create_text_encoder("hf:lab/half")
    with pytest.raises(WeightsError, match="nothing lies at /no/such/folder"):
        create_text_encoder("hf:/no/such/folder")
    with pytest.raises(SpecError, match="name a model"):
        create_text_encoder("hf:")


def test_weights_that_do_not_fit_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = copied / "model.safetensors"
    whole = load_file(weights)
    name = "bert.encoder.layer.1.output.dense.weight"
    save_file({key: value for key, value in whole.items() if key != name}, weights, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack.*layer\.1\.output\.dense\.weight"):
        create_text_encoder(f"hf:{copied}")
    save_file({**whole, name: torch.zeros(3, 3)}, weights, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"in another shape: \S*layer\.1\.output\.dense\.weight"):
        create_text_encoder(f"hf:{copied}")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        create_text_encoder(f"hf:{copied}")
    weights.unlink()
    with pytest.raises(WeightsError, match="cannot be loaded"):
        create_text_encoder(f"hf:{copied}")


def test_models_of_another_kind_are_refused(copied: Path) -> None:
    (copied / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(WeightsError, match="no encoder of CLIP's or BERT's kind"):
        create_text_encoder(f"hf:{copied}")
    (copied / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    with pytest.raises(WeightsError, match="names no model that transformers knows"):
        create_text_encoder(f"hf:{copied}")


def test_code_of_a_repository_is_never_run(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "model_type": "evil"}
    (copied / "config.json").write_text(json.dumps({**config, **own}))
    (copied / "evil.py").write_text(f"open({str(copied / 'ran')!r}, 'w')")
    with pytest.raises(WeightsError, match="names no model that transformers knows"):
        create_text_encoder(f"hf:{copied}")
    assert not (copied / "ran").exists()


def test_places_of_roberta_begin_behind_its_padding(copied: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    save(RobertaModel(config), copied)
    encoder = create_text_encoder(f"hf:{copied}")
    assert encoder.encode(["colon " * 13]).isfinite().all()
    with pytest.raises(SpecError, match="has 16 tokens, and hf:copied takes 15"):
        encoder.encode(["colon " * 14])


def test_texts_that_do_not_fit_are_refused(bert: Path) -> None:
    encoder = create_text_encoder(f"hf:{bert}")
    assert encoder.encode(["colon " * 22]).isfinite().all()
    with pytest.raises(SpecError, match="has 25 tokens, and hf:bert takes 24"):
        encoder.encode(["colon " * 23])
    with pytest.raises(SpecError, match="holds no word"):
        encoder.encode([""])


def test_without_transformers_the_extra_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pathotune_pipeline\[transformers\]"):
        create_text_encoder(f"hf:{bert}")
