"""An adapter on an encoder's network: a structural clone over the same weights, with hooks."""

from __future__ import annotations

from typing import Any, Self, TypeVar

import torch
from torch import nn

from pathotune_pipeline.adapt.backbone import Backbone, check_backbone, clone_shared
from pathotune_pipeline.adapt.lora import LowRankChanges
from pathotune_pipeline.adapt.pathotune import InstancePrompts, TextPrompts
from pathotune_pipeline.adapt.spec import AdapterSpec, Scope
from pathotune_pipeline.adapt.stream import Counts, TokenStream, run_passing
from pathotune_pipeline.adapt.vpt import VisualPrompts
from pathotune_pipeline.errors import SpecError, UsageError

P = TypeVar("P", bound=nn.Module)


class AdaptedNetwork(nn.Module):
    """A frozen network and the small part that changes what it says.

    Attributes:
        network: the frozen clone; stays in eval mode, whatever `train` is told.
        adapter: holds the only parameters that ask for gradients. By method: `visual`, `text`, `instance` (prompts),
            or `low_rank`.
        spec: what was attached.
    """

    def __init__(self, network: nn.Module, adapter: nn.ModuleDict, spec: AdapterSpec) -> None:
        super().__init__()
        self.network = network
        self.adapter = adapter
        self.spec = spec
        self._text: int | torch.Tensor = 0
        self._checkpoints = False

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, 3, P, P] -> what the network makes of them, [B, D]."""
        return run_passing(self._tokens(pixels), self.network, pixels)

    def trainable_names(self) -> list[str]:
        """Names of the parameters that training moves, as `named_parameters` has them."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Dropout of the adapter as told; the network stays as in use, drop-path and dropout off."""
        low_rank = self._part(LowRankChanges)
        if mode and low_rank is not None and low_rank.is_merged:
            raise UsageError(
                "train: LoRA's changes are merged into the weights, where nothing trains them. unmerge() first."
            )
        super().train(mode)
        self.network.eval()
        self._set_checkpoints()
        return self

    def checkpoint_blocks(self, *, enabled: bool) -> None:
        """While training, keep only what enters each block and run it again for the gradients: slower, far less memory."""
        self._checkpoints = enabled
        self._set_checkpoints()

    def _set_checkpoints(self) -> None:
        trunk: Any = check_backbone(self.network).trunk
        trunk.set_grad_checkpointing(self._checkpoints and self.training)

    def select_text(self, index: int | torch.Tensor) -> None:
        """Choose the text that goes with the images.

        Args:
            index: one number for all, or int64 [B] for the images of the next batches.

        Raises:
            SpecError: the adapter has no text of that number.
        """
        text = self._part(TextPrompts)
        known = 1 if text is None else len(text.embeddings)
        asked = torch.as_tensor(index)
        if asked.is_floating_point() or asked.ndim > 1 or asked.numel() == 0 or asked.min() < 0 or asked.max() >= known:
            raise SpecError(f"select_text: {index} was asked for; the adapter has texts 0 to {known - 1}.")
        self._text = index

    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor | None:
        """Tokens of the text and of the instances, the carried ones first: [B, n, D]."""
        made: dict[Scope, list[torch.Tensor]] = {"first": [], "deep": []}
        text, instance = self._part(TextPrompts), self._part(InstancePrompts)
        if text is not None:
            made[self.spec.text_scope].append(text(self._text_numbers(pixels)).expand(len(pixels), -1, -1))
        if instance is not None:
            made[self.spec.instance_scope].append(instance(pixels))
        tokens = made["first"] + made["deep"]
        return torch.cat(tokens, 1) if tokens else None

    def _part(self, kind: type[P]) -> P | None:
        for part in self.adapter.children():
            if isinstance(part, kind):
                return part
        return None

    def _text_numbers(self, pixels: torch.Tensor) -> torch.Tensor:
        numbers = torch.as_tensor(self._text, device=pixels.device).reshape(-1)
        if len(numbers) not in (1, len(pixels)):
            raise SpecError(
                f"select_text: numbers for {len(numbers)} images were given; the batch has {len(pixels)}. "
                "Give one for each image, or one for all."
            )
        return numbers

    def merge(self) -> None:
        """Put LoRA's changes into the layers' weights; their shared memory is left alone. No other adapter has any."""
        if (low_rank := self._part(LowRankChanges)) is not None:
            low_rank.merge(check_backbone(self.network))

    def unmerge(self) -> None:
        """Take LoRA's changes out of the weights again: they are what they were, bit by bit."""
        if (low_rank := self._part(LowRankChanges)) is not None:
            low_rank.unmerge(check_backbone(self.network))

    def for_inference(self) -> nn.Module:
        """The same function in its fastest form, in eval mode; this network is left as it is.

        LoRA: a network of the encoder's own form, whose changed layers have weights of their own; the others are shared.
        Prompts: a network over the same memory.
        """
        twin = clone_shared(self).eval()
        twin.merge()
        return twin.network if "low_rank" in twin.adapter else twin


