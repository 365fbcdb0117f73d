"""Published parameter names to timm's: same numbers out, every tensor used once, and one clear error where it does not fit."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from pathotune_pipeline.encoders.catalogue import CatalogueCard
from pathotune_pipeline.encoders.convert import load_strictly
from pathotune_pipeline.encoders.network import build_network
from pathotune_pipeline.errors import WeightsError
from tests.encoders.conftest import filled, toy_card, trunk_state

State = dict[str, Tensor]

SMALL = toy_card().arguments
SWIGLU = {**SMALL, "mlp_ratio": 5.33334, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
CONCH = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2}


def cards(**changes: object) -> CatalogueCard:
    return toy_card(architecture="vit_base_patch14_reg4_dinov2", **changes)


def transformers_names(state: State) -> State:
    """timm's names to those that transformers writes, with query, key and value apart."""
    plain = (
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^(cls_token|register_tokens)$", r"embeddings.\1"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
        (r"^blocks\.(\d+)\.ls(\d)\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
        (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    )
    found: State = {"embeddings.mask_token": torch.zeros(1, 32), "pooler.dense.bias": torch.zeros(32)}
    for name, tensor in state.items():
        fused = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name)
        if fused:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"encoder.layer.{fused[1]}.attention.attention.{part}.{fused[2]}"] = piece.clone()
            continue
        for pattern, replacement in plain:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def classic_vit_names(state: State) -> State:
    """transformers' older ViT: other names for norms and the MLP, no layer scale."""
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    found = transformers_names(state)
    for timms, theirs in names.items():
        found = {name.replace(f".{timms}.", f".{theirs}."): tensor for name, tensor in found.items()}
    return {f"vit.{name}": tensor for name, tensor in found.items()}


def swiglu_names(state: State) -> State:
    found = {n.replace("mlp.fc1", "mlp.weights_in").replace("mlp.fc2", "mlp.weights_out"): t for n, t in state.items()}
    return transformers_names(found)


def unmerged(state: State) -> State:
    """Registers as DINOv2 publishes them: a position for the class token too, by which it was moved."""
    moved = torch.linspace(-1, 1, 32).expand(1, 1, 32)
    rest = {name: tensor for name, tensor in state.items() if name not in ("reg_token", "cls_token", "pos_embed")}
    return {
        **rest,
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - moved,
        "pos_embed": torch.cat([moved, state["pos_embed"]], 1),
    }


def teacher_in_chunks(state: State) -> dict[str, State]:
    """A training checkpoint of DINOv2: blocks in chunks, under a teacher's backbone, with heads."""
    chunks = {re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", name): tensor for name, tensor in unmerged(state).items()}
    chunks = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): tensor for name, tensor in chunks.items()
    }
    heads = {"dino_head.mlp.0.weight": torch.zeros(3, 3), "ibot_head.mlp.0.weight": torch.zeros(3, 3)}
    backbone = {f"backbone.{name}": tensor for name, tensor in {**chunks, "mask_token": torch.zeros(1, 32)}.items()}
    return {"teacher": {**backbone, **heads}}


def pathoduet(state: State) -> dict[str, State]:
    """MoCo's wrapper around a network whose pretext token stands before the class token."""
    positions = state["pos_embed"]
    own = {name: tensor for name, tensor in state.items() if name != "reg_token"}
    own |= {
        "pretext_token": state["reg_token"],
        "pos_embed": torch.cat([positions[:, 1:2], positions[:, :1], positions[:, 2:]], 1),
        "head.0.weight": torch.zeros(2, 2),
    }
    inside = {f"module.base_encoder.{name}": tensor for name, tensor in own.items()}
    return {"state_dict": {**inside, "module.momentum_encoder.cls_token": torch.zeros(1, 1, 32)}}


LAYOUTS = {
    "timm": (toy_card(), lambda state: state),
    "data parallel": (toy_card(), lambda state: {"state_dict": {f"module.{n}": t for n, t in state.items()}}),
    "with a classifier": (toy_card(), lambda state: {**state, "head.weight": torch.zeros(2, 32), "head.bias": torch.zeros(2)}),
    "transformers vit": (toy_card(arguments={**SMALL, "init_values": None}), classic_vit_names),
    "transformers dinov2": (toy_card(), transformers_names),
    "transformers swiglu": (toy_card(arguments=SWIGLU), swiglu_names),
    "transformers registers": (cards(arguments={**SWIGLU, "patch_size": 16}), lambda state: swiglu_names(unmerged(state))),
    "dinov2 teacher": (cards(arguments={**SWIGLU, "patch_size": 16}), teacher_in_chunks),
    "pathoduet": (
        toy_card(arguments={**SMALL, "reg_tokens": 1, "global_pool": "avg"}, pooling="mean", dim=32),
        pathoduet,
    ),
}  # fmt: skip


