"""Published slide encoders as data: one entry in `cards/*.yaml` each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pathotune_pipeline.encoders.catalogue import Verified
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.slide_encoders.card import Architecture
from pathotune_pipeline.spec import Spec, setting


class PublishedCard(Spec):
    """What is published about one slide encoder: where its weights lie, how it is built, what it eats and gives."""

    name: str = setting(..., "As `--slide-encoder` takes it.", pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    aliases: tuple[str, ...] = setting((), "Other names, as other pipelines write it.")
    about: str = setting(..., "One line: the network, its training, its publisher.", min_length=1)
    page: str = setting(..., "Where the weights are, and where one asks for them.", pattern=r"^https://")
    hub: str = setting(..., "Repository on the Hugging Face hub.")
    weight_files: tuple[str, ...] = setting(
        ("model.safetensors", "pytorch_model.bin"), "Names of the weights in the repository; the first that is there.", min_length=1
    )  # fmt: skip
    gated: bool = setting(..., "Whether one has to ask for access.")
    licence: str = setting(..., "Of the weights.", min_length=1)
    architecture: Architecture = setting(..., "How it is built.")
    settings: dict[str, Any] = setting({}, "Of the architecture, where they differ from its defaults.")
    in_dim: int = setting(..., "Length of a tile's feature vector.", gt=0)
    dim: int = setting(..., "Length of the slide's vector.", gt=0)
    tile_encoder: str = setting(..., "Encoder of the catalogue whose features it was trained on.")
    tile_px: int | None = setting(None, "Side of a tile; empty: not stated.", gt=0)
    mpp: float | None = setting(None, "um/px of a tile; empty: not stated.", gt=0)
    parameters_million: float | None = setting(None, "As published, of what the weights' file holds.", gt=0)
    verified: Verified = setting("never", "What has been compared with the real weights; see docs/encoders.md.")
    source: tuple[str, ...] = setting(..., "Where these facts were read.", min_length=1)
    note: str = setting("", "What a user has to know.")


@cache
def published() -> Mapping[str, PublishedCard]:
    """Every card by its name, in the order of the files.

    Raises:
        SpecError: a file holds what it must not, or two cards share a name.
    """
    folder = files("pathotune_pipeline.slide_encoders") / "cards"
    cards: dict[str, PublishedCard] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".yaml"):
            for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items():
                card = PublishedCard.parse({**fields, "name": name}, f"{path.name}: {name}")
                taken = {card.name, *card.aliases} & {
                    each for one in cards.values() for each in (one.name, *one.aliases)
                }
                if taken:
                    raise SpecError(
                        f"{path.name}: the slide encoder name {sorted(taken)[0]!r} is taken. Choose another."
                    )
                cards[card.name] = card
    return cards


def published_by_any_name() -> dict[str, PublishedCard]:
    """Every card by its name and its aliases."""
    return {name: card for card in published().values() for name in (card.name, *card.aliases)}
