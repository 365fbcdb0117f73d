"""Published parameter names to the network's own. Every tensor is used once or is on a list of what may be left out.

Known: timm's names; Meta's DINO and DINOv2 (blocks in chunks too, teacher checkpoints too); transformers' ViT and DINOv2
with and without registers, so that neither transformers nor a repository's code is needed; PathoDuet; CONCH's towers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pathotune_pipeline.errors import WeightsError
from pathotune_pipeline.registry import nearest

State = dict[str, Tensor]

_SHOWN = 6  # problems in one message

_WRAPPERS = ("teacher", "state_dict", "model", "model_state_dict", "student")
_PREFIXES = ("_orig_mod.", "module.", "base_encoder.", "backbone.", "encoder.backbone.", "model.", "visual.",
             "vit.", "dinov2.", "dinov2_with_registers.", "trunk.")  # fmt: skip
_NOT_FEATURES = re.compile(
    r"^(mask_token$|embeddings\.mask_token$|pooler\.|classifier\.|head\.|fc\.(weight|bias)$"
    r"|proj_contrast$|attn_pool_caption\.|ln_caption\.)"
)
"""What belongs to training or to a classifier: left out where the network has no such parameter."""
_OTHER_TOWERS = ("text.", "text_decoder.", "logit_scale", "dino_head.", "ibot_head.", "momentum_encoder.", "predictor.")

_TRANSFORMERS = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.", r"blocks.\1.attn.\2."),
    (r"^encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.", r"blocks.\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)  # fmt: skip
_META = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in chunks: blocks.<chunk>.<block>
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
    (r"^pretext_token$", "reg_token"),
)


def load_strictly(
    network: nn.Module, loaded: Mapping[str, Any], asked: str, *, resample_positions: bool = False
) -> None:
    """Fill a network's parameters from a published checkpoint, in whichever of the known layouts it is.

    Args:
        network: as `build_network` made it, or any module whose trunk is called `trunk`.
        loaded: what the file holds.
        asked: what the user asked for, for the message.
        resample_positions: interpolate position embeddings of another grid, where the published code does so.

    Raises:
        WeightsError: a parameter is missing, left over or of another shape; each is named.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    fill(network, convert(loaded, wanted, asked, resample_positions=resample_positions), asked)


def fill(network: nn.Module, state: State, asked: str) -> None:
    """Put tensors in place of a network's parameters and buffers, one for each and none left over.

    Args:
        network: whose; it may lie on "meta".
        state: under the network's own names; emptied.
        asked: what the user asked for, for the message.

    Raises:
        WeightsError: a parameter is missing, left over or of another shape; each is named.
    """
    own = network.state_dict()
    problems = differences(state, {name: tensor.shape for name, tensor in own.items()})
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (
            f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        )
        raise WeightsError(
            f"{asked}: the weights do not fit the architecture: {shown}. Give the weights of this encoder."
        )
    # Copied: a tensor of a safetensors file is the file itself, mapped, and must not change under the network.
    state = {name: state.pop(name).to(own[name].dtype, copy=True).contiguous() for name in own}
    network.load_state_dict(state, strict=True, assign=True)


def convert(
    loaded: Mapping[str, Any], wanted: Mapping[str, torch.Size], asked: str, *, resample_positions: bool = False
) -> State:
    """A checkpoint under the names of `wanted`; what cannot be placed keeps its name, so that `differences` shows it.

    Raises:
        WeightsError: it holds no tensors, or two tensors claim one parameter.
    """
    trunk = "trunk." if _all_start(wanted, "trunk.") or "trunk.pos_embed" in wanted else ""
    shapes = {name.removeprefix(trunk): shape for name, shape in wanted.items()}
    state = {name.removeprefix(trunk): tensor for name, tensor in _inner(loaded, asked).items()}
    state = {name: tensor for name, tensor in state.items() if name in shapes or not _NOT_FEATURES.match(name)}
    if any(name.startswith("embeddings.") for name in state):
        state = _fuse_qkv(_rename(state, _TRANSFORMERS, asked), asked)
    pretext = "pretext_token" in state
    state = _rename(state, _META, asked)
    _place_positions(state, shapes, pretext=pretext, resample=resample_positions)
    return {trunk + name if trunk + name in wanted else name: tensor for name, tensor in state.items()}


