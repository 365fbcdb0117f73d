"""The catalogue: published encoders as data. One entry in `cards/*.yaml` is one encoder; a timm network needs no code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Self

import yaml
from pydantic import field_validator, model_validator

from pathotune_pipeline.encoders.card import IMAGENET_MEAN, IMAGENET_STD, Pooling
from pathotune_pipeline.errors import SpecError, UnknownNameError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.spec import Spec, setting

Verified = Literal["never", "keys", "features"]
Rgb = tuple[float, float, float]


class CatalogueCard(Spec):
    """What is published about one encoder: where its weights lie, how the network is built, what it eats and gives."""

    name: str = setting(..., "As `--encoder` takes it.", pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    aliases: tuple[str, ...] = setting((), "Other names, as other pipelines write it.")
    about: str = setting(..., "One line: the network, its training, its publisher.", min_length=1)
    page: str = setting(..., "Where the weights are, and where one asks for them.", pattern=r"^https://")
    hub: str | None = setting(None, "Repository on the Hugging Face hub; none where the weights lie elsewhere.")
    weight_files: tuple[str, ...] = setting(
        ("model.safetensors", "pytorch_model.bin"), "Names of the weights in the repository; the first that is there.", min_length=1
    )  # fmt: skip
    gated: bool = setting(..., "Whether one has to ask for access.")
    licence: str = setting(..., "Of the weights.", min_length=1)
    tower: Literal["timm", "conch", "conch-v1.5"] = setting("timm", "What stands behind the trunk.")
    architecture: str = setting(..., "timm's name of the trunk.", min_length=1)
    arguments: dict[str, Any] = setting({}, "What timm.create_model is told besides.")
    resample_positions: bool = setting(
        False, "Whether position embeddings of another grid are interpolated, as the published code does."
    )
    pooling: Pooling = setting(..., "How tokens become one vector.")
    dim: int = setting(..., "Length of the feature vector.", gt=0)
    parameters_million: float | None = setting(None, "As published, of the network that is kept.", gt=0)
    tile_px: int = setting(224, "Recommended side of a tile.", gt=0)
    resize_px: int | None = setting(None, "Side to which a tile is resized before the crop; empty: input_px.", gt=0)
    input_px: int = setting(224, "Side of the square the network sees.", gt=0)
    mpp: float = setting(0.5, "Recommended um/px.", gt=0)
    interpolation: Literal["bicubic", "bilinear"] = setting("bicubic", "Of the resize.")
    mean: Rgb = setting(IMAGENET_MEAN, "Of RGB in 0-1; subtracted.")
    std: Rgb = setting(IMAGENET_STD, "Of RGB in 0-1; divided by.")
    verified: Verified = setting("never", "What has been compared with the real weights; see docs/encoders.md.")
    source: tuple[str, ...] = setting(..., "Where these facts were read.", min_length=1)
    note: str = setting("", "What a user has to know.")

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Rgb) -> Rgb:
        if min(std) <= 0:
            raise ValueError("each must be above 0")
        return std

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.resize_px or self.input_px) < self.input_px:
            raise ValueError(
                f"resize_px {self.resize_px} is less than input_px {self.input_px}: nothing could be cut out"
            )
        if (self.tower != "timm") != (self.pooling == "attention"):
            raise ValueError(f"pooling {self.pooling} does not go with tower {self.tower}")
        return self


@cache
def catalogue() -> Mapping[str, CatalogueCard]:
    """Every card by its name, in the order of the files.

    Raises:
        SpecError: a file holds what it must not, or two cards share a name.
    """
    cards: dict[str, CatalogueCard] = {}
    taken: set[str] = set()
    folder = files("pathotune_pipeline.encoders") / "cards"
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".yaml"):
            continue
        for card in parse_cards(path.read_text(encoding="utf-8"), path.name):
            clash = taken & {card.name, *card.aliases}
            if clash:
                raise SpecError(f"{path.name}: the encoder name {sorted(clash)[0]!r} is taken. Choose another.")
            taken |= {card.name, *card.aliases}
            cards[card.name] = card
    return cards


def parse_cards(text: str, where: str) -> list[CatalogueCard]:
    """Cards of one YAML text: names to fields, over the fields of an optional `shared` group.

    Raises:
        SpecError: it is no such mapping, or a card has an unknown or wrong field.
    """
    loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(loaded, dict) or not all(isinstance(fields, dict) for fields in loaded.values()):
        raise SpecError(f"{where}: must map names of encoders to their fields.")
    shared = loaded.pop("shared", {})
    return [
        CatalogueCard.parse({**shared, **fields, "name": name}, f"{where}: {name}") for name, fields in loaded.items()
    ]


@cache
def _by_any_name() -> dict[str, CatalogueCard]:
    return {name: card for card in catalogue().values() for name in (card.name, *card.aliases)}


def names() -> list[str]:
    """Every name and alias that `find_card` takes."""
    return list(_by_any_name())


def find_card(name: str) -> CatalogueCard:
    """The card of a name or alias.

    Raises:
        UnknownNameError: the catalogue has none; the message offers the nearest.
    """
    found = _by_any_name().get(name)
    if found is None:
        raise UnknownNameError(
            f"The catalogue has no encoder {name!r}.{nearest(name, names())} `pathotune encoders list` shows all."
        )
    return found
