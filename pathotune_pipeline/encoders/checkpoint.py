"""Weights: find the file, load it strictly, and know it by its contents."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
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
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(flat.shape)}|{flat.dtype}\n".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def read_weights(path: Path, asked: str) -> dict[str, Any]:
    """What a weights file holds, on the CPU: safetensors, or a pickle of tensors alone. No code of the file is run.

    Raises:
        WeightsError: it is absent, damaged, or a pickle of other things than tensors and plain containers.
    """
    if not path.is_file():
        raise WeightsError(f"{asked}: nothing lies at {path}. Give a .safetensors, .bin or .pth file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0][:200]
        raise WeightsError(
            f"{asked}: {path.name} is a pickle that holds more than tensors, or is damaged; it was not run ({first}). "
            "Have its publisher save the state dict as safetensors."
        ) from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(f"{asked}: {path.name} cannot be read ({first}). Fetch it anew.") from error
    if not isinstance(loaded, dict):
        raise WeightsError(
            f"{asked}: {path.name} holds a {type(loaded).__name__}, not a state dict. Save its state_dict()."
        )
    return loaded


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
