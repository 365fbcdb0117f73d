"""`hash-ngram`: words to vectors by hashing their letters. No weights, no network, the same numbers everywhere.

It was trained on nothing: similar spellings give similar vectors, and meaning has no part in it. It tells the texts of
several tasks apart, and stands in where no language model is at hand. Cards name it, so that nobody takes it for one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pathotune_pipeline.encoders.text.encoder import REVISION, summary_and_parts
from pathotune_pipeline.errors import SpecError

DIM = 256
_SHORTEST, _LONGEST = 3, 5  # letters of an n-gram
_WORD = re.compile(r"\w+")


class HashNgram:
    """Hashed letter n-grams: see `TextEncoder`."""

    name = "hash-ngram"
    dim = DIM
    learned = False

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = n_tokens
        facts = f"{self.name}|{REVISION}|{DIM}|{_SHORTEST}|{_LONGEST}|{n_tokens}"
        self.sha256 = hashlib.sha256(facts.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [K, T, 256]: a word is the unit sum of its signed n-grams, the summary the unit sum of its words.

        Raises:
            SpecError: a text holds neither letters nor digits.
        """
        if not texts:
            return torch.empty(0, self.n_tokens, DIM)
        return torch.stack([self._encode(text) for text in texts])

    def _encode(self, text: str) -> torch.Tensor:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        if not words:
            raise SpecError(f"The text {text!r} holds no word. Give one.")
        vectors = torch.from_numpy(np.stack([_word_vector(word) for word in words]))
        return summary_and_parts(torch.nn.functional.normalize(vectors.sum(0), dim=0), vectors, self.n_tokens)


def hash_ngram_encoder(name: str, n_tokens: int) -> HashNgram:
    """`hash-ngram`.

    Raises:
        SpecError: something follows the name.
    """
    if name != HashNgram.name:
        raise SpecError(f"{name}: hash-ngram takes nothing after its name. Give hash-ngram.")
    return HashNgram(n_tokens)


def _word_vector(word: str) -> np.ndarray:
    vector = np.zeros(DIM, np.float32)
    for gram in _grams(word):
        digest = hashlib.blake2b(gram.encode(), digest_size=8).digest()
        code = int.from_bytes(digest, "little")
        vector[code % DIM] += 1.0 if code >> 63 else -1.0
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector


def _grams(word: str) -> Iterator[str]:
    """The word whole, and its runs of 3 to 5 letters, with marks where it begins and ends."""
    marked = f"<{word}>"
    yield marked
    for length in range(_SHORTEST, min(_LONGEST, len(marked) - 1) + 1):
        yield from (marked[start : start + length] for start in range(len(marked) - length + 1))
