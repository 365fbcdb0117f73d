"""Weights: find the file, load it strictly, and know it by its contents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pathotune_pipeline.errors import WeightsError

WEIGHT_FILES = ("model.safetensors", "open_clip_pytorch_model.safetensors", "pytorch_model.bin", "model.bin")


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of every tensor, in the order of the names.

    The same weights give the same digest from a safetensors file, a pickle, or a hub.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(flat.shape)}|{flat.dtype}\n".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def local_folder(path: Path, asked: str) -> Path:
    """The folder of a local checkpoint: `config.json` beside weights, as timm and the Hugging Face hub write it.

    Raises:
        WeightsError: the folder, its config.json or its weights are absent.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise WeightsError(f"{asked}: nothing lies at {path}. Give a folder with config.json and model.safetensors.")
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{asked}: {folder} has no config.json. It must name the timm architecture, such as "
            '{"architecture": "vit_small_patch16_224", "model_args": {...}, "pretrained_cfg": {"mean": [...], ...}}.'
        )
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise WeightsError(
            f"{asked}: {folder} has a config.json and no weights. Put one of {', '.join(WEIGHT_FILES)} there."
        )
    return folder


def read_config(folder: Path, asked: str) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        WeightsError: it is no JSON object that names an architecture.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise WeightsError(f"{asked}: config.json is not JSON ({error}). Write it anew.") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise WeightsError(f'{asked}: config.json does not name an "architecture". Add timm\'s name of the network.')
    return config