def through(card: CatalogueCard, network: nn.Module, published: dict) -> tuple[Tensor, Tensor]:
    """Features of the network, and of an empty one filled from the checkpoint."""
    with torch.device("meta"):
        copy = build_network(card).eval()
    load_strictly(copy, published, "toy", resample_positions=card.resample_positions)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return network(pixels), copy(pixels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_published_layout_computes_the_same(layout: str) -> None:
    card, publish = LAYOUTS[layout]
    network = filled(card)
    expected, found = through(card, network, publish(trunk_state(network)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_that_is_left_out_or_left_over_is_named(layout: str) -> None:
    card, publish = LAYOUTS[layout]
    network = filled(card)
    state = trunk_state(network)
    del state["blocks.1.norm2.weight"]
    with torch.device("meta"):
        empty = build_network(card)
    with pytest.raises(WeightsError, match=r"trunk.blocks.1.norm2.weight is missing"):
        load_strictly(empty, publish(state), "toy")
    with pytest.raises(WeightsError, match=r"blocks\.7\.norm2\.weight is unexpected"):
        load_strictly(empty, publish({**trunk_state(network), "blocks.7.norm2.weight": torch.ones(32)}), "toy")


def conch_names(network: nn.Module) -> State:
    rest = {"visual.proj_contrast": torch.zeros(2, 2), "visual.attn_pool_caption.query": torch.zeros(2, 2)}
    rest |= {"visual.ln_caption.weight": torch.zeros(2), "text.cls_emb": torch.zeros(2), "logit_scale": torch.zeros(())}
    return {**{f"visual.{name}": tensor for name, tensor in network.state_dict().items()}, **rest}


def conch_card(tower: str, **changes: object) -> CatalogueCard:
    return toy_card(**{"tower": tower, "pooling": "attention", "dim": 16, "arguments": CONCH, **changes})


@pytest.mark.parametrize("tower", ["conch", "conch-v1.5"])
def test_conchs_towers_compute_the_published_formula(tower: str) -> None:
    card = conch_card(tower)
    network = filled(card)
    expected, found = through(card, network, conch_names(network))
    torch.testing.assert_close(found, expected)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(
            found, attended(network, network.trunk.forward_features(pixels)), rtol=1e-4, atol=1e-5
        )


def attended(network: nn.Module, tokens: Tensor) -> Tensor:
    """One query over all tokens, written out: 8 heads of 2, softmax of q k / sqrt(2), projections, layer norm."""
    pool = network.attn_pool_contrast
    keys = pool.ln_k(tokens)
    query = pool.ln_q(pool.query)
    if hasattr(pool, "to_kv"):
        k, v = pool.to_kv(keys).chunk(2, -1)
        q, project = pool.to_q(query), pool.to_out
    else:
        attn = pool.attn
        q_bias, k_bias, v_bias = attn.in_proj_bias.chunk(3)
        q, k = query @ attn.q_proj_weight.T + q_bias, keys @ attn.k_proj_weight.T + k_bias
        v, project = keys @ attn.v_proj_weight.T + v_bias, attn.out_proj
    heads = []
    for head in range(8):
        part = slice(2 * head, 2 * head + 2)
        weight = torch.softmax(k[..., part] @ q[0, part] / 2**0.5, 1)  # [B, T]
        heads.append((weight[..., None] * v[..., part]).sum(1))
    return network.ln_contrast(project(torch.cat(heads, 1)))


def test_positions_of_another_grid_are_interpolated_only_where_the_card_says_so() -> None:
    coarse = filled(conch_card("conch-v1.5", arguments={**CONCH, "img_size": 32}))
    published = conch_names(coarse)
    strict, lenient = conch_card("conch-v1.5"), conch_card("conch-v1.5", resample_positions=True)
    with pytest.raises(WeightsError, match=r"pos_embed has shape \(1, 5, 32\) and must have \(1, 17, 32\)"):
        through(strict, coarse, published)
    network = build_network(lenient)
    load_strictly(network, published, "toy", resample_positions=True)
    positions, own = network.trunk.pos_embed, coarse.trunk.pos_embed
    assert torch.equal(positions[:, :1], own[:, :1])
    grid, small = positions[0, 1:].unflatten(0, (4, 4)), own[0, 1:].unflatten(0, (2, 2))
    assert (grid[0, 0] - small[0, 0]).abs().mean() < (
        grid[0, 0] - small[1, 1]
    ).abs().mean()  # corners stay where they were
    assert (grid[3, 0] - small[1, 0]).abs().mean() < (grid[3, 0] - small[0, 1]).abs().mean()


def test_two_tensors_for_one_parameter_are_refused() -> None:
    state = transformers_names(trunk_state(filled(toy_card())))
    twice = {**state, "encoder.layer.0.layernorm_before.weight": torch.ones(32)}
    with pytest.raises(WeightsError, match=r"two tensors of the file claim blocks\.0\.norm1\.weight"):
        load_strictly(build_network(toy_card()), twice, "toy")


def test_a_block_without_its_key_is_refused() -> None:
    state = transformers_names(trunk_state(filled(toy_card())))
    del state["encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(WeightsError, match="lacks one of query, key and value"):
        load_strictly(build_network(toy_card()), state, "toy")


def test_a_file_without_tensors_is_refused() -> None:
    with pytest.raises(WeightsError, match="holds no parameters, only epoch"):
        load_strictly(build_network(toy_card()), {"epoch": 3}, "toy")


def test_half_precision_files_fill_a_float32_network_with_copies() -> None:
    card = toy_card()
    published = {name: tensor.half() for name, tensor in trunk_state(filled(card)).items()}
    network = build_network(card)
    load_strictly(network, published, "toy")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    before = network.trunk.norm.weight.clone()
    published["norm.weight"].zero_()
    assert torch.equal(network.trunk.norm.weight, before)
