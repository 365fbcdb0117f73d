"""What is to be made, under which fingerprints, and what of it is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.archive.manifest import SlideItem
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.provenance import fingerprint, short
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.spec import Spec, hashed_values, setting
from pathotune_pipeline.store.layout import SetName, number, slug
from pathotune_pipeline.tiles.grid import REVISION as TILES_REVISION
from pathotune_pipeline.tiles.grid import TileSpec
from pathotune_pipeline.tissue.mask import TissueSpec
from pathotune_pipeline.tissue.segment import REVISION as TISSUE_REVISION

REVISION = 1
"""Raised when reading, resampling or the order of tiles changes features."""


class EngineSpec(Spec):
    """How a worker process runs."""

    threads: int | None = setting(
        None,
        "Threads that read, and as many that encode on a CPU, per worker; empty: cores / workers.",
        hashed=False,
        ge=1,
    )
    max_invalid: float = setting(
        0.05,
        "Share of unreadable tiles above which a slide fails; below it they are marked invalid.",
        hashed=False,
        ge=0,
        le=1,
    )


class ExtractSpec(Spec):
    """Everything that an extraction is told, besides where its slides and its store are."""

    encoder: EncoderSpec = EncoderSpec()
    tiles: TileSpec = TileSpec()
    tissue: TissueSpec = TissueSpec()
    slide: SlideSpec = SlideSpec()
    engine: EngineSpec = EngineSpec()


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """One slide's fingerprints, each built on the one before; 64 hexadecimal digits each."""

    tissue: str
    tiles: str
    features: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """An extraction's settings with the encoder's card: enough to name and fingerprint all it makes.

    Attributes:
        spec: as the user gave it.
        card: of the encoder.
        encoder: what of the encoder decides features (`Encoder.recipe()`).
        mpp, tile_px: the target scale and tile side, from the Spec or else the card.
        tissue_set, tiles_set, features_set: names of what is made.
    """

    spec: ExtractSpec
    card: EncoderCard
    encoder: dict[str, Any]
    mpp: float
    tile_px: int
    tissue_set: SetName
    tiles_set: SetName
    features_set: SetName

    def _tile_parts(self) -> dict[str, Any]:
        chosen = self.spec.tiles.with_values(mpp=None, tile_px=None)
        light = {"allow_fluorescence": True} if self.spec.slide.allow_fluorescence else {}
        return {**hashed_values(chosen), **light, "mpp": self.mpp, "tile_px": self.tile_px}

    def fingerprints(self, identity: str, mpp: float | None) -> Fingerprints:
        """Fingerprints of what this recipe makes of one slide.

        Args:
            identity: content hash of the slide.
            mpp: um/px that a user gave for it, or None where its own is used.
        """
        slide: dict[str, Any] = {"identity": identity}
        if mpp is not None:
            slide["mpp"] = mpp
        tissue = fingerprint("tissue", TISSUE_REVISION, {**slide, **hashed_values(self.spec.tissue)})
        tiles = fingerprint("tiles", TILES_REVISION, {"tissue": tissue, **self._tile_parts()})
        features = fingerprint("features", REVISION, {"tiles": tiles, "encoder": self.encoder})
        return Fingerprints(tissue, tiles, features)


def make_recipe(spec: ExtractSpec, card: EncoderCard, encoder: dict[str, Any]) -> Recipe:
    """Join a Spec with an encoder's card.

    The card's mpp and tile size stand in where the Spec has none.

    Raises:
        SpecError: tiles would overlap wholly.
    """
    mpp = spec.tiles.mpp if spec.tiles.mpp is not None else card.mpp
    tile_px = spec.tiles.tile_px if spec.tiles.tile_px is not None else card.tile_px
    if spec.tiles.overlap_px >= tile_px:
        raise SpecError(
            f"--overlap-px {spec.tiles.overlap_px} must be less than the tile's side, {tile_px} px. Give a smaller overlap."
        )
    draft = Recipe(spec, card, encoder, mpp, tile_px, *_unnamed())
    # A set's recipe fingerprint is that of a slide that does not exist: same chain, no contents.
    prints = draft.fingerprints("", None)
    geometry = f"{tile_px}px-{number(mpp)}mpp"
    return Recipe(
        spec,
        card,
        encoder,
        mpp,
        tile_px,
        SetName("tissue", f"{number(spec.tissue.mpp)}mpp", short(prints.tissue)),
        SetName("tiles", geometry, short(prints.tiles)),
        SetName("features", f"{slug(card.name)}-{geometry}", short(prints.features)),
    )


def _unnamed() -> tuple[SetName, SetName, SetName]:
    return SetName("tissue", "", ""), SetName("tiles", "", ""), SetName("features", "", "")


def deviations(recipe: Recipe) -> list[str]:
    """Where the user's geometry differs from what the encoder's card recommends, one sentence each."""
    card, found = recipe.card, []
    if recipe.mpp != card.mpp:
        found.append(f"{card.name} was made for {card.mpp:g} um/px; {recipe.mpp:g} was asked for.")
    if card.input_px is not None and recipe.tile_px != card.input_px:
        found.append(f"{card.name} sees {card.input_px} px; tiles of {recipe.tile_px} px are resized to it.")
    return found


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide's work, as it travels to a worker.

    Attributes:
        item: the slide; its path does not show in the job's text form.
        mpp: um/px the user gave (manifest before override), or None.
        recipe: what to make.
        store: the store's folder.
        threads: readers, and on a CPU encoders, to use.
        identity: the slide's content hash where it is known already.
    """

    item: SlideItem
    mpp: float | None
    recipe: Recipe
    store: Path
    threads: int
    identity: str | None = None
