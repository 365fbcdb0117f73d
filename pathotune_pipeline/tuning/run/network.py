"""What learns: an encoder's network by method, with the part of it that is trained and at which pace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork, attach
from pathotune_pipeline.adapt.backbone import check_backbone, trunk_of
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.engine.optimizer import ParameterGroup
from pathotune_pipeline.errors import SpecError, UnknownNameError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.tuning.run.spec import ADAPTERS, AdaptSpec


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A network on its way to being adapted.

    Attributes:
        encoder: the network's card, its scale of pixels, its device; the network is `network`.
        network: prepared pixels to features [B, D].
        trained: the part of it that learns; all else is frozen, and stays in evaluation mode.
        groups: the trained parameters by the pace at which they learn.
    """

    encoder: Encoder
    network: nn.Module
    trained: nn.Module
    groups: tuple[ParameterGroup, ...]

    @property
    def dim(self) -> int:
        """Length D of a feature."""
        return self.encoder.card.dim

    def train(self, *, mode: bool) -> None:
        """Let the trained part, and it alone, be in training mode or not."""
        (self.network if isinstance(self.network, AdaptedNetwork) else self.trained).train(mode)

    def save_memory(self) -> None:
        """Compute activations twice rather than keep them.

        Raises:
            SpecError: the network does not offer it.
        """
        if isinstance(self.network, AdaptedNetwork):
            self.network.checkpoint_blocks(enabled=True)
            return
        trunk: Any = trunk_of(self.network)
        try:
            trunk.set_grad_checkpointing(True)
        except (AttributeError, AssertionError):
            raise SpecError(f"--checkpointing: {type(trunk).__name__} does not offer it. Leave it out.") from None


def build_body(
    encoder: Encoder | EncoderSpec, spec: AdaptSpec, *, texts: Tensor | None, device: torch.device, side_px: int
) -> Body:
    """The network of a method that learns by gradients.

    Args:
        encoder: stays as it is; a Spec is made into one, in fp32.
        spec: method and its settings.
        texts: float32 [K, T, d], embedded texts of the tasks, for pathotune.
        device: where it learns.
        side_px: of the patches; a cnn from scratch sees them as they are.

    Raises:
        SpecError: the method does not go with the encoder.
        UnknownNameError: timm knows no such cnn.
        WeightsError: weights are absent or do not fit.
    """
    if spec.method == "cnn":
        return _whole(_cnn(spec.cnn, device, side_px), spec)
    if isinstance(encoder, EncoderSpec):
        encoder = create_encoder(encoder.with_values(precision="fp32"), device=device)
    check_encoder(encoder, spec)
    if spec.method in ADAPTERS:
        return _adapted(encoder, spec, texts)
    own = Encoder(copy.deepcopy(encoder.module), encoder.card, encoder.spec, encoder.device)
    return _last_blocks(own, spec) if spec.method == "partial" else _whole(own, spec)


def check_encoder(encoder: Encoder, spec: AdaptSpec) -> None:
    """Make sure that a method that learns by gradients goes with an encoder.

    Raises:
        SpecError: it does not.
    """
    name = encoder.card.name
    if encoder.card.mean is None:
        raise SpecError(
            f"--method {spec.method}: {name} has no weights that could be adapted. Name an encoder that has, with --encoder; "
            "of patches, linear and knn take any."
        )
    if encoder.dtype != torch.float32:
        raise SpecError(
            f"--method {spec.method}: {name} was loaded in {encoder.spec.precision}; weights that learn, or that learning "
            "goes through, are wanted in fp32. Leave --precision out; --train-precision bf16 computes in bf16."
        )
    if spec.method == "full":
        return
    blocks = len(check_backbone(encoder.module).trunk.blocks)  # type: ignore[arg-type]
    if spec.method == "partial" and spec.partial_blocks > blocks:
        raise SpecError(
            f"--partial-blocks {spec.partial_blocks}: {name} has {blocks} blocks. Ask for fewer, or use method full."
        )


