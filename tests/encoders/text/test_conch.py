"""CONCH's text tower through a stand-in for its authors' package: what is asked of it, and what is made of its answer."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pathotune_pipeline.encoders.text import conch, create_text_encoder
from pathotune_pipeline.errors import MissingExtraError, SpecError, WeightsError
from tests.encoders.text.models import WORDS

PLACES = 12


class Tower(nn.Module):
    """Takes ids [B, 11], puts a class token behind them, and gives (projected summary, tokens before the norm)."""

    def __init__(self, *, context_length: int, width: int, output_dim: int, **rest: Any) -> None:
        super().__init__()
        self.context_length, self.width = context_length, width
        self.cls_emb = nn.Parameter(torch.randn(width))
        self.token_embedding = nn.Embedding(32, width)
        self.mix = nn.Linear(width, width)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, output_dim))

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert ids.shape[1] == self.context_length - 1
        embedded = self.token_embedding(ids)
        summary = self.cls_emb + (embedded * (ids > 0)[..., None]).mean(1)
        return self.ln_final(self.mix(summary)) @ self.text_projection, self.mix(embedded)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ("<pad>", "<start_of_text>", "<end_of_text>", "<unk>")
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*marks, *WORDS))}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{marks[1]} $A {marks[2]}", special_tokens=[(marks[1], 1), (marks[2], 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=marks[1], eos_token=marks[2], pad_token=marks[0])


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> Tower:
    """The package `conch` as far as it is used, and a tower whose weights are to be found in a file."""
    pytest.importorskip("transformers")
    small = {**conch.TOWER, "context_length": PLACES, "width": 16, "output_dim": 8}
    monkeypatch.setattr(conch, "TOWER", small)
    for name, contents in {
        "conch": {},
        "conch.open_clip_custom": {},
        "conch.open_clip_custom.transformer": {"TextTransformer": Tower},
        "conch.open_clip_custom.custom_tokenizer": {"get_tokenizer": tokenizer},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    torch.manual_seed(0)
    return Tower(**small).eval()


def checkpoint(tower: nn.Module, file: Path, **more: torch.Tensor) -> Path:
    text = {f"text.{name}": tensor for name, tensor in tower.state_dict().items()}
    torch.save({**text, "visual.trunk.pos_embed": torch.zeros(3), "logit_scale": torch.ones(()), **more}, file)
    return file


def test_the_summary_is_what_the_tower_projects(tower: Tower, tmp_path: Path) -> None:
    file = checkpoint(tower, tmp_path / "pytorch_model.bin")
    encoder = create_text_encoder(f"conch:{file}", n_tokens=3)
    assert (encoder.name, encoder.dim, encoder.n_tokens, encoder.learned) == ("conch", 16, 3, True)
    (tokens,) = encoder.encode(["colon image"])
    ids = torch.tensor([[1, 4 + WORDS.index("colon"), 4 + WORDS.index("image"), 2, *[0] * 7]])
    with torch.inference_mode():
        projected, states = tower(ids)
        words = tower.ln_final(states[0, 1:3])
        torch.testing.assert_close(tokens[0] @ tower.text_projection, projected[0])
    torch.testing.assert_close(tokens[1:], words)
    assert encoder.sha256 != create_text_encoder(f"conch:{file}", n_tokens=2).sha256


def test_texts_and_files_that_are_refused(tower: Tower, tmp_path: Path) -> None:
    encoder = create_text_encoder(f"conch:{checkpoint(tower, tmp_path / 'pytorch_model.bin')}")
    assert encoder.encode(["colon " * 9]).shape == (1, 8, 16)
    with pytest.raises(SpecError, match="has 12 tokens, and conch takes 11"):
        encoder.encode(["colon " * 10])
    with pytest.raises(SpecError, match="holds no word"):
        encoder.encode([" "])
    with pytest.raises(WeightsError, match=r"does not fit.*extra is unexpected"):
        create_text_encoder(f"conch:{checkpoint(tower, tmp_path / 'more.bin', **{'text.extra': torch.ones(1)})}")
    torch.save({"visual.trunk.pos_embed": torch.zeros(3)}, tmp_path / "eyes.bin")
    with pytest.raises(WeightsError, match="holds no text tower"):
        create_text_encoder(f"conch:{tmp_path / 'eyes.bin'}")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "conch", None)
    with pytest.raises(MissingExtraError, match=r"needs conch.*mahmoodlab/CONCH.*hash-ngram"):
        create_text_encoder("conch")
