"""PathoTune's three kinds of tokens: what each depends on, where each stands, and what each costs."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from pathotune_pipeline.adapt.attach import AdaptedNetwork, attach
from pathotune_pipeline.adapt.backbone import check_backbone
from pathotune_pipeline.adapt.pathotune import InstancePrompts, cells, pool_texts
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.errors import SpecError
from tests.adapt.toys import DEPTH, DIM, KINDS, TEXT_DIM, fresh, frozen, moved, pixels, rotary, spec_of, texts, vit

SCOPES = [(text, instance) for text in ("first", "deep") for instance in ("first", "deep")]


def by_hand(adapted: AdaptedNetwork, module: Any, images: torch.Tensor, *, prefix: int) -> torch.Tensor:
    """The final tokens as the layout [prefix | visual | renewed | carried | patches] gives them, without any hook."""
    spec, parts = adapted.spec, adapted.adapter
    count = len(images)
    tokens = {"first": [], "deep": []}
    tokens[spec.text_scope].append(parts["text"](torch.tensor([0])).expand(count, -1, -1))
    tokens[spec.instance_scope].append(parts["instance"](images))
    nothing = torch.empty(count, 0, DIM)
    carried, renewed = torch.cat([nothing, *tokens["first"]], 1), torch.cat([nothing, *tokens["deep"]], 1)
    embedded = module._pos_embed(module.patch_embed(images))
    state, rotation = embedded if isinstance(embedded, tuple) else (embedded, None)
    state = module.norm_pre(state)
    for number, block in enumerate(module.blocks):
        visual = parts["visual"].prompts[number].expand(count, -1, -1)
        added = [visual, renewed, carried]
        length = sum(part.shape[1] for part in added)
        sequence = torch.cat([state[:, :prefix], *added, state[:, prefix:]], 1)
        if rotation is None:
            sequence = block(sequence)
        else:
            block.attn.num_prefix_tokens = prefix + length
            sequence = block(sequence, rope=rotation)
        state = torch.cat([sequence[:, :prefix], sequence[:, prefix + length :]], 1)
        carried = sequence[:, prefix + length - carried.shape[1] : prefix + length]
    return module.norm(state)


@pytest.mark.parametrize(("text_scope", "instance_scope"), SCOPES)
@pytest.mark.parametrize("kind", ["plain", "rotary"])
def test_tokens_enter_flow_and_leave_as_the_scopes_say(kind: str, text_scope: str, instance_scope: str) -> None:
    module = (rotary() if kind == "rotary" else vit(reg_tokens=2)).eval()
    adapted = moved(module, spec_of("pathotune", text_scope=text_scope, instance_scope=instance_scope))
    expected = by_hand(adapted, module, pixels(), prefix=3)
    assert expected.shape == (3, 3 + 16, DIM)
    assert torch.allclose(adapted(pixels()), module.forward_head(expected), atol=1e-5)


def test_the_frozen_part_cannot_be_called_without_its_tokens() -> None:
    adapted = fresh(vit(), spec_of("pathotune", tvp=False))
    adapted(pixels())
    with pytest.raises(RuntimeError, match="call the AdaptedNetwork itself"):
        adapted.network(pixels())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_transformer_takes_all_three(kind: str) -> None:
    module = frozen(kind)
    adapted = moved(module, spec_of("pathotune"))
    features = adapted(pixels())
    assert features.shape == module(pixels()).shape
    assert not torch.allclose(features, module(pixels()), atol=1e-3)


@pytest.mark.parametrize("scope", ["first", "deep"])
def test_the_text_matters_and_each_image_may_have_its_own(scope: str) -> None:
    adapted = moved(vit(), spec_of("pathotune", text_scope=scope))
    by_text = []
    for number in (0, 1):
        adapted.select_text(number)
        by_text.append(adapted(pixels()))
    assert not torch.allclose(by_text[0], by_text[1], atol=1e-3)
    adapted.select_text(torch.tensor([1, 0, 1]))
    mixed = adapted(pixels())
    assert torch.allclose(mixed, torch.stack([by_text[1][0], by_text[0][1], by_text[1][2]]), atol=1e-5)


@pytest.mark.parametrize(
    "index", [2, -1, torch.tensor([0, 2]), torch.tensor([[0]]), torch.tensor([0.0]), torch.tensor([])]
)
def test_a_text_that_is_not_there_cannot_be_selected(index: int | torch.Tensor) -> None:
    with pytest.raises(SpecError, match="the adapter has texts 0 to 1"):
        fresh(vit(), spec_of("pathotune")).select_text(index)


def test_texts_for_another_number_of_images_are_an_error() -> None:
    adapted = fresh(vit(), spec_of("pathotune"))
    adapted.select_text(torch.tensor([0, 1]))
    with pytest.raises(SpecError, match="for 2 images were given; the batch has 3"):
        adapted(pixels())


def test_the_text_embeddings_are_frozen_and_padding_is_not_seen() -> None:
    embedded = texts()
    adapted = attach(vit(), spec_of("pathotune", n_text=3), texts=embedded)
    held = adapted.adapter["text"].embeddings
    assert not held.requires_grad
    assert torch.allclose(held[0], embedded[0].reshape(3, 2, TEXT_DIM).mean(1), atol=1e-6)
    assert torch.allclose(held[1][0], embedded[1][:2].mean(0), atol=1e-6)  # five words and one of padding
    assert torch.allclose(held[1][2], embedded[1][3:5].mean(0), atol=1e-6)
    assert torch.equal(pool_texts(held, 3), held)


def test_one_vector_for_a_whole_text_still_gives_tokens_that_differ() -> None:
    adapted = attach(vit(), spec_of("pathotune"), texts=torch.randn(1, TEXT_DIM))
    tokens = adapted.adapter["text"](torch.tensor([0]))[0]
    assert float(torch.pdist(tokens.detach()).min()) > 0.01


@pytest.mark.parametrize(
    ("embedded", "message"), [(torch.zeros(2, 3, 4), "text 0 has no"), (torch.ones(4), "found \\(4,\\)")]
)
def test_texts_of_another_form_are_refused(embedded: torch.Tensor, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        attach(vit(), spec_of("pathotune"), texts=embedded)


def test_texts_must_be_given_exactly_where_they_are_used() -> None:
    with pytest.raises(SpecError, match="must be given the embedded texts"):
        attach(vit(), spec_of("pathotune"))
    for spec in (spec_of("pathotune", ttp=False), spec_of("vpt-deep"), spec_of("lora")):
        with pytest.raises(SpecError, match=f"{spec.method} takes no texts"):
            attach(vit(), spec, texts=texts())


@pytest.mark.parametrize("scope", ["first", "deep"])
def test_a_shut_gate_makes_the_instances_tokens_alike_and_an_open_one_does_not(scope: str) -> None:
    spec = spec_of("pathotune", instance_scope=scope)
    one, other = pixels(2)
    start = fresh(vit(), spec).adapter["instance"]
    assert start.gate == 0
    assert torch.equal(*start(torch.stack([one, other])))
    adapted = moved(vit(), spec)
    tokens = adapted.adapter["instance"](torch.stack([one, other]))
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-2)
    straight = adapted(torch.stack([one, other]))
    adapted.adapter["instance"].forward = lambda images: tokens.flip(0)
    swapped = adapted(torch.stack([one, other]))
    assert not torch.isclose(straight, swapped, atol=1e-3).all(1).any()


def test_an_instances_tokens_do_not_depend_on_its_neighbours() -> None:
    adapted = moved(vit(), spec_of("pathotune"))
    assert torch.allclose(adapted(pixels())[:1], adapted(pixels()[:1]), atol=1e-5)


@pytest.mark.parametrize(
    ("switch", "prefix"), [("tvp", "adapter.visual."), ("ttp", "adapter.text."), ("ivp", "adapter.instance.")]
)
def test_a_switch_takes_out_exactly_its_own_parameters(switch: str, prefix: str) -> None:
    every = set(fresh(vit(), spec_of("pathotune")).trainable_names())
    without = set(fresh(vit(), spec_of("pathotune", **{switch: False})).trainable_names())
    assert every - without == {name for name in every if name.startswith(prefix)} != set()
    assert without < every


def test_each_kind_alone_changes_the_features() -> None:
    module = frozen("class token")
    off = {"tvp": False, "ttp": False, "ivp": False}
    with torch.inference_mode():
        plain = module(pixels())
        assert torch.equal(fresh(module, spec_of("pathotune", **off))(pixels()), plain)
        for switch in off:
            alone = moved(module, spec_of("pathotune", **{**off, switch: True}))
            assert not torch.allclose(alone(pixels()), plain, atol=1e-3)


def test_at_most_six_percent_of_a_base_transformer_are_trained() -> None:
    with torch.device("meta"):
        module = timm.create_model("vit_base_patch16_224", num_classes=0)
    adapted = attach(module, AdapterSpec(method="pathotune"), texts=torch.ones(1, 8, 768))
    trained = sum(parameter.numel() for parameter in adapted.adapter.parameters())
    text = 768 * 768 + 768 + 4 * 768 + 2 * 768
    refine = (3 * 16 * 32 + 32) + sum(9 * a * b + b + 2 * b for a, b in ((32, 64), (64, 128), (128, 256)))
    instance = refine + (256 * 768 + 768) + 2 * 768 + 4 * 768 + 1
    assert trained == 12 * 20 * 768 + text + instance == 1_371_489
    total = trained + sum(parameter.numel() for parameter in module.parameters())
    assert trained / total < 0.06


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7)), (16, (4, 4))])
def test_instances_have_as_many_cells_as_tokens(count: int, grid: tuple[int, int]) -> None:
    assert cells(count) == grid
    refine = InstancePrompts(spec_of("pathotune", n_instance=count), check_backbone(vit()))
    assert refine(pixels()).shape == (3, count, DIM)


def test_the_text_is_the_template_filled() -> None:
    spec = AdapterSpec(method="pathotune", stain="PAS", organ="kidney", task="grading")
    assert spec.text(["low", "high"]) == "PAS-stained kidney histopathology image for grading; classes: low, high"
    assert AdapterSpec(method="pathotune").text(["low"]) == "H&E-stained histopathology image; classes: low"
    with pytest.raises(SpecError, match="no field 'sex'"):
        AdapterSpec.parse({"text_template": "{stain} of {sex}"})
    with pytest.raises(SpecError, match="cannot be read"):
        AdapterSpec.parse({"text_template": "{stain"})


def test_the_module_and_the_card_say_that_it_is_a_reconstruction() -> None:
    import pathotune_pipeline.adapt.pathotune as module
    from pathotune_pipeline.adapt.card import RECONSTRUCTION

    assert "reconstruction" in str(module.__doc__)
    assert "reconstruction" in RECONSTRUCTION


def test_depth_is_what_the_visual_prompts_have() -> None:
    assert fresh(vit(), spec_of("pathotune")).adapter["visual"].prompts.shape == (DEPTH, 5, DIM)
