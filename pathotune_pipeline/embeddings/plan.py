"""What a slide encoder is to make of a feature set, under which names and fingerprints, and what of it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.provenance import fingerprint, short
from pathotune_pipeline.slide_encoders.card import SlideEncoderCard, SlideEncoderSpec
from pathotune_pipeline.store.layout import SetName, slug
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

REVISION = 1
"""Raised when what lies around the slide encoder (which tiles, in which order, at which places) changes its results."""


@dataclass(frozen=True, slots=True)
class TileFacts:
    """What a feature set's groups say of its tiles.

    Attributes:
        dim: numbers of a tile's features.
        encoder: name of the tile encoder.
        tile_px, mpp: of a tile.
    """

    dim: int
    encoder: str
    tile_px: int
    mpp: float

    @classmethod
    def of(cls, store: FeatureStore, record: CommitRecord) -> TileFacts:
        """As one slide's group of the set has them."""
        attrs: Mapping[str, Any] = dict(store.group(record).attrs)
        encoder: Any = attrs.get("encoder") or {}
        return cls(int(record.facts["dim"]), str(encoder.get("name", "")), int(attrs["tile_px"]), float(attrs["mpp"]))


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """A feature set with a slide encoder: enough to name and fingerprint all that is made of them.

    Attributes:
        features_set: of the tiles.
        card: of the slide encoder.
        embeddings_set: name of what is made.
    """

    features_set: SetName
    card: SlideEncoderCard
    embeddings_set: SetName

    @classmethod
    def of(cls, features_set: SetName, card: SlideEncoderCard) -> EmbeddingRecipe:
        label = f"{slug(card.name)}-{features_set.label}"
        return cls(features_set, card, SetName("embeddings", label, short(_print(features_set.recipe, card))))

    def fingerprint(self, features: str) -> str:
        """Fingerprint of one slide's vector.

        Args:
            features: fingerprint of the slide's features.
        """
        return _print(features, self.card)


def _print(features: str, card: SlideEncoderCard) -> str:
    return fingerprint("embeddings", REVISION, {"features": features, "slide_encoder": card.recipe()})


def check_tile_encoder(card: SlideEncoderCard, tiles: TileFacts) -> None:
    """Hold `mean-ENCODER` against the features' encoder.

    Raises:
        SpecError: they are another's.
    """
    asked = card.tile_encoder
    if card.architecture == "mean" and asked is not None and asked not in (tiles.encoder, slug(tiles.encoder)):
        raise SpecError(
            f"--slide-encoder mean-{asked}: the features are {tiles.encoder}'s. Give mean-{slug(tiles.encoder)}, or mean."
        )


def deviations(card: SlideEncoderCard, tiles: TileFacts) -> list[str]:
    """Where the tiles differ from those the slide encoder was made for, one sentence each."""
    found = []
    if card.tile_encoder is not None and card.architecture != "mean" and card.tile_encoder != tiles.encoder:
        found.append(f"{card.name} was made for features of {card.tile_encoder}; these are {tiles.encoder}'s.")
    if card.tile_px is not None and (card.tile_px, card.mpp) != (tiles.tile_px, tiles.mpp):
        found.append(
            f"{card.name} was made for tiles of {card.tile_px} px at {card.mpp:g} um/px; these are of {tiles.tile_px} px at "
            f"{tiles.mpp:g} um/px."
        )
    return found


def recorded(spec: SlideEncoderSpec) -> dict[str, Any]:
    """Plain values for records; of paths only their last part, since folders may bear names."""
    plain = spec.model_dump(mode="json")
    kind, parted, path = spec.name.partition(":")
    if parted:
        plain["name"] = f"{kind}:{Path(path).name}"
    if spec.weights is not None:
        plain["weights"] = Path(spec.weights).name
    return plain
