"""What is to be made, under which fingerprints, and what of it is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pathotune_pipeline.archive.manifest import SlideItem
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.features.guidance import Guidance
from pathotune_pipeline.provenance import fingerprint, short
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.spec import Spec, hashed_values, setting
from pathotune_pipeline.store.layout import SetName, number, slug
from pathotune_pipeline.store.leases import LeaseSpec
from pathotune_pipeline.tiles.grid import REVISION as TILES_REVISION
from pathotune_pipeline.tiles.grid import TileSpec
from pathotune_pipeline.tiles.stain import REVISION as STAIN_REVISION
from pathotune_pipeline.tissue.mask import TissueSpec
from pathotune_pipeline.tissue.quality import QualitySpec
from pathotune_pipeline.tissue.regions import RegionSpec
from pathotune_pipeline.tissue.segment import REVISION as TISSUE_REVISION
from pathotune_pipeline.tissue.segmenter import CLASSIC, segmenter_recipe

NO_GUIDANCE = Guidance()
CompileMode = Literal["no", "default", "reduce-overhead", "max-autotune"]

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
    compile: CompileMode = setting(
        "no",
        "torch.compile's mode: no, default, reduce-overhead or max-autotune; differs from no in the last digits only.",
        hashed=False,
    )


class StagingSpec(Spec):
    """Copies of slides on a fast disk, ahead of reading."""

    stage: str | None = setting(
        None,
        "Folder on a fast disk of each worker's machine to copy slides to ahead of reading; empty: read where they lie.",
        hashed=False,
    )
    stage_budget: str = setting(
        "200GB",
        "Most that copies may take on one machine, in MB, GB or TB.",
        hashed=False,
        pattern=r"^\d+(\.\d+)?(MB|GB|TB|mb|gb|tb)$",
    )


class ExtractSpec(Spec):
    """Everything that an extraction is told, besides where its slides and its store are."""

    encoder: EncoderSpec = EncoderSpec()
    tiles: TileSpec = TileSpec()
    tissue: TissueSpec = TissueSpec()
    regions: RegionSpec = RegionSpec()
    slide: SlideSpec = SlideSpec()
    quality: QualitySpec = QualitySpec()
    engine: EngineSpec = EngineSpec()
    leases: LeaseSpec = LeaseSpec()
    staging: StagingSpec = StagingSpec()

    def of_each_encoder(self) -> list[ExtractSpec]:
        """This Spec once for each encoder and adapter, every one with a single one: what a set is made with."""
        return [self.with_values(encoder=each.model_dump()) for each in self.encoder.of_each()]

    def recorded(self) -> dict[str, Any]:
        """Plain values for records. Folders may bear names: of annotations records say only that they were given, and of
        the encoder's files the last part of the path.

        How runs share slides and where copies lie has no part in what is made, and is left out.
        """
        plain = self.model_dump(mode="json", exclude={"leases", "staging"})
        kind, _, path = self.encoder.name.partition(":")
        if kind == "local":
            plain["encoder"]["name"] = f"local:{Path(path).name}"
        if self.encoder.weights is not None:
            plain["encoder"]["weights"] = Path(self.encoder.weights).name
        plain["encoder"]["adapter"] = [Path(given).name for given in self.encoder.adapter]
        if self.regions.annotations is not None:
            plain["regions"]["annotations"] = "(given)"
        return plain


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
        segmenter: what of a segmenter that is plugged in decides the tissue; None with the built-in one.
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
    segmenter: dict[str, Any] | None = None

    def _tile_parts(self, guidance: Guidance) -> dict[str, Any]:
        parts = {**hashed_values(self.spec.tiles.placing()), "mpp": self.mpp, "tile_px": self.tile_px}
        if self.spec.slide.allow_fluorescence:
            parts["allow_fluorescence"] = True
        if self.spec.regions.annotations is not None:
            regions = self.spec.regions
            parts["regions"] = {"roi": sorted({*regions.roi}), "exclude": sorted({*regions.exclude})}
        if guidance.annotation is not None:
            parts["annotation"] = guidance.annotation.digest
        return parts

    def fingerprints(self, identity: str, mpp: float | None, guidance: Guidance = NO_GUIDANCE) -> Fingerprints:
        """Fingerprints of what this recipe makes of one slide.

        Args:
            identity: content hash of the slide.
            mpp: um/px that a user gave for it, or None where its own is used.
            guidance: its imported mask and annotations.
        """
        mask = guidance.mask.for_slide(identity) if guidance.mask else None
        if mask is not None:
            tissue = imported_fingerprint(identity, mpp, mask)
        else:
            color = self.spec.slide.color
            tissue = tissue_fingerprint(self.spec.tissue, identity, mpp, segmenter=self.segmenter, color=color)
        tiles = fingerprint("tiles", TILES_REVISION, {"tissue": tissue, **self._tile_parts(guidance)})
        parts: dict[str, Any] = {"tiles": tiles, "encoder": self.encoder}
        if self.spec.slide.color != "raw":
            parts["color"] = self.spec.slide.color
        if self.spec.tiles.stain != "none":
            parts["stain"] = [self.spec.tiles.stain, STAIN_REVISION]
        return Fingerprints(tissue, tiles, fingerprint("features", REVISION, parts))

    def tissue_set_of(self, mask: str | None) -> SetName:
        """The set in which a slide's tissue stands: an imported mask's, or this recipe's own."""
        return self.tissue_set if mask is None else IMPORTED_SET


def _slide_parts(identity: str, mpp: float | None) -> dict[str, Any]:
    return {"identity": identity} if mpp is None else {"identity": identity, "mpp": mpp}


