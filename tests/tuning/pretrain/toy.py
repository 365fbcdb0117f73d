"""Small images with structure, and settings of runs that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pathotune_pipeline.tuning.pretrain.sources import Source, open_source
from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec

SETTINGS: dict[str, Any] = {
    "network": {"input_px": 32, "patch_px": 8, "embed_dim": 32, "depth": 2, "heads": 2},
    "decoder": {"width": 16, "blocks": 1, "heads": 2},
    "epochs": 3,
    "batch_size": 8,
    "warmup_epochs": 1,
    "base_lr": 0.02,
    "log_steps": 2,
    "check_steps": 3,
    "watch_images": 6,
}


def textures(count: int, *, side: int = 32, seed: int = 0) -> np.ndarray:
    """uint8 [count, side, side, 3]: stripes of random direction, width and colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        angle, width = rng.uniform(0, np.pi), rng.uniform(3, 9)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / width + rng.uniform(0, 6))[..., None]
        low, high = rng.uniform(0, 255, (2, 3))
        image[:] = low + 0.35 * (high - low) * (wave + 1) / 2  # images differ from one another more than within
    return images


def write_images(folder: Path, count: int = 40) -> Path:
    folder.mkdir()
    for number, image in enumerate(textures(count)):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


def spec_of(folder: Path, **changes: Any) -> PretrainSpec:
    data = {"images": [str(folder)], "held_out": 0.2, **changes.pop("data", {})}
    return PretrainSpec.parse({**SETTINGS, "data": data, **changes})


def source_of(spec: PretrainSpec) -> Source:
    return open_source(spec.data, input_px=spec.network.input_px, seed=spec.seed)
