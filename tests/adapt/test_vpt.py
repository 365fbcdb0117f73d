"""Visual prompts: how many, where they enter and leave, and what they may not touch."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from pathotune_pipeline.adapt.attach import attach
from pathotune_pipeline.adapt.backbone import check_backbone, clone_shared
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.adapt.stream import Counts, TokenStream
from pathotune_pipeline.adapt.vpt import VisualPrompts
from tests.adapt.toys import DEPTH, DIM, KINDS, fresh, frozen, moved, pixels, rotary, spec_of, vit


def trained(adapted: nn.Module) -> int:
    return sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("prompts", [1, 5, 20])
def test_counts_are_those_of_the_formulas(prompts: int) -> None:
    assert trained(fresh(vit(), spec_of("vpt-shallow", n_prompts=prompts))) == prompts * DIM
    assert trained(fresh(vit(), spec_of("vpt-deep", n_prompts=prompts))) == DEPTH * prompts * DIM
    projected = fresh(vit(), spec_of("vpt-deep", n_prompts=prompts, prompt_projection=7))
    assert trained(projected) == DEPTH * prompts * 7 + 7 * DIM + DIM


@pytest.mark.parametrize(
    ("name", "prompts", "count"), [("vit_base_patch16_224", 20, 184_320), ("vit_small_patch16_224", 10, 46_080)]
)
def test_counts_of_published_sizes(name: str, prompts: int, count: int) -> None:
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0)
    adapted = attach(module, AdapterSpec(method="vpt-deep", n_prompts=prompts))
    assert trained(adapted) == count
    assert adapted.trainable_names() == ["adapter.visual.prompts"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep"])
def test_no_prompts_change_nothing(kind: str, method: str) -> None:
    module = frozen(kind)
    adapted = fresh(module, spec_of(method, n_prompts=0))
    with torch.inference_mode():
        assert torch.equal(adapted(pixels()), module(pixels()))
    assert adapted.trainable_names() == []


@pytest.mark.parametrize("width", [None, 7])
def test_prompts_start_uniform_within_the_bound_and_fill_it(width: int | None) -> None:
    prompts = (
        fresh(vit(), spec_of("vpt-deep", n_prompts=50, prompt_projection=width)).adapter["visual"].prompts.detach()
    )
    bound = math.sqrt(6 / (3 * 8**2 + (width or DIM)))
    assert prompts.abs().max() <= bound
    assert prompts.max() > 0.9 * bound
    assert prompts.min() < -0.9 * bound
    assert abs(float(prompts.mean())) < 0.1 * bound


def test_prompts_that_start_at_zero_do_change_the_features() -> None:
    module = vit().eval()
    adapted = fresh(module, spec_of("vpt-deep", prompt_init="zeros"))
    assert not adapted.adapter["visual"].prompts.any()
    assert not torch.allclose(adapted(pixels()), module(pixels()), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_deep_prompts_are_replaced_block_by_block(kind: str) -> None:
    adapted = moved(KINDS[kind](), spec_of("vpt-deep"))
    seen: list[torch.Tensor] = []
    for block in check_backbone(adapted.network).trunk.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    adapted(pixels())
    for number in range(DEPTH):
        before, seen[:] = list(seen), []
        with torch.no_grad():
            adapted.adapter["visual"].prompts[number] += 0.5
        adapted(pixels())
        for block in range(DEPTH):
            assert torch.equal(before[block], seen[block]) == (block < number)


def test_shallow_prompts_have_nothing_for_later_blocks_and_flow_through_them() -> None:
    adapted = moved(vit(), spec_of("vpt-shallow"))
    assert adapted.adapter["visual"].prompts.shape == (1, 5, DIM)
    lengths: list[int] = []
    for block in adapted.network.blocks:
        block.register_forward_hook(lambda module, args, output: lengths.append(args[0].shape[1]))
    adapted(pixels())
    assert lengths == [1 + 16 + 5] * DEPTH


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep"])
def test_the_last_outputs_hold_no_prompt(kind: str, method: str) -> None:
    adapted = moved(KINDS[kind](), spec_of(method))
    trunk = check_backbone(adapted.network).trunk
    with torch.no_grad():
        assert trunk.forward_features(pixels()).shape == (3, trunk.num_prefix_tokens + 16, DIM)


@pytest.mark.parametrize("make", [vit, lambda **changes: rotary(num_reg_tokens=0, **changes)], ids=["plain", "rotary"])
def test_shallow_prompts_are_registers(make: object) -> None:
    """timm's own registers are tokens without positions in front of the first block: so they must give the same."""
    registers = "num_reg_tokens" if make is not vit else "reg_tokens"
    plain = make(no_embed_class=True) if make is vit else make()
    adapted = moved(plain, spec_of("vpt-shallow"))
    if make is vit:
        peer = vit(no_embed_class=True, **{registers: 5})
    else:
        peer = rotary(num_reg_tokens=5)
    peer.load_state_dict({**plain.state_dict(), "reg_token": adapted.adapter["visual"].prompts.detach()})
    assert torch.allclose(adapted(pixels()), peer.eval()(pixels()), atol=1e-5)


@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep"])
def test_prompts_before_and_behind_the_patches_give_the_same(method: str) -> None:
    module = vit(reg_tokens=2).eval()
    adapted = moved(module, spec_of(method))
    visual = adapted.adapter["visual"]
    prepended = clone_shared(module)
    is_deep = method == "vpt-deep"
    stream = TokenStream(
        Counts(own=5) if is_deep else Counts(carried=5),
        at=1,  # behind the class token, as the paper has them
        own=visual if is_deep else None,
        entering=None if is_deep else visual.first,
    )
    stream.hook(check_backbone(prepended))
    order: list[torch.Tensor] = []
    prepended.blocks[0].attn.register_forward_hook(lambda module, args, output: order.append(args[0]))
    assert torch.allclose(prepended(pixels()), adapted(pixels()), atol=1e-5)
    prompts = module.blocks[0].norm1(visual.prompts[0])
    assert torch.allclose(order[0][:, 1:6], prompts.expand(3, -1, -1), atol=1e-5)


def test_dropout_of_prompts_is_drawn_for_each_image_and_only_while_training() -> None:
    adapted = moved(vit(), spec_of("vpt-deep", prompt_dropout=0.5))
    same = pixels(1).expand(2, -1, -1, -1)
    assert torch.equal(*adapted(same))
    one, other = adapted.train()(same)
    assert not torch.allclose(one, other, atol=1e-4)
    visual = adapted.adapter["visual"]
    assert isinstance(visual, VisualPrompts)
    share = float((visual(0, 200) == 0).float().mean())
    assert 0.45 < share < 0.55


def test_half_precision_takes_the_prompts_along() -> None:
    adapted = moved(vit(), spec_of("vpt-deep"))
    wide = adapted(pixels())
    narrow = adapted.to(torch.bfloat16)(pixels().bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert torch.allclose(narrow.float(), wide, atol=0.15)
