"""A name to a text encoder; outsiders add theirs through entry points."""

from __future__ import annotations

from collections.abc import Callable

from pathotune_pipeline.encoders.text.encoder import TextEncoder
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import Registry

Builder = Callable[[str, int], TextEncoder]
"""Takes the whole name, such as hf:ORG/NAME, and the number of tokens."""

N_TOKENS = 8

TEXT_ENCODERS: Registry[Builder] = Registry(
    "text encoder",
    "pathotune_pipeline.text_encoders",
    {
        "hash-ngram": "pathotune_pipeline.encoders.text.hash_ngram:hash_ngram_encoder",
        "hf": "pathotune_pipeline.encoders.text.huggingface:huggingface_encoder",
        "conch": "pathotune_pipeline.encoders.text.conch:conch_encoder",
    },
)


def create_text_encoder(name: str, *, n_tokens: int = N_TOKENS) -> TextEncoder:
    """Build a text encoder.

    Args:
        name: `hash-ngram`; `hf:ORG/NAME`, `hf:ORG/NAME@COMMIT` or `hf:FOLDER` (CLIP or BERT style); `conch` or
            `conch:FILE`; or a plug-in's. The part before ":" picks the builder.
        n_tokens: vectors a text.

    Raises:
        UnknownNameError: no text encoder of that name.
        SpecError: a setting does not go with it.
        WeightsError: its weights are absent, gated, or do not fit.
        MissingExtraError: it needs a library that is not installed.
    """
    if n_tokens < 1:
        raise SpecError(f"{name}: a text becomes at least 1 token; {n_tokens} were asked for.")
    return TEXT_ENCODERS.get(name.partition(":")[0])(name, n_tokens)
