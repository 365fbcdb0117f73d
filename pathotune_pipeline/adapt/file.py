"""An adapter on disk: one safetensors file with its card in the metadata, and no weights of the backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork, attach
from pathotune_pipeline.adapt.card import RECONSTRUCTION, AdapterCard, TextCard
from pathotune_pipeline.encoders.card import EncoderCard
from pathotune_pipeline.encoders.checkpoint import tensors_sha256
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import CorruptDataError, SpecError, UsageError

_CARD = "pathotune_adapter"
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
    if path.suffix != ".safetensors":
        raise UsageError(f"adapter file {path}: its name must end in .safetensors.")
    if backbone.weights_sha256 is None:
        raise UsageError(
            f"adapter file {path.name}: {backbone.name} has no SHA-256 of its weights to be known by again."
        )
    tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in adapted.adapter.state_dict().items()}
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
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata={_CARD: card.model_dump_json()}))
    return card


def read_adapter_card(path: Path) -> AdapterCard:
    """The card of an adapter file; its tensors are not read.

    Raises:
        UsageError: nothing lies there, or it is no adapter of this package.
        CorruptDataError: the file is damaged.
    """
    return _read(path, tensors=False)[0]


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
    stored, tensors = _read(path, tensors=True)
    _refuse_another(path, stored.backbone, card)
    if tensors_sha256(tensors) != stored.sha256:
        raise CorruptDataError(f"{path}: its tensors are not those that its card tells of. Copy or train it again.")
    try:
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten, and nobody's stream is moved
            adapted = attach(module, stored.spec, texts=tensors.get(_TEXTS))
        adapted.adapter.load_state_dict(tensors)
    except (SpecError, RuntimeError) as error:
        first = " ".join(str(error).split())[:300]
        raise CorruptDataError(
            f"{path}: its tensors do not fit what its card says ({first}). Train it again."
        ) from error
    return adapted.eval()


def _read(path: Path, *, tensors: bool) -> tuple[AdapterCard, dict[str, Tensor]]:
    if path.is_dir():
        raise UsageError(f"adapter file {path}: is a folder. Give the file in it: {path / 'adapter.safetensors'}.")
    if not path.is_file():
        raise UsageError(f"adapter file {path}: nothing lies there. Give a file of `pathotune adapt`.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_CARD)
            loaded = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise CorruptDataError(f"{path}: cannot be read ({error}). Copy or train it again.") from error
    if text is None:
        raise UsageError(f"adapter file {path}: it is a safetensors file, and no adapter of this package.")
    try:
        return AdapterCard.parse(json.loads(text), str(path)), loaded
    except (ValueError, TypeError) as error:
        raise CorruptDataError(
            f"{path}: its card cannot be read ({error}). A newer version may have written it."
        ) from error


def _refuse_another(path: Path, asked: EncoderCard, found: EncoderCard) -> None:
    """Raise unless both cards stand for the same features."""
    one, other = asked.recipe(), found.recipe()
    differing = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    if not differing:
        return
    facts = "; ".join(
        f"{key}: {_short(one.get(key))} there, {_short(other.get(key))} here" for key in sorted(differing)
    )
    raise UsageError(
        f"adapter file {path}: it was trained on {asked.name} ({asked.architecture}), and this encoder, {found.name} "
        f"({found.architecture}), is another: {facts}. Use the encoder it was trained on, or train one for this encoder."
    )


def _short(value: object) -> str:
    return f"{value:.12}..." if isinstance(value, str) and len(value) == 64 else str(value)