def tissue_fingerprint(
    spec: TissueSpec,
    identity: str,
    mpp: float | None,
    *,
    segmenter: dict[str, Any] | None = None,
    color: str = "raw",
) -> str:
    """Fingerprint of a slide's tissue as it is found.

    Args:
        spec: how tissue is found.
        identity: content hash of the slide; "" for the set's name.
        mpp: um/px that a user gave for it, or None where its own is used.
        segmenter: recipe of a plugged-in segmenter, or None for the classic one.
        color: "raw", or "srgb" where pixels go through the slide's colour profile first.
    """
    plugged: dict[str, Any] = {"segmenter": segmenter} if segmenter else {}
    if color != "raw":
        plugged["color"] = color
    return fingerprint("tissue", TISSUE_REVISION, {**_slide_parts(identity, mpp), **hashed_values(spec), **plugged})


def tissue_set(spec: TissueSpec, *, segmenter: dict[str, Any] | None = None, color: str = "raw") -> SetName:
    """Name of the set in which the tissue masks made by a Spec lie."""
    recipe = tissue_fingerprint(spec, "", None, segmenter=segmenter, color=color)
    return SetName("tissue", _tissue_label(spec), short(recipe))


def imported_fingerprint(identity: str, mpp: float | None, mask: str) -> str:
    """Fingerprint of a slide's tissue as it was imported: neither settings nor the segmenter's revision are in it.

    Args:
        identity: content hash of the slide; "" for the set's name.
        mpp: um/px that a user gave for the slide, or None.
        mask: content hash of the mask.
    """
    return fingerprint("tissue", 1, {**_slide_parts(identity, mpp), "imported_mask": mask})


IMPORTED_SET = SetName("tissue", "imported", short(imported_fingerprint("", None, "")))
"""All masks that people brought in."""


def make_recipe(spec: ExtractSpec, card: EncoderCard, encoder: dict[str, Any]) -> Recipe:
    """Join a Spec with an encoder's card.

    The card's mpp and tile size stand in where the Spec has none.

    Raises:
        SpecError: tiles would overlap wholly, or regions are asked for without annotations.
        UnknownNameError: no segmenter has that name.
        WeightsError: the segmenter's weights cannot be had.
    """
    asked = [
        f"--{flag} {' '.join(names)}"
        for flag, names in (("roi", spec.regions.roi), ("exclude", spec.regions.exclude))
        if names
    ]
    if asked and spec.regions.annotations is None:
        raise SpecError(f"{asked[0]} needs --annotations DIR, the folder with the slides' annotation files.")
    mpp = spec.tiles.mpp if spec.tiles.mpp is not None else card.mpp
    tile_px = spec.tiles.tile_px if spec.tiles.tile_px is not None else card.tile_px
    if spec.tiles.overlap_px >= tile_px:
        raise SpecError(
            f"--overlap-px {spec.tiles.overlap_px} must be less than the tile's side, {tile_px} px. Give a smaller overlap."
        )
    segmenter = segmenter_recipe(spec.tissue)
    draft = Recipe(spec, card, encoder, mpp, tile_px, *_unnamed(), segmenter)
    # A set's recipe fingerprint is that of a slide that does not exist: same chain, no contents.
    prints = draft.fingerprints("", None)
    geometry = f"{tile_px}px-{number(mpp)}mpp"
    return Recipe(
        spec,
        card,
        encoder,
        mpp,
        tile_px,
        tissue_set(spec.tissue, segmenter=segmenter, color=spec.slide.color),
        SetName("tiles", geometry, short(prints.tiles)),
        SetName("features", f"{slug(card.name)}-{geometry}", short(prints.features)),
        segmenter,
    )


def _tissue_label(spec: TissueSpec) -> str:
    label = f"{number(spec.mpp)}mpp"
    return label if spec.segmenter == CLASSIC else f"{slug(spec.segmenter.partition(':')[0])}-{label}"


def _unnamed() -> tuple[SetName, SetName, SetName]:
    return SetName("tissue", "", ""), SetName("tiles", "", ""), SetName("features", "", "")


def deviations(recipe: Recipe) -> list[str]:
    """Where the user's geometry differs from what the encoder's card recommends, one sentence each."""
    card, found = recipe.card, []
    if recipe.mpp != card.mpp:
        found.append(f"{card.name} was made for {card.mpp:g} um/px; {recipe.mpp:g} was asked for.")
    if card.input_px is not None and recipe.tile_px != card.tile_px:
        side = card.resize_px or card.input_px
        found.append(
            f"{card.name} was made for tiles of {card.tile_px} px; those of {recipe.tile_px} px are resized to {side}."
        )
    return found


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide's work, as it travels to a worker.

    Attributes:
        item: the slide; its path does not show in the job's text form.
        mpp: um/px the user gave (manifest before override), or None.
        recipe: what to make.
        store: the store's address.
        threads: readers, and on a CPU encoders, to use.
        identity: the slide's content hash where it is known already.
        planner: the process that planned the run (`store.owner`).
        state: of the slide's files when the run was planned (`archive.companions`); does not show either.
        guidance: its imported mask and annotations.
        also: further recipes of which the slide is missing: other encoders, in the same pass.
    """

    item: SlideItem
    mpp: float | None
    recipe: Recipe
    store: str
    threads: int
    identity: str | None = None
    guidance: Guidance = NO_GUIDANCE
    planner: str = ""
    state: str | None = field(default=None, repr=False)
    also: tuple[Recipe, ...] = ()
