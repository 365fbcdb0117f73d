"""Encoders through timm: from its own catalogue, from the Hugging Face hub, or from a local folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from pathotune_pipeline.encoders.bundle import is_bundle
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.checkpoint import local_folder, read_config, state_sha256
from pathotune_pipeline.encoders.hub import hub_errors
from pathotune_pipeline.encoders.published import bundled_encoder
from pathotune_pipeline.encoders.remote import remote_encoder, repository_config
from pathotune_pipeline.errors import SpecError, UnknownNameError, WeightsError
from pathotune_pipeline.registry import nearest


def timm_encoder(spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """`timm:NAME`: a network of timm's catalogue with its published weights.

    Raises:
        UnknownNameError: timm knows no such network.
        WeightsError: it has no weights, or they cannot be had.
    """
    import timm

    name = spec.name.removeprefix("timm:")
    if not timm.is_model(name.split(".")[0]):
        raise UnknownNameError(
            f"timm knows no network {name!r}.{nearest(name, timm.list_models())} See timm.list_models()."
        )
    if not timm.is_model_pretrained(name):
        raise WeightsError(
            f"{spec.name}: timm has no weights for it. Choose one of timm.list_pretrained(), or use local:PATH."
        )
    return _build(spec, name, "timm")


def hub_encoder(spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """`hf-hub:ORG/NAME`, or `hf-hub:ORG/NAME@COMMIT`: a repository of the Hugging Face hub in timm's layout.

    Raises:
        WeightsError: the repository is absent, gated, out of reach, or needs code of its own that was not allowed.
    """
    repository = spec.name.removeprefix("hf-hub:")
    config = repository_config(repository, spec.name)
    if "architecture" not in config:
        return remote_encoder(spec, repository, config)
    return _build(spec, spec.name, "hf-hub")


def local_encoder(spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """`local:PATH`: a bundle of `pathotune encoders fetch`, or a folder as timm's `save_for_hf` writes it.

    Raises:
        WeightsError: the folder is not of that form, or the weights do not fit.
    """
    path = Path(spec.name.removeprefix("local:")).expanduser()
    if is_bundle(path):
        return bundled_encoder(path, spec)
    folder = local_folder(path, spec.name)
    read_config(folder, spec.name)
    return _build(spec, f"local-dir:{folder}", "local")


def _build(spec: EncoderSpec, identifier: str, source: Any) -> tuple[nn.Module, EncoderCard]:
    if spec.pooling != "card":
        raise SpecError(
            f"--pooling goes with an encoder of the catalogue or its bundle, not with {spec.name}. Leave it out."
        )
    model = _create(spec.name, identifier)
    config = model.pretrained_cfg or {}
    # timm loads strictly only with the class count the weights were saved with; the classifier goes afterwards.
    model.reset_classifier(0)
    import timm.data

    data = timm.data.resolve_model_data_config(model)
    side = int(data["input_size"][-1])
    card = EncoderCard(
        name=spec.name if source != "local" else f"local:{Path(identifier.removeprefix('local-dir:')).name}",
        source=source,
        architecture=str(config.get("architecture") or type(model).__name__),
        dim=int(model.num_features if not hasattr(model, "head_hidden_size") else model.head_hidden_size),
        input_px=side,
        tile_px=side,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation="bilinear" if data["interpolation"] == "bilinear" else "bicubic",
        licence=config.get("license"),
        weights_sha256=state_sha256(model),
    )
    return model, card


def _create(asked: str, identifier: str) -> Any:
    import timm

    try:
        with hub_errors(asked, asked.removeprefix("hf-hub:")), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(identifier, pretrained=True)
    except RuntimeError as error:
        raise WeightsError(
            f"{asked}: the weights do not fit the architecture: {' '.join(str(error).split())[:300]}"
        ) from error
