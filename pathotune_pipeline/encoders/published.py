"""Encoders of the catalogue at work: weights from the hub, its cache, a file or a bundle, loaded strictly."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pathotune_pipeline.encoders.bundle import how_to_get, is_bundle, read_bundle
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.catalogue import CatalogueCard, find_card
from pathotune_pipeline.encoders.checkpoint import read_weights, state_sha256
from pathotune_pipeline.encoders.convert import load_strictly
from pathotune_pipeline.encoders.hub import hub_errors, hub_file
from pathotune_pipeline.encoders.network import build_network, with_pooling
from pathotune_pipeline.errors import WeightsError


def catalogue_encoder(spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """A name of the catalogue, with weights from `spec.weights` or else from the hub or its cache.

    Raises:
        UnknownNameError: the catalogue has no such name.
        SpecError: its tokens cannot be pooled as asked.
        WeightsError: the weights are gated, absent, damaged, or those of another network.
    """
    card = find_card(spec.name)
    return card_encoder(card, find_weights(card, spec.weights), spec)


def bundled_encoder(folder: Path, spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """A bundle as `pathotune encoders fetch` writes it; its own card says how the network is built.

    Raises:
        WeightsError: the bundle is damaged or its weights do not fit.
    """
    bundle = read_bundle(folder, spec.name)
    return card_encoder(bundle.card, bundle.weights, spec)


def find_weights(card: CatalogueCard, given: str | None) -> Path:
    """The weights' file of a card.

    Args:
        card: of the encoder.
        given: a file or a bundle's folder; None for the hub or its cache.

    Raises:
        WeightsError: there is none, or it is a bundle of another encoder.
    """
    if given is None:
        if card.hub is None:
            raise WeightsError(f"{card.name}: its weights are not on the hub. {how_to_get(card)}")
        with hub_errors(card.name, card.page, hint=how_to_get(card)):
            return hub_file(card.hub, card.weight_files)
    path = Path(given).expanduser()
    if path.is_file():
        return path
    if is_bundle(path):
        bundle = read_bundle(path, f"--weights {path.name}")
        if bundle.card.name != card.name:
            raise WeightsError(
                f"--weights {path.name}: is a bundle of {bundle.card.name}, and {card.name} was asked for."
            )
        return bundle.weights
    for name in card.weight_files:
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"{card.name}: --weights {given} is neither a file nor a folder with {' or '.join(card.weight_files)}. Check the path."
    )


def card_encoder(card: CatalogueCard, weights: Path, spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """A card's network filled from a file, and the encoder's card with the digest of what was loaded.

    Raises:
        SpecError: its tokens cannot be pooled as asked, or timm cannot build it.
        WeightsError: the file cannot be read or does not fit.
    """
    card = with_pooling(card, spec.pooling)
    asked = f"{card.name} from {weights.name}"
    with torch.device("meta"):
        network = build_network(card)
    if _computes_buffers(network):  # tables that no checkpoint holds would stay empty
        network = build_network(card)
    load_strictly(network, read_weights(weights, asked), asked, resample_positions=card.resample_positions)
    return network, encoder_card(card, state_sha256(network))


def encoder_card(card: CatalogueCard, weights_sha256: str | None) -> EncoderCard:
    """A catalogue card as the encoder's: what decides the features, and what is recommended."""
    return EncoderCard(
        name=card.name,
        source="catalogue",
        architecture=card.architecture if card.tower == "timm" else f"{card.tower}:{card.architecture}",
        dim=card.dim,
        input_px=card.input_px,
        resize_px=card.resize_px if card.resize_px != card.input_px else None,
        pooling=card.pooling,
        tile_px=card.tile_px,
        mpp=card.mpp,
        mean=card.mean,
        std=card.std,
        interpolation=card.interpolation,
        licence=card.licence,
        weights_sha256=weights_sha256,
    )


def _computes_buffers(network: nn.Module) -> bool:
    kept = set(network.state_dict())
    return any(name not in kept for name, _ in network.named_buffers())
