"""An encoder whose weights were changed, as a folder that `local:FOLDER` takes like any other.

An encoder of the catalogue becomes a bundle with its card; one of timm's becomes a folder as timm's `save_for_hf` lays
it out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pathotune_pipeline.encoders.bundle import CARD_FILE, FORMAT, is_bundle, read_bundle
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.catalogue import CatalogueCard, find_card
from pathotune_pipeline.encoders.checkpoint import file_sha256, local_folder, read_config
from pathotune_pipeline.encoders.network import with_pooling
from pathotune_pipeline.encoders.remote import repository_config
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import SpecError

WEIGHTS = "model.safetensors"


def write_encoder(
    folder: Path, state: Mapping[str, Tensor], *, card: EncoderCard, spec: EncoderSpec, changed: str
) -> None:
    """Write an encoder's changed weights beside what tells how its network is built.

    Args:
        folder: made where it is absent; files of the same names are replaced. Its name becomes the encoder's.
        state: the network's state dict, of `Encoder.module`.
        card: of the encoder before.
        spec: what the encoder was made of.
        changed: one sentence on what was done to the weights.

    Raises:
        SpecError: the encoder's network cannot be built from a folder.
    """
    layout = folder_layout(card, spec, name=folder.name)
    if isinstance(layout, CatalogueCard):
        _write_weights(folder, state)
        facts = {"bytes": (folder / WEIGHTS).stat().st_size, "sha256": file_sha256(folder / WEIGHTS)}
        told = layout.with_values(verified="never", note=f"{layout.note} {changed}".strip())
        content = {
            "format": FORMAT,
            "card": told.model_dump(mode="json"),
            "weights": WEIGHTS,
            "files": {WEIGHTS: facts},
        }
        _write_json(folder / CARD_FILE, content)
    else:
        write_timm_folder(folder, state, {**layout, "note": changed})


def write_timm_folder(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a network as timm's `save_for_hf` lays it out.

    Args:
        folder: made where it is absent; files of the same names are replaced.
        state: the network's state dict; stored as float32.
        config: of `network_config`, and plain values beside.
    """
    _write_weights(folder, state)
    _write_json(folder / "config.json", config)


def _write_weights(folder: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, save(tensors))


def folder_layout(card: EncoderCard, spec: EncoderSpec, *, name: str) -> CatalogueCard | dict[str, Any]:
    """What tells how an encoder's network is built from a folder: a bundle's card, or a `config.json`.

    Args:
        card: of the encoder.
        spec: what it was made of.
        name: the folder's.

    Raises:
        SpecError: the encoder's network cannot be built from a folder.
        WeightsError: what it was made of is there no more.
    """
    return _bundle_card(card, spec, name) or timm_config(card, spec)


def timm_config(card: EncoderCard, spec: EncoderSpec) -> dict[str, Any]:
    """The `config.json` of a timm network without a classifier.

    Args:
        card: of the encoder.
        spec: what it was made of: timm:NAME, local:PATH or hf-hub:ORG/NAME.

    Raises:
        SpecError: it comes from elsewhere.
        WeightsError: what it was made of is there no more.
    """
    match card.source:
        case "timm":
            found: dict[str, Any] = {"architecture": spec.name.removeprefix("timm:").partition(".")[0]}
        case "local":
            path = Path(spec.name.removeprefix("local:")).expanduser()
            found = read_config(local_folder(path, spec.name), spec.name)
        case "hf-hub":
            found = repository_config(spec.name.removeprefix("hf-hub:"), spec.name)
        case _:
            raise SpecError(
                f"{card.name}: its network is built by code of its own ({card.source}), so its weights cannot be written "
                "as an encoder's folder. Use an adapter: vpt-deep, pathotune or lora."
            )
    return network_config(str(found["architecture"]), found.get("model_args") or {}, card)


def network_config(architecture: str, arguments: Mapping[str, Any], card: EncoderCard) -> dict[str, Any]:
    """The `config.json` with which timm builds a network without a classifier, and resizes and normalises as its card says.

    Args:
        architecture: timm's name of it.
        arguments: what timm is given beside the name; plain values.
        card: dim, input_px, mean, std, interpolation, licence.
    """
    side = card.input_px or card.tile_px
    seen: dict[str, Any] = {
        "input_size": [3, side, side],
        "mean": card.mean,
        "std": card.std,
        "interpolation": card.interpolation,
        "crop_pct": 1.0,
        "num_classes": 0,
    }
    if card.licence:
        seen["license"] = card.licence
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": card.dim,
        "model_args": {**arguments, "num_classes": 0},
        "pretrained_cfg": seen,
    }


def _bundle_card(card: EncoderCard, spec: EncoderSpec, name: str) -> CatalogueCard | None:
    if card.source != "catalogue":
        return None
    path = Path(spec.name.removeprefix("local:")).expanduser()
    base = read_bundle(path, spec.name).card if is_bundle(path) else find_card(card.name)
    return with_pooling(base, card.pooling or "card").with_values(name=_card_name(name, base.name), aliases=())


def _card_name(folder: str, base: str) -> str:
    """The folder's name as cards may be called, behind the encoder's."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in folder.lower())
    return f"{base}-{plain.strip('-') or 'adapted'}"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
