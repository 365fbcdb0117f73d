"""A name to a slide encoder: published weights, a file of our own, or fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pathotune_pipeline.encoders.checkpoint import read_weights, tensors_sha256
from pathotune_pipeline.encoders.convert import fill
from pathotune_pipeline.encoders.hub import hub_errors, hub_file
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import Registry
from pathotune_pipeline.slide_encoders import catalogue
from pathotune_pipeline.slide_encoders.abmil import GatedPool, GatedPoolSpec
from pathotune_pipeline.slide_encoders.alibi_vit import AlibiViT, AlibiViTSpec
from pathotune_pipeline.slide_encoders.card import Architecture, SlideEncoderCard, SlideEncoderSpec
from pathotune_pipeline.slide_encoders.catalogue import PublishedCard
from pathotune_pipeline.slide_encoders.encoder import StagedSlideEncoder
from pathotune_pipeline.slide_encoders.longnet import LongNet, LongNetSpec
from pathotune_pipeline.slide_encoders.mean import MeanSlideEncoder
from pathotune_pipeline.slide_encoders.published import rename
from pathotune_pipeline.spec import Spec, hashed_values

REVISIONS: dict[Architecture, int] = {"mean": 1, "abmil": 1, "longnet": 1, "alibi-vit": 1}
"""Raised when an architecture's code changes what it computes."""
_NETWORKS: dict[str, tuple[Any, type[Spec]]] = {
    "abmil": (GatedPool, GatedPoolSpec),
    "longnet": (LongNet, LongNetSpec),
    "alibi-vit": (AlibiViT, AlibiViTSpec),
}

Builder = Callable[[SlideEncoderSpec, int | None], StagedSlideEncoder]
"""Takes the Spec, and the length of a tile's feature vector where the caller knows it; sets `card`."""

SLIDE_ENCODERS: Registry[Builder] = Registry(
    "slide encoder",
    "pathotune_pipeline.slide_encoders",
    {
        "mean": "pathotune_pipeline.slide_encoders.create:mean_encoder",
        **dict.fromkeys(
            catalogue.published_by_any_name(), "pathotune_pipeline.slide_encoders.create:published_encoder"
        ),
        "local": "pathotune_pipeline.slide_encoders.file:local_encoder",
        **dict.fromkeys(("longnet", "alibi-vit", "abmil"), "pathotune_pipeline.slide_encoders.create:fresh_encoder"),
    },
)


def create_slide_encoder(spec: SlideEncoderSpec, *, in_dim: int | None = None) -> StagedSlideEncoder:
    """Build the slide encoder a Spec names, on the CPU, in `eval`; its `card` says what it is.

    Args:
        spec: its name and settings.
        in_dim: length of the tiles' feature vectors. Of a mean or an untrained encoder it must be given; a trained one
            has its own, and refuses another.

    Raises:
        UnknownNameError: no slide encoder of that name.
        SpecError: a setting does not go with it, or the tiles' features have another length.
        WeightsError: its weights are absent, gated, or do not fit.
    """
    kind = "mean" if spec.name.startswith("mean-") else spec.name.partition(":")[0]
    builder = SLIDE_ENCODERS.get(kind)
    if spec.weights is not None and kind not in catalogue.published_by_any_name():
        raise SpecError(f"--weights goes with a published slide encoder, not with {spec.name}. Leave it out.")
    if spec.settings and builder is not fresh_encoder:
        raise SpecError(f"{spec.name} has its settings; {', '.join(spec.settings)} cannot be changed. Leave them out.")
    encoder = builder(spec, in_dim)
    if in_dim is not None and encoder.in_dim != in_dim:
        known = f" It was made for features of {encoder.card.tile_encoder}." if encoder.card.tile_encoder else ""
        raise SpecError(f"{spec.name} takes features of {encoder.in_dim} numbers, and these have {in_dim}.{known}")
    return encoder.eval()


