"""An adapter on disk: one safetensors file with its card in the metadata, and no weights of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork, attach
from pathotune_pipeline.adapt.card import RECONSTRUCTION, AdapterCard, TextCard
from pathotune_pipeline.adapt.tensor_file import TensorFile, changed, differences, plain_state, unfitting
from pathotune_pipeline.encoders.card import EncoderCard
from pathotune_pipeline.encoders.checkpoint import tensors_sha256
from pathotune_pipeline.errors import SpecError, UsageError

_FILE = TensorFile(AdapterCard, "pathotune_adapter", "adapter", "pathotune adapt", "adapter.safetensors")
_TEXTS = "text.embeddings"


def save_adapter(
    path: Path,
    adapted: AdaptedNetwork,
    *,
    backbone: EncoderCard,
    name: str,
    text: TextCard | None = None,
    training: Mapping[str, Any] | None = None,
) -> AdapterCard:
    """Write an adapter, all or nothing; its folder is made.

    Args:
        path: ends in .safetensors.
        adapted: the trained adapter; its tensors are stored as float32.
        backbone: card of the encoder it was attached to.
        name: for people.
        text: of the embedded texts it holds.
        training: plain values for the card: data, settings, seeds, versions, metrics.

    Returns:
        the card, as the file holds it.

    Raises:
        UsageError: another suffix; the backbone's weights have no SHA-256; texts without a card, or a card without texts.
    """
    _FILE.check_name(path)
    if backbone.weights_sha256 is None:
        raise UsageError(
            f"adapter file {path.name}: {backbone.name} has no SHA-256 of its weights to be known by again."
        )
    tensors = plain_state(adapted.adapter)
    found = len(tensors[_TEXTS]) if _TEXTS in tensors else 0
    told = len(text.texts) if text else 0
    if found != told:
        raise UsageError(
            f"adapter file {path.name}: the adapter holds {found} texts and the card names {told}. Give them all."
        )
    card = AdapterCard(
        name=name,
        spec=adapted.spec,
        backbone=backbone,
        text=text,
        parameters=sum(parameter.numel() for parameter in adapted.adapter.parameters()),
        sha256=tensors_sha256(tensors),
        training=dict(training or {}),
        note=RECONSTRUCTION if adapted.spec.method == "pathotune" else "",
    )
    _FILE.write(path, tensors, card)
    return card


def read_adapter_card(path: Path) -> AdapterCard:
    """The card of an adapter file; its tensors are not read.

    Raises:
        UsageError: nothing lies there, or it is no adapter of this package.
        CorruptDataError: the file is damaged.
    """
    return _FILE.read(path, tensors=False)[0]


def load_adapter(path: Path, module: nn.Module, card: EncoderCard) -> AdaptedNetwork:
    """Put a stored adapter on the encoder it was trained on.

    Args:
        path: of `save_adapter`.
        module: the encoder's network; left as it is.
        card: the encoder's.

    Returns:
        the adapted network, in eval mode.

    Raises:
        UsageError: nothing lies there, it is no adapter, or one of another encoder.
        CorruptDataError: the file is damaged, or its tensors are not those its card tells of.
    """
    stored, tensors = _FILE.read(path, tensors=True)
    _refuse_another(path, stored.backbone, card)
    if tensors_sha256(tensors) != stored.sha256:
        raise changed(path)
    try:
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten, and nobody's stream is moved
            adapted = attach(module, stored.spec, texts=tensors.get(_TEXTS))
        adapted.adapter.load_state_dict(tensors)
    except (SpecError, RuntimeError) as error:
        raise unfitting(path, error) from error
    return adapted.eval()


def _refuse_another(path: Path, asked: EncoderCard, found: EncoderCard) -> None:
    """Raise unless both cards stand for the same features."""
    facts = differences(asked.recipe(), found.recipe())
    if not facts:
        return
    raise UsageError(
        f"adapter file {path}: it was trained on {asked.name} ({asked.architecture}), and this encoder, {found.name} "
        f"({found.architecture}), is another: {facts}. Use the encoder it was trained on, or train one for this encoder."
    )
