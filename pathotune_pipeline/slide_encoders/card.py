"""Which slide encoder, and what is known of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pathotune_pipeline.spec import Spec, setting

Architecture = Literal["mean", "abmil", "longnet", "alibi-vit"]


class SlideEncoderSpec(Spec):
    """Which slide encoder makes one vector of a slide's tiles, and how it is run."""

    name: str = setting(
        "mean",
        "Slide encoder: mean, mean-ENCODER, a published one (titan, gigapath, feather, ...), local:FILE, or untrained: "
        "longnet, alibi-vit, abmil.",
        flag="--slide-encoder",
    )
    weights: str | None = setting(
        None,
        "File with the weights of a published slide encoder; empty: from the hub or its cache. Their SHA-256 decides.",
        hashed=False,
    )
    settings: dict[str, Any] = setting({}, "Settings of an untrained slide encoder, such as {layers: 2}.")
    seed: int = setting(0, "Draws the weights of an untrained slide encoder.", ge=0)
    device: str = setting("auto", "Where it runs: auto, cpu, cuda, cuda:1, mps.", hashed=False)


class SlideEncoderCard(Spec):
    """Facts about one slide encoder at work.

    Attributes:
        name: as the user asked for it; of a file, what its maker called it.
        source: built-in (nothing to learn), catalogue, local, or random (untrained).
        architecture: how it is built.
        settings: of the architecture, where they differ from its defaults.
        in_dim: length of a tile's feature vector.
        dim: length of the slide's vector.
        licence: of the weights, as far as their source says.
        tile_encoder: whose features it was trained on; None where any will do.
        tile_px, mpp: of the tiles it was trained on.
        weights_sha256: of the loaded parameters; None where there are none.
        seed: that drew them, of an untrained one.
        revision: of the architecture's code.
        training: plain values of its maker: data, settings, metrics.
        note: what has to be said wherever its vectors are used.
    """

    name: str
    source: Literal["built-in", "catalogue", "local", "random"]
    architecture: Architecture
    settings: dict[str, Any] = Field(default_factory=dict)
    in_dim: int
    dim: int
    licence: str | None = None
    tile_encoder: str | None = None
    tile_px: int | None = None
    mpp: float | None = None
    weights_sha256: str | None = None
    seed: int | None = None
    revision: int = 1
    training: dict[str, Any] = Field(default_factory=dict)
    note: str = ""

    def recipe(self) -> dict[str, Any]:
        """What of the card decides the slide's vector."""
        return self.model_dump(
            mode="json", include={"architecture", "settings", "in_dim", "dim", "weights_sha256", "revision"}
        )