def _adapted(encoder: Encoder, spec: AdaptSpec, texts: Tensor | None) -> Body:
    adapted = attach(encoder.module, spec.adapter.with_values(method=spec.method), texts=texts).to(encoder.device)
    refine: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in adapted.adapter.named_parameters():
        (refine if name.startswith("instance.refine.") else rest).append(parameter)
    groups = [ParameterGroup("prompts", rest)] if rest else []
    if refine:
        groups.append(ParameterGroup("refine", refine, lr_scale=spec.refine_lr))
    return Body(encoder, adapted, adapted.adapter, tuple(groups))


def _last_blocks(encoder: Encoder, spec: AdaptSpec) -> Body:
    """The last blocks and what follows them: the final norm, a pool's own weights."""
    trunk: Any = check_backbone(encoder.module).trunk
    trained = nn.ModuleList([*trunk.blocks[-spec.partial_blocks :], *_after_blocks(encoder.module)]).requires_grad_(
        True
    )
    return Body(encoder, encoder.module, trained, (ParameterGroup("last blocks", list(trained.parameters())),))


def _whole(encoder: Encoder, spec: AdaptSpec) -> Body:
    network = encoder.module.requires_grad_(True)
    return Body(encoder, network, network, tuple(_by_depth(network, spec.layer_decay)))


def _by_depth(network: nn.Module, decay: float) -> Iterator[ParameterGroup]:
    """A transformer's parameters by block, each with `decay` of the next one's pace; a CNN's are one group.

    Source: Bao et al., BEiT, ICLR 2022 (arXiv 2106.08254), appendix: layer-wise learning rate decay.
    """
    blocks = getattr(trunk_of(network), "blocks", None)
    if decay == 1 or not _is_transformer(blocks):
        yield ParameterGroup("all", list(network.parameters()))
        return
    depth_of = {id(p): depth + 1 for depth, block in enumerate(blocks) for p in block.parameters()}
    last = len(blocks) + 1
    depth_of |= {id(p): last for module in _after_blocks(network) for p in module.parameters()}
    by_depth: dict[int, list[nn.Parameter]] = {}
    for parameter in network.parameters():
        by_depth.setdefault(depth_of.get(id(parameter), 0), []).append(parameter)
    for depth, parameters in sorted(by_depth.items()):
        yield ParameterGroup(f"depth {depth}", parameters, lr_scale=decay ** (last - depth))


def _is_transformer(blocks: object) -> TypeGuard[nn.Sequential | nn.ModuleList]:
    return isinstance(blocks, nn.Sequential | nn.ModuleList) and all(hasattr(block, "attn") for block in blocks)


def _after_blocks(network: nn.Module) -> list[nn.Module]:
    """What a transformer's tokens go through behind the last block: norms, and a pool with weights of its own."""
    trunk = trunk_of(network)
    own = [getattr(trunk, name, None) for name in ("norm", "fc_norm", "attn_pool")]
    around = [] if trunk is network else [module for module in network.children() if module is not trunk]
    return [
        module for module in (*own, *around) if isinstance(module, nn.Module) and any(True for _ in module.parameters())
    ]


def _cnn(name: str, device: torch.device, side_px: int) -> Encoder:
    """The network of a name: of timm's catalogue at random, or an encoder with weights where a source stands before it."""
    import timm

    if ":" in name:
        return create_encoder(EncoderSpec(name=name), device=device)
    if not timm.is_model(name):
        raise UnknownNameError(f"--cnn: timm knows no network {name!r}.{nearest(name, timm.list_models())}")
    module = timm.create_model(name, pretrained=False, num_classes=0)
    config = module.pretrained_cfg or {}
    card = EncoderCard(
        name=f"timm:{name}",
        source="timm",
        architecture=name,
        dim=int(getattr(module, "head_hidden_size", module.num_features)),
        input_px=side_px,
        tile_px=side_px,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return Encoder(module, card, EncoderSpec(name=card.name), device)
