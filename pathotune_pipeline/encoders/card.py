"""A checkpoint as data: where it comes from, what it eats, what it gives."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import model_validator

from pathotune_pipeline.spec import Spec, setting

Precision = Literal["fp32", "bf16"]
Pooling = Literal["cls", "mean", "cls+mean", "avg", "attention"]
TokenPooling = Literal["card", "cls", "mean", "cls+mean"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


NO_ADAPTER = "none"
"""Among adapters: the encoder as it is."""


class EncoderSpec(Spec):
    """Which encoder, in which precision, and how it is run."""

    name: str = setting(
        "stain-texture",
        "Encoder: stain-texture, a name of `pathotune encoders list`, timm:NAME, hf-hub:ORG/NAME, or local:PATH.",
        flag="--encoder",
        aliases=("--patch-encoder",),
        rest="also",
    )
    also: tuple[str, ...] = setting(
        (),
        "Further encoders, whose features are made in the same pass; --encoder may be given more than once.",
        hashed=False,
        flag="--also-encoder",
    )
    weights: str | None = setting(
        None,
        "File or bundle with the weights of a catalogue encoder; empty: from the hub or its cache. Their SHA-256 decides.",
        hashed=False,
    )
    pooling: TokenPooling = setting(
        "card", "Feature of a catalogue transformer: card (as published), cls, mean (of patch tokens), cls+mean."
    )
    trust_remote_code: bool = setting(
        False,
        "Run Python code that a hub repository brings, with your rights; only of publishers you trust.",
        hashed=False,
    )
    adapter: tuple[str, ...] = setting(
        (),
        "Files of `pathotune adapt`, each a feature set of its own in one pass: FILE, FILE#N for its text N, none for the "
        "encoder as it is.",
        hashed=False,
    )
    precision: Precision = setting("fp32", "Arithmetic: fp32 or bf16.")
    batch_size: int = setting(
        32, "Tiles per batch; every batch has this shape, the last one is padded.", hashed=False, ge=1, le=4096
    )
    device: str = setting("auto", "Where the encoder runs: auto, cpu, cuda, cuda:1, mps.", hashed=False)

    @model_validator(mode="after")
    def _adapters_have_one_encoder(self) -> Self:
        others = sorted({*self.also} - {self.name})
        if self.adapter and others:
            raise ValueError(
                f"--adapter goes with one encoder, and {', '.join((self.name, *others))} were asked for. Give those "
                "without an adapter a run of their own"
            )
        return self

    def of_each(self) -> list[EncoderSpec]:
        """This Spec once for each encoder and adapter, every one with a single encoder and at most one adapter."""
        plain = self.model_dump()
        return [
            type(self).parse(
                {**plain, "name": name, "also": (), "adapter": () if adapter == NO_ADAPTER else (adapter,)}
            )
            for name in dict.fromkeys((self.name, *self.also))
            for adapter in dict.fromkeys(self.adapter or (NO_ADAPTER,))
        ]


class AdapterFacts(Spec):
    """What an encoder's card says of the adapter on it; the adapter's own card says the rest.

    Attributes:
        name: its maker's name for it.
        method: vpt-deep, pathotune, lora, ...
        parameters: how many numbers were trained.
        sha256: of its tensors.
        text: the task's text that goes with the tiles; None without textual prompts.
        text_encoder: which frozen encoder read it.
        note: what has to be said wherever its results are shown.
        recipe: what of it decides the features.
    """

    name: str
    method: str
    parameters: int
    sha256: str
    text: str | None = None
    text_encoder: str | None = None
    note: str = ""
    recipe: dict[str, Any]


class EncoderCard(Spec):
    """Facts about one encoder.

    Attributes:
        name: as the user asked for it.
        source: "built-in", "timm", "hf-hub" or "local".
        architecture: timm's name of the network, or the built-in's.
        dim: length D of a feature vector.
        input_px: side of the square the network sees.
        resize_px: side to which a tile is resized before its centre is cut out; None where nothing is cut off.
        pooling: how tokens become one vector; None where the network does it itself.
        tile_px: recommended side of a tile.
        mpp: recommended um/px.
        mean, std: of RGB in 0-1, subtracted and divided by; None where the encoder takes raw bytes.
        interpolation: how a tile of another size is resized: "bicubic" or "bilinear".
        licence: of the weights, as far as the source says.
        weights_sha256: of the loaded parameters (see `checkpoint.state_sha256`); None without weights.
        revision: of a built-in algorithm.
        adapter: the adapter on it; None on the encoder as it is.
    """

    name: str
    source: Literal["built-in", "catalogue", "timm", "hf-hub", "local", "remote-code"]
    architecture: str
    dim: int
    input_px: int | None = None
    tile_px: int = 224
    mpp: float = 0.5
    mean: tuple[float, float, float] | None = IMAGENET_MEAN
    std: tuple[float, float, float] | None = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    licence: str | None = None
    weights_sha256: str | None = None
    revision: int = 1
    resize_px: int | None = None
    pooling: Pooling | None = None
    adapter: AdapterFacts | None = None

    def recipe(self) -> dict[str, Any]:
        """What of the card decides the features: everything but names, recommendations and licence."""
        recipe = self.model_dump(mode="json", exclude={"name", "source", "tile_px", "mpp", "licence", "adapter"})
        for later in ("resize_px", "pooling"):  # fields that came later: absent by default, so that older prints stay
            if recipe[later] is None:
                del recipe[later]
        if self.adapter is not None:
            recipe["adapter"] = self.adapter.recipe
        return recipe
