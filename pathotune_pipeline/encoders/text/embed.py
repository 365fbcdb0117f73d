"""Embeddings of texts, kept by content: a text and an encoder that were met before cost nothing."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune_pipeline.encoders.text.encoder import TextEncoder

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_NAME = "tokens"


def text_cache() -> Path:
    """This user's folder of kept embeddings: `pathotune/texts` in $XDG_CACHE_HOME, else in ~/.cache. It may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pathotune" / "texts"


def text_key(text: str, encoder_sha256: str) -> str:
    """What an embedding is known by: SHA-256 of the encoder's digest and the text."""
    return hashlib.sha256(f"{encoder_sha256}\n{text}".encode()).hexdigest()


def embed_texts(encoder: TextEncoder, texts: Sequence[str], cache_dir: Path | None = None) -> torch.Tensor:
    """Vectors of texts, from the cache where they lie there.

    Args:
        encoder: which.
        texts: K of them; the encoder sees each text that is not in the cache once.
        cache_dir: folder with a file for each text and encoder, written whole or not at all; several processes may share
            it. None keeps nothing. A damaged file is made anew; where nothing can be written, nothing is kept.

    Returns:
        float32 [K, T, d].

    Raises:
        SpecError: a text is empty, or longer than the encoder takes.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    for text in dict.fromkeys(texts):
        kept = None if cache_dir is None else _read(_path(cache_dir, text, encoder), encoder)
        if kept is not None:
            found[text] = kept
    absent = [text for text in dict.fromkeys(texts) if text not in found]
    if absent:
        for text, tokens in zip(absent, encoder.encode(absent), strict=True):
            found[text] = tokens
            if cache_dir is not None:
                _write(_path(cache_dir, text, encoder), text, encoder, tokens)
    if not texts:
        return torch.empty(0, encoder.n_tokens, encoder.dim)
    return torch.stack([found[text] for text in texts])


def _path(cache_dir: Path, text: str, encoder: TextEncoder) -> Path:
    return cache_dir / f"{text_key(text, encoder.sha256)}.safetensors"


def _read(path: Path, encoder: TextEncoder) -> torch.Tensor | None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tokens = load(path.read_bytes())[_NAME]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, OSError) as error:
        _log.warning("%s: a kept embedding cannot be read (%s); it is made anew.", path.name, error)
        return None
    fits = tokens.shape == (encoder.n_tokens, encoder.dim) and tokens.dtype == torch.float32
    return tokens if fits else None


def _write(path: Path, text: str, encoder: TextEncoder, tokens: torch.Tensor) -> None:
    from safetensors.torch import save

    from pathotune_pipeline.engine.checkpoint import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({_NAME: tokens.contiguous()}, {"text": text, "encoder": encoder.name}))
    except OSError as error:
        _log.warning("An embedded text cannot be kept in %s (%s).", path.parent, error.strerror or error)
