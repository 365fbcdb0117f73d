"""What a text encoder is, and how a text of any length becomes a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

REVISION = 1
"""Raised when `summary_and_parts` or what is asked of a language model changes embeddings."""


class TextEncoder(Protocol):
    """A frozen encoder of texts.

    Every text becomes `n_tokens` vectors, whatever its length, so that nothing is padded and no mask is needed: first
    the encoder's own summary of the text, then the means of equal parts of its words in their order.

    Attributes:
        name: as cards show it: a name or an id, never a path.
        dim: length d of a vector.
        n_tokens: vectors a text, T.
        learned: whether it was trained on language. One that was not tells texts apart and knows nothing of them.
        sha256: of all that decides its vectors: weights, tokenizer, settings.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    @property
    def learned(self) -> bool: ...

    @property
    def sha256(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Vectors of texts; a text's do not depend on those beside it.

        Args:
            texts: K of them.

        Returns:
            float32 [K, T, d] on the CPU, without gradient.

        Raises:
            SpecError: a text is empty, or longer than the encoder takes.
        """
        ...


def summary_and_parts(summary: torch.Tensor, words: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """A text's fixed number of tokens.

    Part i of P = T - 1 is the mean of words floor(i W / P) to ceil((i + 1) W / P): neighbours share a word where W is
    not a multiple of P, and parts repeat words where there are fewer than P.

    Args:
        summary: float32 [d], the encoder's own summary.
        words: float32 [W, d], at least one.
        n_tokens: T; with 1 the summary stands alone.

    Returns:
        float32 [T, d].
    """
    import torch
    import torch.nn.functional as F

    if n_tokens == 1:
        return summary[None]
    parts = F.adaptive_avg_pool1d(words.T[None], n_tokens - 1)[0].T
    return torch.cat([summary[None], parts])
