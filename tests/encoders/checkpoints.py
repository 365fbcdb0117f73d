"""A small transformer as timm's `save_for_hf` lays it into a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 0,
    "num_features": 32,
    "model_args": {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0},
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "mean": [0.7, 0.6, 0.7],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": 0,
        "license": "apache-2.0",
    },
}


def write_checkpoint(folder: Path, *, seed: int = 0, pickled: bool = False) -> torch.nn.Module:
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = timm.create_model(CONFIG["architecture"], pretrained=False, **CONFIG["model_args"])
    if pickled:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return model.eval()
