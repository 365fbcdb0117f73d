"""A name to a working encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pathotune_pipeline.encoders import catalogue
from pathotune_pipeline.encoders.card import NO_ADAPTER, EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn

Builder = Callable[[EncoderSpec], "tuple[nn.Module, EncoderCard]"]

ENCODERS: Registry[Builder] = Registry(
    "encoder",
    "pathotune_pipeline.encoders",
    {
        "stain-texture": "pathotune_pipeline.encoders.create:stain_texture_encoder",
        **dict.fromkeys(catalogue.names(), "pathotune_pipeline.encoders.published:catalogue_encoder"),
        "timm": "pathotune_pipeline.encoders.timm:timm_encoder",
        "hf-hub": "pathotune_pipeline.encoders.timm:hub_encoder",
        "local": "pathotune_pipeline.encoders.timm:local_encoder",
    },
)


def stain_texture_encoder(spec: EncoderSpec) -> tuple[nn.Module, EncoderCard]:
    """`stain-texture`: hand-made features without weights, the embedded default and the honest baseline."""
    from pathotune_pipeline.encoders import stain_texture

    card = EncoderCard(
        name=spec.name,
        source="built-in",
        architecture="stain-texture",
        dim=stain_texture.DIM,
        tile_px=256,
        mpp=0.5,
        mean=None,
        std=None,
        licence="Apache-2.0",
        revision=stain_texture.REVISION,
    )
    return stain_texture.StainTexture(), card


def create_encoder(spec: EncoderSpec, *, device: torch.device | str = "cpu") -> Encoder:
    """Build the encoder a Spec names.

    Args:
        spec: name, precision, batch size. The part of the name before ":" picks the builder.
        device: where it runs; `spec.device` is the caller's to resolve.

    Raises:
        UnknownNameError: no encoder of that name.
        SpecError: a setting does not go with it, or it names an adapter (`adapt.create` puts those on).
        WeightsError: its weights are absent, gated, or do not fit.
    """
    import torch

    if {*spec.adapter} - {NO_ADAPTER}:
        raise SpecError(
            "--adapter: the encoder is taken as it is here. Leave it out; it goes with `pathotune extract`."
        )
    kind = spec.name.partition(":")[0]
    builder = ENCODERS.get(kind)
    if kind not in catalogue.names():
        _refuse_catalogue_settings(spec, kind)
    module, card = builder(spec)
    return Encoder(module, card, spec, torch.device(device))


def _refuse_catalogue_settings(spec: EncoderSpec, kind: str) -> None:
    if spec.weights is not None:
        raise SpecError(f"--weights goes with a name of `pathotune encoders list`, not with {spec.name}. Leave it out.")
    if spec.pooling != "card" and kind != "local":  # a bundle has a card of the catalogue in it
        raise SpecError(f"--pooling goes with a name of `pathotune encoders list`, not with {spec.name}. Leave it out.")
