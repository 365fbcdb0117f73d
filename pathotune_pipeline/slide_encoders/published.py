"""Published parameter names of slide encoders to our own. Each tensor is used once, or is on a list of what is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pathotune_pipeline.errors import WeightsError
from pathotune_pipeline.slide_encoders.card import Architecture

_WRAPPERS = ("model", "state_dict")
_NAMES: dict[Architecture, tuple[tuple[str, str], ...]] = {
    "longnet": (
        (r"patch_embed\.proj\.(\w+)", r"embed_tile.\1"),
        (r"encoder\.layers\.(\d+)\.self_attn\.([qkv]|out)_proj\.(\w+)", r"layers.\1.\2_proj.\3"),
        (r"encoder\.layers\.(\d+)\.self_attn\.inner_attn_ln\.(\w+)", r"layers.\1.inner_norm.\2"),
        (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(\w+)", r"layers.\1.attention_norm.\2"),
        (r"encoder\.layers\.(\d+)\.ffn\.(fc[12])\.(\w+)", r"layers.\1.\2.\3"),
        (r"encoder\.layers\.(\d+)\.ffn\.ffn_layernorm\.(\w+)", r"layers.\1.inner_ffn_norm.\2"),
        (r"encoder\.layers\.(\d+)\.final_layer_norm\.(\w+)", r"layers.\1.ffn_norm.\2"),
        (r"encoder\.layer_norm\.(\w+)", r"layer_norm.\1"),
    ),
    "alibi-vit": (
        (r"patch_embed\.0\.(\w+)", r"embed_tile.0.\1"),
        (r"blocks\.modules_list\.(\d+)\.(norm[12])\.(\w+)", r"layers.\1.\2.\3"),
        (r"blocks\.modules_list\.(\d+)\.attn\.qkv\.(\w+)", r"layers.\1.qkv.\2"),
        (r"blocks\.modules_list\.(\d+)\.attn\.proj\.(\w+)", r"layers.\1.out_proj.\2"),
        (r"blocks\.modules_list\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"layers.\1.\2.\3"),
        (r"attn_pool_contrastive\.(.+)", r"pool.\1"),
    ),
    "abmil": (
        (r"patch_embed\.0\.(\w+)", r"embed_tile.0.\1"),
        (r"global_attn\.attention_a\.0\.(\w+)", r"v.\1"),
        (r"global_attn\.attention_b\.0\.(\w+)", r"u.\1"),
        (r"global_attn\.attention_c\.(\w+)", r"w.\1"),
    ),
    "mean": (),
}
_PREFIX: dict[Architecture, str] = {"longnet": "", "alibi-vit": "vision_encoder.", "abmil": "model.", "mean": ""}
_ASIDE: dict[Architecture, str] = {
    "longnet": r"pos_embed$|mask_token$|decoder",  # a table that is computed here, and the autoencoder's other half
    "alibi-vit": r"attn_pool\.",  # of the captions
    "abmil": r"classifier\.",
    "mean": r"$",
}


def rename(loaded: Mapping[str, Any], architecture: Architecture, asked: str) -> dict[str, Tensor]:
    """The tensors of a published file under our network's names; what is not known keeps its own, so that it shows.

    Args:
        loaded: what the file holds, perhaps within "model" or "state_dict".
        architecture: of the network.
        asked: what the user asked for, for the message.

    Raises:
        WeightsError: it holds no tensors.
    """
    while not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            raise WeightsError(f"{asked}: the file holds no parameters. Give the published file, or its state dict.")
        loaded = inner
    state = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    prefix = _PREFIX[architecture]
    if any(name.startswith(prefix) for name in state):  # other towers of the same file go
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    kept = ((name, value) for name, value in state.items() if not re.match(_ASIDE[architecture], name))
    return {_own(name, architecture): value for name, value in kept}


def _own(name: str, architecture: Architecture) -> str:
    for pattern, replacement in _NAMES[architecture]:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name
