"""Small encoders, and patches whose classes a machine can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.tuning.patches.patch_set import PatchSet

SIDE_PX = 32
_MODEL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def make_encoder(seed: int = 0, *, depth: int = 3) -> Encoder:
    """A vision transformer at random: what it gives still tells colours and textures apart."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(
            img_size=SIDE_PX, patch_size=8, embed_dim=64, depth=depth, num_heads=4, num_classes=0
        )
    card = EncoderCard(
        name="toy", source="local", architecture="toy-vit", dim=64, input_px=SIDE_PX, tile_px=SIDE_PX,
        weights_sha256=state_sha256(network),
    )  # fmt: skip
    return Encoder(network, card, EncoderSpec(name="toy", batch_size=16), torch.device("cpu"))


def make_patches(pixels: np.ndarray, labels: np.ndarray, *, classes: tuple[str, ...], per_group: int = 4) -> PatchSet:
    """A set of which every few patches are one group."""
    count = len(labels)
    return PatchSet(
        images=pixels,
        labels=labels.astype(np.int64),
        classes=classes,
        groups=tuple(f"slide-{place // per_group}" for place in range(count)),
        domains=("",) * count,
        splits=("",) * count,
        names=tuple(f"patch-{place}" for place in range(count)),
    )


def stained(count: int, colours: list[tuple[int, int, int]], *, seed: int = 0, noise: float = 45.0) -> PatchSet:
    """Patches of one colour under noise, which is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(colours))
    pixels = np.array(colours)[labels][:, None, None] + rng.normal(0, noise, (count, SIDE_PX, SIDE_PX, 3))
    classes = tuple(f"class-{place}" for place in range(len(colours)))
    return make_patches(np.clip(pixels, 0, 255).astype(np.uint8), labels, classes=classes)


@pytest.fixture
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture
def new_encoder() -> Callable[..., Encoder]:
    return make_encoder


@pytest.fixture
def new_patches() -> Callable[..., PatchSet]:
    return make_patches


@pytest.fixture(scope="session")
def pink_and_blue() -> PatchSet:
    """160 patches, pink or blue."""
    return stained(160, [(200, 120, 180), (120, 90, 190)])


@pytest.fixture(scope="session")
def three_stains() -> PatchSet:
    """180 patches of three colours, hard to tell under their noise."""
    return stained(180, [(200, 120, 180), (196, 121, 182), (199, 116, 184)], noise=60.0)


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory) -> Path:
    """A small transformer as timm's `save_for_hf` lays it out, with a classifier of its own."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("backbone") / "small"
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=5, **_MODEL)
    save_file(model.state_dict(), folder / "model.safetensors")
    seen = {"input_size": [3, 32, 32], "mean": [0.7, 0.6, 0.7], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic",
            "crop_pct": 1.0, "num_classes": 5, "license": "mit"}  # fmt: skip
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": _MODEL, "pretrained_cfg": seen}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
