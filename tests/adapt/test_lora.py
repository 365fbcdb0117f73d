"""LoRA: how many numbers, on which layers, and that merging is the same function."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pathotune_pipeline.adapt.attach import attach
from pathotune_pipeline.adapt.backbone import check_backbone
from pathotune_pipeline.adapt.lora import target_layers
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.errors import SpecError, UsageError
from tests.adapt.toys import KINDS, fresh, frozen, moved, pixels, rotary, snapshot, spec_of, vit


@pytest.mark.parametrize(
    ("name", "targets", "count"),
    [
        ("vit_small_patch16_224", "attn", 442_368),
        ("vit_small_patch16_224", "all", 1_179_648),
        ("vit_base_patch16_224", "all", 2_359_296),
    ],
)
def test_counts_are_those_of_the_formulas(name: str, targets: str, count: int) -> None:
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0)
    adapted = attach(module, AdapterSpec.parse({"method": "lora", "rank": 16, "targets": targets}))
    assert sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad) == count
    width, hidden = module.embed_dim, module.blocks[0].mlp.fc1.out_features
    formula = 16 * 4 * width + 16 * 2 * width + (2 * 16 * (width + hidden) if targets == "all" else 0)
    assert count == len(module.blocks) * formula


@pytest.mark.parametrize(
    ("kind", "mlp"),
    [
        ("class token", {"mlp.fc1", "mlp.fc2"}),
        ("SwiGLU packed", {"mlp.fc1", "mlp.fc2"}),
        ("SwiGLU", {"mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"}),
        ("rotary", {"mlp.fc1", "mlp.fc2"}),
    ],
)
def test_layers_of_the_blocks_alone_are_changed(kind: str, mlp: set[str]) -> None:
    backbone = check_backbone(KINDS[kind]())
    attention = {"attn.qkv", "attn.proj"}
    for all_linear, expected in ((False, attention), (True, attention | mlp)):
        names = {f"blocks.{number}.{layer}" for number in range(3) for layer in expected}
        assert set(target_layers(backbone, all_linear=all_linear)) == names
    assert "patch_embed.proj" in dict(backbone.trunk.named_modules())  # whose name ends as one of those


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["attn", "all"])
def test_a_fresh_one_changes_nothing_and_a_trained_one_does(kind: str, targets: str) -> None:
    module = frozen(kind)
    spec = spec_of("lora", targets=targets)
    with torch.inference_mode():
        plain = module(pixels())
        assert torch.equal(fresh(module, spec)(pixels()), plain)
        assert not torch.allclose(moved(module, spec)(pixels()), plain, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_the_same_function_and_can_be_taken_back(kind: str) -> None:
    module = frozen(kind)
    before = snapshot(module)
    adapted = moved(module, spec_of("lora", targets="all", alpha=8))
    beside = adapted(pixels())
    adapted.merge()
    adapted.merge()  # nothing to do
    assert torch.allclose(adapted(pixels()), beside, atol=1e-5)
    assert set(adapted.network.state_dict()) == set(module.state_dict())
    base, merged = module.state_dict(), adapted.network.state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    layers = target_layers(check_backbone(module), all_linear=True)
    prefix = "trunk." if "trunk." in next(iter(changed)) else ""
    assert changed == {f"{prefix}{name}.weight" for name in layers}
    for name in layers:
        change = adapted.adapter["low_rank"].layers[name.replace(".", "-")]
        difference = merged[f"{prefix}{name}.weight"] - base[f"{prefix}{name}.weight"]
        assert torch.allclose(difference, 8 / 4 * change.b @ change.a, atol=1e-5)
        singular = torch.linalg.svdvals(difference)
        assert singular[3] > 1e-3
        assert singular[4] < 1e-5 * singular[0]
    adapted.unmerge()
    adapted.unmerge()
    assert snapshot(adapted.network) == before
    assert torch.equal(adapted(pixels()), beside)
    assert snapshot(module) == before


def test_unmerged_weights_lie_where_the_bases_do() -> None:
    module = vit()
    adapted = moved(module, spec_of("lora"))
    adapted.merge()
    adapted.unmerge()
    assert adapted.network.blocks[0].attn.qkv.weight.data_ptr() == module.blocks[0].attn.qkv.weight.data_ptr()


def test_merged_changes_are_not_trained_unnoticed() -> None:
    adapted = moved(vit(), spec_of("lora"))
    adapted.merge()
    with pytest.raises(UsageError, match="unmerge"):
        adapted.train()
    adapted.unmerge()
    assert adapted.train().training


def test_for_use_it_becomes_a_network_of_the_encoders_own_form() -> None:
    module = vit().eval()
    adapted = moved(module, spec_of("lora"))
    used = adapted.for_inference()
    assert type(used) is type(module)
    assert set(used.state_dict()) == set(module.state_dict())
    assert not any(part._forward_hooks for part in used.modules())
    assert torch.allclose(used(pixels()), adapted(pixels()), atol=1e-5)
    own = {parameter.data_ptr() for parameter in used.parameters()} - {p.data_ptr() for p in module.parameters()}
    assert len(own) == 3 * 2  # qkv and proj of three blocks; all else is shared
    assert not adapted.adapter["low_rank"].is_merged


def test_dropout_is_off_outside_training() -> None:
    adapted = moved(vit(), spec_of("lora", lora_dropout=0.5))
    assert torch.equal(adapted(pixels()), adapted(pixels()))
    adapted.train()
    assert not torch.equal(adapted(pixels()), adapted(pixels()))


def test_layers_that_are_not_called_are_refused() -> None:
    with pytest.raises(SpecError, match="uses the weight of qkv without calling"):
        attach(rotary(qkv_bias=True), spec_of("lora"))


def test_blocks_without_such_layers_are_refused() -> None:
    module = vit()
    module.blocks[1] = nn.Identity()
    with pytest.raises(SpecError, match="block 1 \\(Identity\\) has no layer called"):
        attach(module, spec_of("lora"))


def test_autocast_keeps_the_changes_in_the_layers_dtype() -> None:
    adapted = moved(vit(), spec_of("lora", targets="all"))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = adapted(pixels())
    assert torch.allclose(narrow.float(), adapted(pixels()), atol=0.3)