def attach(module: nn.Module, spec: AdapterSpec, *, texts: torch.Tensor | None = None) -> AdaptedNetwork:
    """Put a fresh adapter on an encoder's network. The network itself is left as it is.

    Args:
        module: an encoder's network (TokenPool, GlobalPool, AttentionTower, or a bare timm transformer).
        spec: which adapter. Its tensors are drawn from torch's global random state.
        texts: float32 [K, T, d_t], embedded tokens of the texts of K tasks; rows of zeros are padding. Only where
            `spec.needs_texts()`.

    Raises:
        SpecError: the network cannot be adapted, or texts are missing or not wanted.
    """
    if isinstance(module, AdaptedNetwork):
        raise SpecError("adapter: the network has an adapter already. Attach to the encoder's own network.")
    while isinstance(compiled := getattr(module, "_orig_mod", None), nn.Module):
        module = compiled  # torch.compile's wrapper would run the graph that knows no hooks
    network = clone_shared(module).eval()
    backbone = check_backbone(network)
    if (texts is None) == spec.needs_texts():
        raise SpecError(
            "adapter: pathotune with its textual prompts must be given the embedded texts of its tasks. Embed spec.text(classes)."
            if texts is None
            else f"adapter: {spec.method} takes no texts as it is set. Leave them out."
        )
    parts = _parts(spec, backbone, texts)
    adapted = AdaptedNetwork(network, nn.ModuleDict(parts), spec)
    device = next(network.parameters()).device
    if device.type != "meta":
        adapted.adapter.to(device)
    low_rank = parts.get("low_rank")
    if isinstance(low_rank, LowRankChanges):
        low_rank.hook(backbone)
    else:
        _stream(spec, backbone, parts).hook(backbone)
    return adapted.train()


def _parts(spec: AdapterSpec, backbone: Backbone, texts: torch.Tensor | None) -> dict[str, nn.Module]:
    match spec.method:
        case "lora":
            return {"low_rank": LowRankChanges(spec, backbone)}
        case "vpt-shallow":
            return {"visual": VisualPrompts(spec, backbone, sets=1)} if spec.n_prompts else {}
        case "vpt-deep":
            return {"visual": VisualPrompts(spec, backbone, sets=backbone.depth)} if spec.n_prompts else {}
    parts: dict[str, nn.Module] = {}
    if spec.tvp and spec.n_prompts:
        parts["visual"] = VisualPrompts(spec, backbone, sets=backbone.depth)
    if texts is not None:
        parts["text"] = TextPrompts(spec, backbone, texts)
    if spec.ivp:
        parts["instance"] = InstancePrompts(spec, backbone)
    return parts


def _stream(spec: AdapterSpec, backbone: Backbone, parts: dict[str, nn.Module]) -> TokenStream:
    visual = parts.get("visual")
    lengths = {"text": spec.n_text, "instance": spec.n_instance}
    scopes = {"text": spec.text_scope, "instance": spec.instance_scope}
    carried, renewed = (
        sum(lengths[name] for name in lengths if name in parts and scopes[name] == scope) for scope in ("first", "deep")
    )
    if not isinstance(visual, VisualPrompts):
        return TokenStream(Counts(carried, renewed), backbone.extras_at)
    if spec.method == "vpt-shallow":
        return TokenStream(Counts(spec.n_prompts), backbone.extras_at, entering=visual.first)
    return TokenStream(Counts(carried, renewed, spec.n_prompts), backbone.extras_at, own=visual)
