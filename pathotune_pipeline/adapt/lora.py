"""LoRA: a low-rank change of the blocks' Linear layers, beside weights that stay as they are.

Source: Hu et al., LoRA, ICLR 2022 (arXiv 2106.09685): W + (alpha / rank) B A, with B = 0 at the start.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from pathotune_pipeline.adapt.backbone import Backbone
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.errors import SpecError

ATTENTION_LAYERS = frozenset({"qkv", "q_proj", "k_proj", "v_proj", "proj"})
MLP_LAYERS = frozenset({"fc1", "fc2", "fc1_g", "fc1_x"})


class LowRank(nn.Module):
    """The change of one Linear layer.

    Attributes:
        a: float32 [rank, in], Kaiming uniform as of a Linear layer.
        b: float32 [out, rank], zeros.
    """

    def __init__(self, linear: nn.Linear, spec: AdapterSpec) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(spec.rank, linear.in_features))
        self.b = nn.Parameter(torch.zeros(linear.out_features, spec.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.scale = spec.alpha / spec.rank
        self.dropout = spec.lora_dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] -> what is added to the layer's output, [..., out]."""
        dropped = F.dropout(inputs, self.dropout, self.training)
        return F.linear(F.linear(dropped, self.a.to(inputs.dtype)), self.b.to(inputs.dtype)) * self.scale

    def change(self) -> torch.Tensor:
        """(alpha / rank) B A, [out, in]."""
        return self.b @ self.a * self.scale

    def add(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """As a forward hook of the layer."""
        return output + self(args[0])


class LowRankChanges(nn.Module):
    """The changes of all targeted layers; each is named as its layer, with `-` for `.`."""

    def __init__(self, spec: AdapterSpec, backbone: Backbone) -> None:
        super().__init__()
        layers = target_layers(backbone, all_linear=spec.targets == "all")
        self.layers = nn.ModuleDict({name.replace(".", "-"): LowRank(layer, spec) for name, layer in layers.items()})
        self._handles: list[RemovableHandle] = []
        self._unchanged: list[torch.Tensor] = []

    @property
    def is_merged(self) -> bool:
        """Whether the layers have their changes in their weights."""
        return bool(self._unchanged)

    def hook(self, backbone: Backbone) -> None:
        """Let every layer's change be added to its output."""
        self._handles = [layer.register_forward_hook(change.add) for layer, change in self._pairs(backbone)]

    def merge(self, backbone: Backbone) -> None:
        """Give the layers weights of their own, with the changes added; the old ones' memory is left alone."""
        if self.is_merged:
            return
        for handle in self._handles:
            handle.remove()
        for layer, change in self._pairs(backbone):
            self._unchanged.append(layer.weight)
            added = change.change().detach()
            merged = (
                layer.weight.detach().to(added.dtype) + added
            )  # rounded once, where the weights are of half precision
            layer.weight = nn.Parameter(merged.to(layer.weight.dtype), requires_grad=False)

    def unmerge(self, backbone: Backbone) -> None:
        """Give the layers back the weights they had, bit by bit, with the changes beside them."""
        if not self.is_merged:
            return
        for (layer, _), weight in zip(self._pairs(backbone), self._unchanged, strict=True):
            layer.weight = nn.Parameter(weight.detach().to(layer.weight), requires_grad=False)
        self._unchanged = []
        self.hook(backbone)

    def _pairs(self, backbone: Backbone) -> list[tuple[nn.Linear, LowRank]]:
        pairs = []
        for name, change in self.layers.items():
            layer = backbone.trunk.get_submodule(name.replace("-", "."))
            if isinstance(layer, nn.Linear) and isinstance(change, LowRank):  # as built; said to the type checker
                pairs.append((layer, change))
        return pairs


def target_layers(backbone: Backbone, *, all_linear: bool) -> dict[str, nn.Linear]:
    """The Linear layers of the blocks that LoRA changes, by their names within the trunk. Never the patch embedding.

    Args:
        backbone: of `check_backbone`.
        all_linear: the MLP's layers as well as attention's.

    Raises:
        SpecError: a block has none of them, or its attention uses their weights without calling them.
    """
    names = ATTENTION_LAYERS | MLP_LAYERS if all_linear else ATTENTION_LAYERS
    found: dict[str, nn.Linear] = {}
    blocks: Any = backbone.trunk.blocks
    for number, block in enumerate(blocks):
        here = {
            f"blocks.{number}.{path}": layer
            for path, layer in block.named_modules()
            if isinstance(layer, nn.Linear) and path.rpartition(".")[2] in names
        }
        if not here:
            raise SpecError(
                f"lora: block {number} ({type(block).__name__}) has no layer called {', '.join(sorted(names))}. "
                "Use vpt-deep for this encoder."
            )
        for module in block.modules():
            if getattr(module, "q_bias", None) is not None and not getattr(module, "qkv_bias_separate", True):
                raise SpecError(
                    f"lora: {type(module).__name__} uses the weight of qkv without calling the layer, so that a change "
                    "beside it would be lost unseen. Use vpt-deep for this encoder."
                )
        found |= here
    return found
