"""The hashed encoder, and the cache of embeddings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from pathotune_pipeline.encoders.text import create_text_encoder, embed_texts, text_cache
from pathotune_pipeline.encoders.text.encoder import summary_and_parts
from pathotune_pipeline.errors import SpecError, UnknownNameError

TEXTS = ("H&E-stained colon image; classes: tumour, stroma", "IHC-stained lung image", "IHC-stained lung images")


class Counted:
    """Another encoder that keeps count of the texts it was given."""

    learned = False

    def __init__(self, n_tokens: int = 4, sha256: str = "") -> None:
        self._inner = create_text_encoder("hash-ngram", n_tokens=n_tokens)
        self.name, self.dim, self.n_tokens = "counted", self._inner.dim, n_tokens
        self.sha256 = sha256 or self._inner.sha256
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        self.seen += texts
        return self._inner.encode(texts)


def test_hashing_is_the_same_everywhere_and_depends_on_the_words() -> None:
    encoder = create_text_encoder("hash-ngram")
    tokens = encoder.encode(TEXTS)
    assert tokens.shape == (3, encoder.n_tokens, encoder.dim)
    assert tokens.dtype == torch.float32
    assert (encoder.name, encoder.learned) == ("hash-ngram", False)
    torch.testing.assert_close(tokens[:, 0].norm(dim=1), torch.ones(3))
    assert torch.equal(encoder.encode([TEXTS[1].upper()]), tokens[1:2])
    near, far = (float(tokens[1, 0] @ tokens[other, 0]) for other in (2, 0))
    assert 1 - 1e-6 > near > far
    code = (
        "from pathotune_pipeline.encoders.text import create_text_encoder\n"
        f"print(create_text_encoder('hash-ngram').encode([{TEXTS[0]!r}]).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(tokens[:1].tolist())


def test_parts_keep_the_order_of_words() -> None:
    encoder = create_text_encoder("hash-ngram", n_tokens=3)
    one, two = encoder.encode(["colon image", "image colon"])
    torch.testing.assert_close(one[0], two[0])
    torch.testing.assert_close(one[1], two[2])
    assert not torch.allclose(one[1], two[1])


@pytest.mark.parametrize("words", [1, 3, 5, 11])
@pytest.mark.parametrize("n_tokens", [1, 2, 5])
def test_a_text_of_any_length_becomes_so_many_tokens(words: int, n_tokens: int) -> None:
    rows, summary = torch.randn(words, 6), torch.randn(6)
    parts = n_tokens - 1
    expected = [summary]
    for part in range(parts):
        begin, end = part * words // parts, -(-(part + 1) * words // parts)
        expected.append(rows[begin:end].mean(0))
    torch.testing.assert_close(summary_and_parts(summary, rows, n_tokens), torch.stack(expected))


def test_a_text_is_encoded_once(tmp_path: Path) -> None:
    encoder = Counted()
    first = embed_texts(encoder, [*TEXTS, TEXTS[0]], tmp_path)
    assert encoder.seen == list(TEXTS)
    assert torch.equal(first[0], first[3])
    again = Counted()
    assert torch.equal(embed_texts(again, TEXTS[::-1], tmp_path), first[:3].flip(0))
    assert again.seen == []
    others = Counted(n_tokens=2), Counted(sha256="f" * 64)
    for other in others:
        embed_texts(other, TEXTS[:1], tmp_path)
        assert other.seen == [TEXTS[0]]
    assert len(list(tmp_path.iterdir())) == 5
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"]


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_embedding_is_made_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = embed_texts(Counted(), TEXTS[:1], tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "other": b"no tensors at all"}[damage])
    encoder = Counted()
    assert torch.equal(embed_texts(encoder, TEXTS[:1], tmp_path), expected)
    assert encoder.seen == [TEXTS[0]]
    assert "made anew" in caplog.text
    again = Counted()
    assert torch.equal(embed_texts(again, TEXTS[:1], tmp_path), expected)
    assert again.seen == []


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    expected = create_text_encoder("hash-ngram", n_tokens=4).encode(TEXTS[:1])
    assert torch.equal(embed_texts(Counted(), TEXTS[:1], tmp_path / "file"), expected)
    assert "cannot be kept" in caplog.text


def test_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert text_cache() == tmp_path / "pathotune" / "texts"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert text_cache() == tmp_path / "home" / ".cache" / "pathotune" / "texts"


def test_without_a_cache_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert embed_texts(Counted(), TEXTS).shape == (3, 4, 256)
    assert embed_texts(Counted(), []).shape == (0, 4, 256)
    assert not list(tmp_path.iterdir())


def test_names_and_texts_that_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"text encoder is called 'hash-ngrams'.*Did you mean 'hash-ngram'"):
        create_text_encoder("hash-ngrams")
    with pytest.raises(SpecError, match="takes nothing after its name"):
        create_text_encoder("hash-ngram:x")
    with pytest.raises(SpecError, match="at least 1 token"):
        create_text_encoder("hash-ngram", n_tokens=0)
    with pytest.raises(SpecError, match="holds no word"):
        create_text_encoder("hash-ngram").encode([" -- "])
