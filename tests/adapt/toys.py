"""Small transformers of every kind that adapters meet, with random weights, and adapters that have left their start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import SwiGLU, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork, attach
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.encoders.card import EncoderCard
from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.encoders.network import AttentionTower, ConchPool, GlobalPool, TokenPool

DIM, DEPTH, SIDE, PATCH, TEXT_DIM = 64, 3, 32, 8, 24
METHODS = ("vpt-shallow", "vpt-deep", "pathotune", "lora")


def _filled(network: nn.Module, seed: int) -> nn.Module:
    """Every parameter random, biases, layer scales and registers too; in train mode, as a careless caller leaves it."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = 1.0 if parameter.ndim == 1 and name.endswith(("weight", "gamma")) else 0.0
            parameter.copy_(scale + 0.1 * torch.randn(parameter.shape, generator=draw))
    return network


def vit(seed: int = 0, **changes: Any) -> Any:
    size = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": DIM, "depth": DEPTH, "num_heads": 4, "num_classes": 0}
    return _filled(VisionTransformer(**{**size, **changes}), seed)


def rotary(seed: int = 0, **changes: Any) -> Any:
    """As DINOv3: rotary positions and registers."""
    size = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": DIM, "depth": DEPTH, "num_heads": 4, "num_classes": 0}
    kind = {
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "rope_type": "dinov3",
        "rope_rotate_half": True,
        "rope_temperature": 100,
        "num_reg_tokens": 2,
        "qkv_bias": False,
        "init_values": 0.5,
        "dynamic_img_size": True,
        "use_fc_norm": False,
        "global_pool": "token",
    }
    return _filled(Eva(**{**size, **kind, **changes}), seed)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "class token": vit,
    "registers": lambda: TokenPool(
        vit(reg_tokens=3, no_embed_class=True, init_values=0.5, dynamic_img_size=True), "cls+mean"
    ),
    "mean": lambda: TokenPool(vit(class_token=False, global_pool="avg", num_classes=5), "mean"),
    "SwiGLU packed": lambda: GlobalPool(
        vit(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, drop_path_rate=0.3, proj_drop_rate=0.2, init_values=0.5)
    ),
    "SwiGLU": lambda: vit(mlp_layer=SwiGLU, act_layer=nn.SiLU, pre_norm=True, patch_drop_rate=0.5),
    "attention pool": lambda: AttentionTower(vit(), ConchPool, 40),
    "rotary": rotary,
    "rotary mean": lambda: GlobalPool(
        rotary(
            global_pool="avg",
            use_fc_norm=True,
            class_token=False,
            num_reg_tokens=0,
            rope_type="mixed",
            rope_rotate_half=False,
        )
    ),
}


def frozen(kind: str) -> nn.Module:
    """As an Encoder holds it. torch may sum otherwise where a weight asks for gradients, even while none are made."""
    return KINDS[kind]().eval().requires_grad_(False)


def pixels(count: int = 3, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def texts(count: int = 2, tokens: int = 6) -> torch.Tensor:
    """Embedded texts of different lengths, padded with zeros."""
    drawn = torch.randn(count, tokens, TEXT_DIM, generator=torch.Generator().manual_seed(9))
    for number in range(count):
        drawn[number, tokens - number :] = 0
    return drawn


def spec_of(method: str, **changes: Any) -> AdapterSpec:
    return AdapterSpec.parse({"method": method, "n_prompts": 5, "rank": 4, **changes})


def fresh(module: nn.Module, spec: AdapterSpec, seed: int = 1) -> AdaptedNetwork:
    """A fresh adapter in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attach(module, spec, texts=texts() if spec.needs_texts() else None).eval()


def moved(module: nn.Module, spec: AdapterSpec, seed: int = 1) -> AdaptedNetwork:
    """An adapter whose every tensor has left its start: gates are open, and no product is zero."""
    adapted = fresh(module, spec, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        if "instance" in adapted.adapter:
            adapted.adapter["instance"].gate.fill_(0.5)
    return adapted


def card_of(module: nn.Module, **changes: Any) -> EncoderCard:
    facts = {"name": "toy", "source": "local", "architecture": "toy", "dim": DIM, "input_px": SIDE, "pooling": "cls"}
    return EncoderCard.parse({**facts, "weights_sha256": state_sha256(module), **changes})


def snapshot(network: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer, those too that a state dict leaves out, byte by byte."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in named}
