"""A slide encoder of our own on disk: one safetensors file with its card in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pathotune_pipeline.encoders.checkpoint import tensors_sha256
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import UsageError, WeightsError
from pathotune_pipeline.slide_encoders.card import SlideEncoderCard, SlideEncoderSpec
from pathotune_pipeline.slide_encoders.create import filled
from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder

_CARD = "pathotune_slide_encoder"


def save_slide_encoder(
    path: Path,
    encoder: StagedSlideEncoder,
    *,
    name: str,
    tile_encoder: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> SlideEncoderCard:
    """Write a slide encoder, all or nothing; its folder is made. `local:FILE` takes it.

    Args:
        path: ends in .safetensors.
        encoder: as `create_slide_encoder` made it, trained since or not.
        name: for people, and in the names of sets.
        tile_encoder: whose features it was trained on; None keeps what the card says.
        training: plain values for the card: data, settings, metrics.

    Returns:
        the card, as the file holds it.

    Raises:
        UsageError: another suffix, or an encoder without parameters.
    """
    if path.suffix != ".safetensors":
        raise UsageError(f"slide encoder file {path}: its name must end in .safetensors.")
    tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in encoder.state_dict().items()}
    if not tensors:
        raise UsageError(f"slide encoder file {path.name}: {encoder.name} has no weights to keep. Name it instead.")
    digest = tensors_sha256(tensors)
    card = encoder.card.with_values(
        name=name,
        source="local",
        tile_encoder=tile_encoder or encoder.card.tile_encoder,
        weights_sha256=digest,
        seed=None,
        training=dict(training or {}),
        note=encoder.card.note if digest == encoder.card.weights_sha256 else "",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata={_CARD: card.model_dump_json()}))
    return card


def local_encoder(spec: SlideEncoderSpec, in_dim: int | None) -> StagedSlideEncoder:
    """`local:FILE`, a file of `save_slide_encoder`.

    Raises:
        WeightsError: nothing lies there, it is no slide encoder of this package, or it is damaged.
    """
    path = Path(spec.name.partition(":")[2]).expanduser()
    asked = f"local:{path.name}"
    if not path.is_file():
        raise WeightsError(f"{asked}: nothing lies at {path}. Give the .safetensors file of a slide encoder.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_CARD)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{asked}: cannot be read ({error}). Copy or train it again.") from error
    if text is None:
        raise WeightsError(
            f"{asked}: is no slide encoder of this package. Weights of a published one go with its name and --weights FILE."
        )
    try:
        card = SlideEncoderCard.parse(json.loads(text), asked)
        encoder = filled(card, tensors, asked)
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{asked}: its card cannot be read ({error}). A newer version may have written it."
        ) from error
    if encoder.card != card:
        raise WeightsError(f"{asked}: its tensors are not those that its card tells of. Copy or train it again.")
    return encoder
