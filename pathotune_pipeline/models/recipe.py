"""FeatureRecipe: which features a model takes, and how they are made of slides that nobody has seen yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import BaseModel

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.features.plan import ExtractSpec, Recipe
from pathotune_pipeline.spec import is_hashed
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore

_NEEDED = frozenset({"tissue.segmenter", "regions.annotations", "encoder.adapter"})
"""Settings that are not hashed by themselves and decide features all the same: by what they name."""
_GIVEN = "(given)"
_OF_ONE_ARCHIVE = frozenset({"slide.mpp_override", "slide.allow_odd_mpp"})
"""What was believed of the training slides' scale says nothing of other slides'."""


@dataclass(frozen=True, slots=True)
class FeatureRecipe:
    """A feature set by what made it.

    Attributes:
        name: of the set, as `--features` takes it.
        fingerprint: 12 hexadecimal digits: features of another one are refused.
        dim: numbers in a tile's feature.
        mpp: um/px of the tiles.
        tile_px: side of a tile.
        encoder: its card, with the SHA-256 of its weights.
        extraction: the settings that decide features, by section; None where features were imported.
    """

    name: str
    fingerprint: str
    dim: int
    mpp: float | None
    tile_px: int | None
    encoder: dict[str, Any]
    extraction: dict[str, Any] | None

    @property
    def licence(self) -> str:
        """Of the encoder's weights, as far as its source says."""
        return str(self.encoder.get("licence") or "not stated by its source")

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(**values)

    def differences(self, other: FeatureRecipe) -> list[str]:
        """What this recipe has and the other has not, as "name: this / that"."""
        own, others = dict(_flat(self._deciding())), dict(_flat(other._deciding()))
        names = [name for name in {**own, **others} if own.get(name) != others.get(name)]
        return [f"{name}: {own.get(name)} / {others.get(name)}" for name in names]

    def _deciding(self) -> dict[str, Any]:
        plain = self.as_dict()
        names = {"name", "source", "tile_px", "mpp", "licence"}
        encoder = {key: value for key, value in self.encoder.items() if key not in names}
        adapter = encoder.pop("adapter", None)
        deciding = {"mpp": plain["mpp"], "tile_px": plain["tile_px"], "encoder": encoder, **(self.extraction or {})}
        if "encoder" in (self.extraction or {}):  # an adapter is known by what it is, not by its file's name
            deciding["encoder"] = {name: value for name, value in deciding["encoder"].items() if name != "adapter"}
        return {**deciding, "adapter": adapter["recipe"]} if adapter else deciding

    def extract_spec(self, changes: Mapping[str, Mapping[str, Any]]) -> ExtractSpec:
        """The extraction of other slides' features.

        Args:
            changes: section -> setting -> value, over the recipe's: where the encoder's files lie, threads, device.

        Raises:
            UsageError: the features were imported, or lie in regions and no annotations are given.
            SpecError: a setting is not known or not allowed.
        """
        if self.extraction is None:
            raise UsageError(
                f"How {self.name} is made of slides is not in the model's folder: its features were imported, or it is a "
                "cross-validation older than model cards. Make the features yourself, and give --store without --slides."
            )
        tree = {name: {**values, **changes.get(name, {})} for name, values in self.extraction.items()}
        tree |= {name: dict(values) for name, values in changes.items() if name not in tree}
        if tree.get("regions", {}).get("annotations") == _GIVEN:
            raise UsageError(
                "The model was trained on tiles inside annotated regions. Give --annotations DIR with those of these slides."
            )
        name = str(tree.get("encoder", {}).get("name", ""))
        if name.startswith("local:") and "name" not in changes.get("encoder", {}):
            raise UsageError(f"The model's encoder is {name}, a folder. Say where it lies: --encoder local:PATH.")
        adapters = tree.get("encoder", {}).get("adapter")
        if adapters and "adapter" not in changes.get("encoder", {}):
            raise UsageError(
                f"The model's encoder has an adapter, {adapters[0]}. Say where its file lies: --adapter PATH."
            )
        return ExtractSpec.parse(tree, where="recipe of the model")


def recipe_of(store: FeatureStore, features_set: SetName) -> FeatureRecipe:
    """The recipe of a committed set, as its records say.

    Raises:
        CorruptDataError: nothing is committed, or the records lack it.
    """
    records = store.records(features_set)
    if not records:
        raise CorruptDataError(f"{features_set}: nothing of it is committed any more. Extract again.")
    record = next(iter(records.values()))
    attributes: Any = dict(store.group(record).attrs)
    settings = attributes.get("settings")
    try:
        return FeatureRecipe(
            name=str(features_set).removeprefix("features-"),
            fingerprint=features_set.recipe,
            dim=int(record.facts["dim"]),
            mpp=attributes.get("mpp"),
            tile_px=attributes.get("tile_px"),
            encoder=dict(attributes.get("encoder") or {}),
            extraction=_deciding_settings(settings or {}) or None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{record.group}: its attributes cannot be read ({error}). Extract it again.") from None


def recipe_of_spec(recipe: Recipe) -> FeatureRecipe:
    """The recipe of an extraction that is yet to be done."""
    return FeatureRecipe(
        name=str(recipe.features_set).removeprefix("features-"),
        fingerprint=recipe.features_set.recipe,
        dim=recipe.card.dim,
        mpp=recipe.mpp,
        tile_px=recipe.tile_px,
        encoder=recipe.card.model_dump(mode="json"),
        extraction=_deciding_settings(recipe.spec.recorded()),
    )


def _deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded settings without those that other slides or machines have of their own."""
    found: dict[str, Any] = {}
    for section, info in ExtractSpec.model_fields.items():
        model, said = info.annotation, settings.get(section) or {}
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        kept = {
            name: said[name]
            for name, field in model.model_fields.items()
            if name in said
            and (is_hashed(field) or f"{section}.{name}" in _NEEDED)
            and f"{section}.{name}" not in _OF_ONE_ARCHIVE
        }
        if kept:
            found[section] = kept
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
