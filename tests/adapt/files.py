"""Adapter files as training would leave them, for small encoders in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pathotune_pipeline.adapt.attach import attach
from pathotune_pipeline.adapt.card import AdapterCard, TextCard
from pathotune_pipeline.adapt.file import save_adapter
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.text import create_text_encoder
from tests.adapt.toys import spec_of

TASKS = ("grading", "typing")
NOTE = "hash-ngram knows no language"


def write_adapter(
    file: Path, folder: Path, method: str = "vpt-deep", *, seed: int = 1, tasks: int = 1, **changes: Any
) -> AdapterCard:
    """An adapter whose every tensor has left its start, on the encoder of a folder; named as its file."""
    encoder = create_encoder(EncoderSpec(name=f"local:{folder}"))
    spec = spec_of(method, **changes)
    reader = create_text_encoder(spec.text_encoder, n_tokens=spec.n_text)
    texts = tuple(f"image for {task}" for task in TASKS[:tasks])
    asked = spec.needs_texts()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = attach(encoder.module, spec, texts=reader.encode(texts) if asked else None)
        with torch.no_grad():
            for parameter in adapted.adapter.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    text = TextCard(texts=texts, encoder=reader.name, encoder_sha256=reader.sha256, note=NOTE) if asked else None
    return save_adapter(file, adapted, backbone=encoder.card, name=file.stem, text=text, training={"seed": seed})
