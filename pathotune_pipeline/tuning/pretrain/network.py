"""The encoder that is trained: built, taken apart into tokens and blocks, and written as a folder that `local:` reads."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathotune_pipeline.adapt.backbone import trunk_of
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.export import network_config, timm_config, write_timm_folder
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.errors import OutputExistsError, SpecError
from pathotune_pipeline.tuning.pretrain.restore import sincos_positions
from pathotune_pipeline.tuning.pretrain.spec import NetworkSpec

CARD_FILE = "pretraining.json"


@dataclass(frozen=True)
class Trunk:
    """A timm vision transformer, with what it takes to build it again.

    Attributes:
        module: the transformer, without a classifier.
        encoder: what gives features; the transformer itself, or it with a pooling or prompts around it.
        card: facts of the encoder: of the one it began from, or of the new one.
        config: the `config.json` with which timm builds it again; None where it cannot.
        is_new: whether it began from random weights.
    """

    module: Any
    encoder: nn.Module
    card: EncoderCard
    config: dict[str, Any] | None
    is_new: bool

    @property
    def base(self) -> EncoderCard | None:
        """The encoder it began from; None for a new one."""
        return None if self.is_new else self.card

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        rows, columns = self.module.patch_embed.grid_size
        return int(rows), int(columns)

    @property
    def patch_px(self) -> int:
        return int(self.module.patch_embed.patch_size[0])

    @property
    def input_px(self) -> int:
        return self.patch_px * self.grid[0]

    @property
    def dim(self) -> int:
        return int(self.module.embed_dim)

    def normalised(self, views: Tensor) -> Tensor:
        """[B, 3, P, P] in 0 to 1 as the network takes it: without the mean, divided by the standard deviation."""
        mean, std = self._colours(views)
        return (views - mean) / std

    def shown(self, pixels: Tensor) -> Tensor:
        """The inverse of `normalised`, cut to 0 to 1."""
        mean, std = self._colours(pixels)
        return (pixels * std + mean).clamp(0, 1)

    def _colours(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.card.mean or (0.0, 0.0, 0.0), self.card.std or (1.0, 1.0, 1.0)
        return like.new_tensor(mean).view(1, 3, 1, 1), like.new_tensor(std).view(1, 3, 1, 1)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels [B, 3, P, P] to (prefix tokens [B, F, D], patch tokens [B, N, D]), positions added."""
        tokens = self.module.norm_pre(self.module._pos_embed(self.module.patch_embed(pixels)))
        count = self.module.num_prefix_tokens
        return tokens[:, :count], tokens[:, count:]

    def features(self, views: Tensor) -> Tensor:
        """Views [B, 3, P, P] in 0 to 1 to the encoder's features [B, D]."""
        features: Tensor = self.encoder(self.normalised(views))
        return features

    def blocks(self, tokens: Tensor) -> Tensor:
        """All blocks and the final norm: [B, T, D] -> [B, T, D]."""
        return self.module.norm(self.module.blocks(tokens))


def build_trunk(spec: NetworkSpec, seed: int) -> Trunk:
    """A new network with random weights and fixed sine-cosine positions, or the one that `spec.base` names.

    Raises:
        SpecError: the network cannot be built, or is not a vision transformer whose patches can be taken away.
        WeightsError: the base's weights are absent or do not fit.
    """
    if spec.base is not None:
        return _from_base(spec.base)
    import timm

    from pathotune_pipeline.engine.course import seeded

    spec.check()
    arguments: dict[str, Any] = {
        "img_size": spec.input_px,
        "patch_size": spec.patch_px,
        "embed_dim": spec.embed_dim,
        "depth": spec.depth,
        "num_heads": spec.heads,
    }
    if spec.pooling == "mean":  # normalise every token and then pool, as the decoder sees them in training
        arguments |= {"global_pool": "avg", "fc_norm": False}
    try:
        with seeded(seed):
            module = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **arguments)
    except (RuntimeError, TypeError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SpecError(
            f"architecture {spec.architecture}: timm cannot build it with these sizes ({first}). Name a vit_*."
        ) from None
    _check(module, spec.architecture)
    _fix_positions(module)
    card = EncoderCard(
        name=spec.architecture,
        source="local",
        architecture=spec.architecture,
        dim=spec.embed_dim,
        input_px=spec.input_px,
        tile_px=spec.input_px,
        mean=spec.mean,
        std=spec.std,
    )
    return Trunk(module, module, card, network_config(spec.architecture, arguments, card), is_new=True)


def _fix_positions(module: Any) -> None:
    rows, columns = module.patch_embed.grid_size
    places = sincos_positions(columns, rows, module.embed_dim)
    with torch.no_grad():
        module.pos_embed.zero_()
        module.pos_embed[0, -len(places) :] = places
    module.pos_embed.requires_grad_(False)


def _from_base(name: str) -> Trunk:
    spec = EncoderSpec(name=name)
    encoder = create_encoder(spec)
    module = trunk_of(encoder.module)
    _check(module, name)
    try:
        config = timm_config(encoder.card, spec)
    except SpecError:  # one of the catalogue: prompts take it, and a folder of timm's cannot tell of its pooling
        config = None
    return Trunk(module, encoder.module, encoder.card, config, is_new=False)


def trained_whole(trunk: Trunk) -> Trunk:
    """The trunk with all its weights to be trained; positions of a new one stay as they are.

    Raises:
        SpecError: it is a base that could not be written as a folder afterwards.
    """
    if trunk.config is None:
        raise SpecError(
            f"base {trunk.card.name}: only local:PATH (a folder as timm writes it), timm:NAME and hf-hub:ORG/NAME can be "
            "trained whole, since the result is written in timm's layout. Prompts take any base."
        )
    if not trunk.is_new:
        trunk.module.requires_grad_(True)
    return trunk


def _check(module: Any, asked: str) -> None:
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(module, VisionTransformer):
        kind = type(module).__name__
        raise SpecError(f"{asked}: is a {kind}; only timm's VisionTransformer can be pretrained here.")
    grid, patch = module.patch_embed.grid_size, module.patch_embed.patch_size
    if module.pos_embed is None or grid[0] != grid[1] or patch[0] != patch[1]:
        raise SpecError(
            f"{asked}: a network with learnt or fixed positions, square input and square patches is needed."
        )


def encoder_folder(out: Path) -> Path:
    """Where a run's encoder lies, for `local:`."""
    return out / f"{out.resolve().name}-encoder"


def write_encoder(trunk: Trunk, folder: Path, record: Mapping[str, Any]) -> Path:
    """Write the encoder as timm's `save_for_hf` lays it out, so that `local:FOLDER` is an encoder like any other.

    The folder is made under another name and renamed when it is whole.

    Args:
        trunk: what was trained.
        folder: must not be there yet.
        record: plain values on how it was trained, for `pretraining.json`.

    Raises:
        OutputExistsError: the folder is there.
    """
    if folder.exists():
        raise OutputExistsError(f"{folder}: is there already. Move it away, or name another folder.")
    assert trunk.config is not None, "what is trained whole can be written: trained_whole"
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    beside.mkdir(parents=True)
    try:
        write_timm_folder(beside, trunk.module.state_dict(), trunk.config)
        write_atomically(beside / CARD_FILE, (json.dumps(dict(record), indent=1, allow_nan=False) + "\n").encode())
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
