"""The transformer is found and cloned without a copy of its weights; what cannot be adapted is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pathotune_pipeline.adapt.attach import attach
from pathotune_pipeline.adapt.backbone import check_backbone, clone_shared, trunk_of
from pathotune_pipeline.adapt.lora import target_layers
from pathotune_pipeline.encoders.catalogue import catalogue
from pathotune_pipeline.encoders.network import build_network
from pathotune_pipeline.errors import SpecError
from tests.adapt.toys import DEPTH, DIM, KINDS, METHODS, PATCH, fresh, moved, pixels, snapshot, spec_of, texts, vit


@pytest.mark.parametrize("kind", KINDS)
def test_the_trunk_is_found_whatever_stands_around_it(kind: str) -> None:
    module = KINDS[kind]()
    backbone = check_backbone(module)
    assert backbone.trunk is trunk_of(module)
    assert (backbone.dim, backbone.depth, backbone.patch_px) == (DIM, DEPTH, PATCH)
    assert (backbone.extras_at is not None) == kind.startswith("rotary")


@pytest.mark.parametrize(
    ("name", "method"),
    [*(("resnet18", method) for method in METHODS), ("convnext_atto", "lora"), ("swin_tiny_patch4_window7_224", "lora"),
     ("beit_base_patch16_224", "vpt-deep")],
)  # fmt: skip
def test_what_has_no_sequence_to_lengthen_is_refused_with_the_reason(name: str, method: str) -> None:
    with torch.device("meta"):
        module = timm.create_model(name, pretrained=False)
    with pytest.raises(SpecError, match=f"{type(module).__name__} is neither timm's VisionTransformer nor its Eva"):
        attach(module, spec_of(method), texts=texts() if method == "pathotune" else None)


def test_a_second_adapter_on_top_of_one_is_refused() -> None:
    with pytest.raises(SpecError, match="has an adapter already"):
        attach(fresh(vit(), spec_of("vpt-deep")), spec_of("lora"))


def test_a_transformer_that_walks_its_own_way_is_refused() -> None:
    class Skipping(VisionTransformer):
        def forward_features(self, x: torch.Tensor, **rest: object) -> torch.Tensor:
            return self.blocks[-1](super().forward_features(x))

    with pytest.raises(SpecError, match="Skipping walks through its blocks in a way of its own"):
        attach(Skipping(img_size=32, patch_size=8, embed_dim=DIM, depth=1, num_heads=4), spec_of("vpt-deep"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_is_another_structure_over_the_same_memory(kind: str) -> None:
    module = KINDS[kind]()
    clone = clone_shared(module)
    assert not {id(part) for part in module.modules()} & {id(part) for part in clone.modules()}
    theirs = dict([*clone.named_parameters(), *clone.named_buffers()])
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert theirs[name].data_ptr() == tensor.data_ptr()
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(parameter.requires_grad for parameter in clone.parameters())
    assert module.training  # a clone's modes are its own
    assert not clone.eval().training
    assert module.training


def test_a_clone_that_moves_to_another_dtype_leaves_the_original_where_it_is() -> None:
    module = vit()
    before = snapshot(module)
    clone_shared(module).to(torch.bfloat16)
    assert snapshot(module) == before


def test_weights_that_two_layers_share_are_still_shared() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    clone = clone_shared(module)
    assert clone[1].weight is clone[0].weight


@pytest.mark.parametrize("method", METHODS)
def test_two_adapters_and_the_frozen_network_do_not_disturb_each_other(method: str) -> None:
    module = vit().eval()
    frozen = module(pixels())
    one = moved(module, spec_of(method), seed=1)
    alone = one(pixels())
    other = moved(module, spec_of("vpt-deep", n_prompts=3), seed=2)
    theirs = other(pixels())
    assert not torch.allclose(alone, theirs, atol=1e-3)
    assert not torch.allclose(alone, frozen, atol=1e-3)
    assert torch.equal(one(pixels()), alone)
    assert torch.equal(other(pixels()), theirs)
    assert torch.equal(module(pixels()), frozen)
    weights = {parameter.data_ptr() for parameter in module.parameters()}
    for adapted in (one, other):
        assert {parameter.data_ptr() for parameter in adapted.network.parameters()} == weights


def test_the_base_keeps_no_hook_and_no_changed_attribute() -> None:
    for make in KINDS.values():
        module = make()
        prefixes = [getattr(part, "num_prefix_tokens", None) for part in module.modules()]
        for method in METHODS:
            fresh(module, spec_of(method, targets="all"))
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
        assert [getattr(part, "num_prefix_tokens", None) for part in module.modules()] == prefixes


def test_every_transformer_of_the_catalogue_can_be_adapted() -> None:
    refused = set()
    for name, card in catalogue().items():
        two_blocks = {**card.arguments, "depth": 2} if card.architecture.startswith("vit") else card.arguments
        with torch.device("meta"):
            network = build_network(card.with_values(arguments=two_blocks))
        try:
            backbone = check_backbone(network)
        except SpecError:
            refused.add(name)
            continue
        attention, every = (target_layers(backbone, all_linear=all_linear) for all_linear in (False, True))
        assert (len(attention), len(every)) == (4, 8), name
    assert refused == {"resnet50", "convnext-b"}
