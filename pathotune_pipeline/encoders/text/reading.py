"""A text through a tokenizer, whole or not at all."""

from __future__ import annotations

from typing import Any

import torch

from pathotune_pipeline.errors import SpecError


def read_whole(tokenizer: Any, text: str, *, most: int, reader: str) -> tuple[list[int], torch.Tensor]:
    """A text's tokens. A text that is too long is refused: class names stand at its end, and would be cut off unseen.

    Args:
        tokenizer: of transformers.
        text: not padded, not cut.
        most: tokens that the reader takes, special ones included.
        reader: its name, for messages.

    Returns:
        The tokens' numbers, and bool [tokens]: which are not special.

    Raises:
        SpecError: it has more tokens, or no word.
    """
    encoded = tokenizer(text, return_special_tokens_mask=True, truncation=False, verbose=False)
    ids = [int(number) for number in encoded["input_ids"]]
    if len(ids) > most:
        raise SpecError(
            f"The text {text[:60]!r}... has {len(ids)} tokens, and {reader} takes {most}. Shorten it, or take a text encoder "
            "that reads more."
        )
    words = ~torch.tensor(encoded["special_tokens_mask"], dtype=torch.bool)
    if not words.any():
        raise SpecError(f"The text {text!r} holds no word. Give one.")
    return ids, words
