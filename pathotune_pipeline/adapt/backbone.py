"""The transformer inside an encoder: found, checked, and cloned without its weights being copied."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from pathotune_pipeline.errors import SpecError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Backbone:
    """Facts about the transformer that prompts and LoRA need.

    Attributes:
        trunk: timm's VisionTransformer or Eva.
        dim: width D of a token.
        depth: number of blocks.
        patch_px: side of a patch.
        extras_at: where tokens may be added: None at the sequence's end; else behind so many prefix tokens.
    """

    trunk: nn.Module
    dim: int
    depth: int
    patch_px: int
    extras_at: int | None


def trunk_of(module: nn.Module) -> nn.Module:
    """The network inside the pooling that `encoders.network` puts around it; a bare one is itself."""
    while isinstance(inner := getattr(module, "trunk", None), nn.Module):
        module = inner
    return module


def check_backbone(module: nn.Module) -> Backbone:
    """What an adapter has to know of an encoder's network.

    timm's VisionTransformer takes added tokens at the end of the sequence, where no pooling of its tokens looks. Eva
    (EVA-02, DINOv3 and other rotary models) rotates every token behind its prefix by its place in the grid: there
    they stand behind the prefix, which its attention is then told to be longer.

    Args:
        module: an encoder's network, bare or within TokenPool, GlobalPool or AttentionTower.

    Raises:
        SpecError: it is a CNN, or a transformer whose blocks need the grid of tokens, or one that walks its own way.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    trunk = trunk_of(module)
    name = type(trunk).__name__
    for family in (VisionTransformer, Eva):
        if not isinstance(trunk, family):
            continue
        if type(trunk).forward_features is not family.forward_features:
            raise SpecError(
                f"adapter: {name} walks through its blocks in a way of its own, so that prompts might be lost unseen. "
                f"Use a plain {family.__name__}, or a linear probe."
            )
        side = trunk.patch_embed.patch_size
        return Backbone(
            trunk=trunk,
            dim=int(trunk.embed_dim),
            depth=len(trunk.blocks),
            patch_px=int(side[0] if isinstance(side, tuple) else side),
            extras_at=int(trunk.num_prefix_tokens) if family is Eva else None,
        )
    raise SpecError(
        f"adapter: {name} is neither timm's VisionTransformer nor its Eva. Prompts and LoRA need a sequence of tokens "
        "that may be longer than the grid; a CNN or a windowed transformer has none. Use method linear, partial or full."
    )


def clone_shared(module: M) -> M:
    """A copy of the structure over the same memory: every parameter and buffer lies where the original's does.

    The copies of the parameters are objects of their own and do not ask for gradients, so that freezing, hooks,
    modes and `.to(...)` of one leave the other alone. `.to(...)` to another device or dtype makes a copy of the
    weights: bring the original there first.

    Args:
        module: any module whose parameters do not wait for their first input.
    """
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach()
    return copy.deepcopy(module, memo)
