"""The tasks' texts, and what a frozen text encoder makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pathotune_pipeline.adapt.card import TextCard
from pathotune_pipeline.encoders.text import create_text_encoder, embed_texts, text_cache
from pathotune_pipeline.tuning.run.spec import ADAPTERS, AdaptSpec


def embed_tasks(
    tasks: Sequence[tuple[Sequence[str], Mapping[str, str]]], spec: AdaptSpec
) -> tuple[TextCard, Tensor] | None:
    """The tasks' texts and their embeddings, float32 [K, T, d]; None where the method reads none.

    Args:
        tasks: class names, and settings of the adapter that make the text, of each.
        spec: method and adapter.

    Raises:
        SpecError: a text cannot be made or embedded.
        WeightsError: the text encoder's weights cannot be had.
    """
    adapter = spec.adapter.with_values(method=spec.method) if spec.method in ADAPTERS else None
    if adapter is None or not adapter.needs_texts():
        return None
    texts = tuple(adapter.with_values(**words).text(classes) for classes, words in tasks)
    encoder = create_text_encoder(adapter.text_encoder, n_tokens=adapter.n_text)
    note = "" if encoder.learned else f"{encoder.name} tells texts apart and knows nothing of their meaning"
    card = TextCard(texts=texts, encoder=encoder.name, encoder_sha256=encoder.sha256, note=note)
    return card, embed_texts(encoder, texts, text_cache() if encoder.learned else None)