def differences(state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> list[str]:
    """What does not fit, one phrase each: missing parameters, unexpected ones, other shapes."""
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    found = [f"{name} is missing.{nearest(name, unexpected)}".removesuffix(".") for name in missing[:_SHOWN]]
    found += [f"{name} is missing" for name in missing[_SHOWN:]]
    found += [f"{name} is unexpected" for name in unexpected]
    found += [
        f"{name} has shape {tuple(tensor.shape)} and must have {tuple(wanted[name])}"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    return found


def _inner(loaded: Mapping[str, Any], asked: str) -> State:
    """The tensors of the image network: out of wrappers, without common prefixes and without other towers."""
    while not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            raise WeightsError(
                f"{asked}: the file holds no parameters, only {', '.join(map(str, list(loaded)[:5])) or 'nothing'}. "
                "Give a checkpoint's state dict."
            )
        loaded = inner
    state: State = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    while True:  # prefixes stand in front of prefixes
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_OTHER_TOWERS)}
        prefix = next((prefix for prefix in _PREFIXES if state and _all_start(state, prefix)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _all_start(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _rename(state: State, rules: Iterable[tuple[str, str]], asked: str) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise WeightsError(f"{asked}: two tensors of the file claim {new}. Give the weights of one network.")
        renamed[new] = tensor
    return renamed


def _fuse_qkv(state: State, asked: str) -> State:
    """Query, key and value of each block as one matrix, in this order."""
    fused: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)(query|key|value)\.(weight|bias)", name)
        if match is None:
            fused[name] = tensor
            continue
        block, kind = match[1], match[3]
        parts = [state.get(f"{block}{part}.{kind}") for part in ("query", "key", "value")]
        present = [part for part in parts if part is not None]
        if len(present) < 3 or len({part.shape[1:] for part in present}) > 1:
            raise WeightsError(
                f"{asked}: {block} lacks one of query, key and value, or they differ in shape. Fetch it anew."
            )
        fused.setdefault(f"{block}qkv.{kind}", torch.cat(present))
    return fused


def _place_positions(state: State, shapes: Mapping[str, torch.Size], *, pretext: bool, resample: bool) -> None:
    """Position embeddings in the order and number that the trunk takes, without changing what it computes."""
    positions, target = state.get("pos_embed"), shapes.get("pos_embed")
    if positions is None or target is None or positions.ndim != 3 or len(target) != 3:
        return
    if pretext and positions.shape == target:  # PathoDuet has its pretext token first, timm the class token
        state["pos_embed"] = torch.cat([positions[:, 1:2], positions[:, :1], positions[:, 2:]], 1)
        return
    cls_token = state.get("cls_token")
    if cls_token is not None and "reg_token" in shapes and positions.shape[1] == target[1] + 1:
        # DINOv2 adds a position to the class token and none to registers; timm keeps that sum as the class token.
        state["cls_token"] = cls_token + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    elif resample and positions.shape[1] != target[1] and positions.shape[2] == target[2]:
        state["pos_embed"] = _resample(positions, target[1])


def _resample(positions: Tensor, count: int) -> Tensor:
    """A class token's and a grid's positions, the grid interpolated bicubically with DINO's offset of 0.1."""
    side, old = round((count - 1) ** 0.5), round((positions.shape[1] - 1) ** 0.5)
    if side * side != count - 1 or old * old != positions.shape[1] - 1:
        return positions
    grid = positions[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    scale = (side + 0.1) / old
    grid = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2).to(positions.dtype)], 1)