def mean_encoder(spec: SlideEncoderSpec, in_dim: int | None) -> StagedSlideEncoder:
    """`mean`, or `mean-ENCODER`, which says whose features it is for."""
    tile_encoder = spec.name.removeprefix("mean").removeprefix("-") or None
    width = _needed(spec, in_dim)
    return with_sha256(
        build(SlideEncoderCard(
            name="mean", source="built-in", architecture="mean", in_dim=width, dim=width, tile_encoder=tile_encoder,
            licence="Apache-2.0", revision=REVISIONS["mean"],
        ))
    )  # fmt: skip


def fresh_encoder(spec: SlideEncoderSpec, in_dim: int | None) -> StagedSlideEncoder:
    """An untrained network; the seed alone draws its weights, and nobody else's draws are moved.

    Raises:
        SpecError: a setting has no such name or value.
    """
    architecture: Any = spec.name
    settings: Any = _NETWORKS[architecture][1].parse(spec.settings, f"slide encoder {spec.name}")
    card = SlideEncoderCard(
        name=spec.name, source="random", architecture=architecture, settings=hashed_values(settings),
        in_dim=_needed(spec, in_dim), dim=settings.dim, seed=spec.seed, revision=REVISIONS[architecture],
        note=f"its weights are random (seed {spec.seed}): a control, or the start of a training",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return with_sha256(build(card))


def published_encoder(spec: SlideEncoderSpec, in_dim: int | None) -> StagedSlideEncoder:
    """A name of the catalogue, with weights from `spec.weights`, or else from the hub or its cache.

    Raises:
        WeightsError: the weights are gated, absent, damaged, or those of another network.
    """
    facts = catalogue.published_by_any_name()[spec.name]
    weights = find_weights(facts, spec.weights)
    asked = f"{facts.name} from {weights.name}"
    card = SlideEncoderCard(
        name=facts.name, source="catalogue", architecture=facts.architecture,
        settings=facts.settings, in_dim=facts.in_dim, dim=facts.dim, licence=facts.licence,
        tile_encoder=facts.tile_encoder, tile_px=facts.tile_px, mpp=facts.mpp,
        revision=REVISIONS[facts.architecture], note=facts.note,
    )  # fmt: skip
    return filled(card, rename(read_weights(weights, asked), facts.architecture, asked), asked)


def find_weights(card: PublishedCard, given: str | None) -> Path:
    """The weights' file of a published slide encoder.

    Raises:
        WeightsError: there is none.
    """
    if given is not None:
        path = Path(given).expanduser()
        names = [path, *(path / name for name in card.weight_files)]
        return next((each for each in names if each.is_file()), path)  # where none is, reading it says so
    ask = f"Ask for access at {card.page}, log in with `hf auth login`" if card.gated else f"See {card.page}"
    hint = f"{ask}; or get {card.weight_files[0]} elsewhere and give it with --weights FILE."
    with hub_errors(card.name, card.page, hint=hint):
        return hub_file(card.hub, card.weight_files)


def build(card: SlideEncoderCard) -> StagedSlideEncoder:
    """A card's network with fresh weights.

    Raises:
        SpecError: its settings have no such name or value.
    """
    encoder: StagedSlideEncoder
    if card.architecture == "mean":
        encoder = MeanSlideEncoder(card.in_dim, name=card.name)
    else:
        network, settings = _NETWORKS[card.architecture]
        encoder = network(card.in_dim, settings.parse(card.settings, f"slide encoder {card.name}"), name=card.name)
    encoder.card = card
    return encoder


def filled(card: SlideEncoderCard, state: Mapping[str, torch.Tensor], asked: str) -> StagedSlideEncoder:
    """A card's network with these tensors, one for each parameter and none left over.

    Raises:
        WeightsError: they do not fit; each that does not is named.
    """
    with torch.device("meta"):
        encoder = build(card)
    fill(encoder, dict(state), asked)
    return with_sha256(encoder)


def with_sha256(encoder: StagedSlideEncoder) -> StagedSlideEncoder:
    """The encoder, its card with the digest of the weights that it has now."""
    state = encoder.state_dict()
    if state:
        encoder.card = encoder.card.with_values(weights_sha256=tensors_sha256(state))
    return encoder


def _needed(spec: SlideEncoderSpec, in_dim: int | None) -> int:
    if in_dim is None:
        raise SpecError(f"{spec.name} takes features of any length: say with in_dim= of which.")
    return in_dim
