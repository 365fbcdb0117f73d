"""Small weights under the published names, and what the publications make of them, written out plainly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> State:
    """Random numbers, around 1 for the weights of norms."""
    generator = torch.Generator().manual_seed(7)
    norms = ("norm.weight", "ln.weight", "ln_q.weight", "ln_k.weight", "norm1.weight", "norm2.weight")
    return {
        name: torch.randn(shape, generator=generator) * 0.3 + (1.0 if name.endswith(norms) else 0.0)
        for name, shape in shapes.items()
    }


def pair(name: str, rows: int, columns: int | None = None) -> dict[str, tuple[int, ...]]:
    """A weight and a bias: of a Linear layer, or of a norm."""
    return {f"{name}.weight": (rows,) if columns is None else (rows, columns), f"{name}.bias": (rows,)}


def gigapath_state(in_dim: int, dim: int, layers: int) -> State:
    """As `slide_encoder.pth` names them."""
    shapes = {"cls_token": (1, 1, dim), **pair("patch_embed.proj", dim, in_dim)}
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        for each in "qkv":
            shapes |= pair(f"{layer}.self_attn.{each}_proj", dim, dim)
        shapes |= pair(f"{layer}.self_attn.out_proj", dim, dim) | pair(f"{layer}.self_attn.inner_attn_ln", dim)
        shapes |= pair(f"{layer}.self_attn_layer_norm", dim) | pair(f"{layer}.final_layer_norm", dim)
        shapes |= pair(f"{layer}.ffn.fc1", 4 * dim, dim) | pair(f"{layer}.ffn.fc2", dim, 4 * dim)
        shapes |= pair(f"{layer}.ffn.ffn_layernorm", 4 * dim)
    return drawn(shapes | pair("encoder.layer_norm", dim) | pair("norm", dim))


def titan_state(in_dim: int, dim: int, layers: int) -> State:
    """As `model.safetensors` names them, with parts of the text tower and the captions' pooler."""
    shapes = {"cls_token": (1, 1, dim), "proj": (dim, dim), **pair("patch_embed.0", dim, in_dim), **pair("norm", dim)}
    for i in range(layers):
        block = f"blocks.modules_list.{i}"
        shapes |= pair(f"{block}.norm1", dim) | pair(f"{block}.norm2", dim)
        shapes |= pair(f"{block}.attn.qkv", 3 * dim, dim) | pair(f"{block}.attn.proj", dim, dim)
        shapes |= pair(f"{block}.mlp.fc1", 4 * dim, dim) | pair(f"{block}.mlp.fc2", dim, 4 * dim)
    for pool, queries in (("attn_pool", 128), ("attn_pool_contrastive", 1)):
        shapes |= {f"{pool}.query": (queries, dim), f"{pool}.attn.in_proj_weight": (3 * dim, dim)}
        shapes |= {f"{pool}.attn.in_proj_bias": (3 * dim,), **pair(f"{pool}.attn.out_proj", dim, dim)}
        shapes |= pair(f"{pool}.ln_q", dim) | pair(f"{pool}.ln_k", dim)
    state = {f"vision_encoder.{name}": tensor for name, tensor in drawn(shapes).items()}
    return state | drawn(
        {"logit_scale": (), "text_encoder.token_embedding.weight": (9, 4), "text_encoder.proj": (4, 4)}
    )


def feather_state(in_dim: int, dim: int, width: int) -> State:
    """As `model.safetensors` names them, with the classifier."""
    shapes = (
        pair("patch_embed.0", dim, in_dim) | pair("global_attn.attention_c", 1, width) | pair("classifier", 108, dim)
    )
    shapes |= pair("global_attn.attention_a.0", width, dim) | pair("global_attn.attention_b.0", width, dim)
    return {f"model.{name}": tensor for name, tensor in drawn(shapes).items()}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def walk_gigapath(state: State, features: Tensor, cells: Tensor, *, layers: int, heads: int) -> Tensor:
    """One segment without dilation, so that attention is plain; places from the published table of 1000 x 1000 cells."""
    dim = state["cls_token"].shape[2]
    steps = 1 / 10_000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    index = cells[:, 0] * 1000 + cells[:, 1]  # a row of the table is x, a column y
    column, row = (index % 1000).double(), (index // 1000).double()
    table = [f(each[:, None] * steps) for each in (column, row) for f in (torch.sin, torch.cos)]
    x = torch.cat([state["cls_token"][0], linear(state, "patch_embed.proj", features) + torch.cat(table, 1).float()])
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        y = norm(state, f"{layer}.self_attn_layer_norm", x)
        q, k, v = (linear(state, f"{layer}.self_attn.{each}_proj", y).unflatten(1, (heads, -1)) for each in "qkv")
        shares = torch.einsum("ihd,jhd->hij", q, k).div(q.shape[2] ** 0.5).softmax(2)
        y = norm(state, f"{layer}.self_attn.inner_attn_ln", torch.einsum("hij,jhd->ihd", shares, v).flatten(1))
        x = x + linear(state, f"{layer}.self_attn.out_proj", y)
        y = F.gelu(linear(state, f"{layer}.ffn.fc1", norm(state, f"{layer}.final_layer_norm", x)))
        x = x + linear(state, f"{layer}.ffn.fc2", norm(state, f"{layer}.ffn.ffn_layernorm", y))
    return norm(state, "norm", norm(state, "encoder.layer_norm", x), 1e-6)[0]


def walk_titan(state: State, features: Tensor, cells: Tensor, *, layers: int, heads: int, pool_heads: int) -> Tensor:
    """With the whole matrix of biases, and torch's own pooling layer."""
    state = {name.removeprefix("vision_encoder."): tensor for name, tensor in state.items()}
    dim = state["cls_token"].shape[2]
    x = torch.cat([state["cls_token"][0], F.gelu(linear(state, "patch_embed.0", features))])
    slopes = [2.0 ** -(8 * (head + 1) / heads) for head in range(heads)]  # heads is a power of two here
    bias = torch.zeros(heads, len(x), len(x))
    for i, a in enumerate(cells.tolist()):
        for j, b in enumerate(cells.tolist()):
            bias[:, i + 1, j + 1] = -torch.tensor(slopes) * math.dist(a, b)
    for i in range(layers):
        block = f"blocks.modules_list.{i}"
        q, k, v = linear(state, f"{block}.attn.qkv", norm(state, f"{block}.norm1", x, 1e-6)).chunk(3, 1)
        q, k, v = (each.unflatten(1, (heads, -1)).transpose(0, 1) for each in (q, k, v))
        y = ((q @ k.mT / q.shape[2] ** 0.5 + bias).softmax(2) @ v).transpose(0, 1).flatten(1)
        x = x + linear(state, f"{block}.attn.proj", y)
        y = F.gelu(linear(state, f"{block}.mlp.fc1", norm(state, f"{block}.norm2", x, 1e-6)))
        x = x + linear(state, f"{block}.mlp.fc2", y)
    pool = "attn_pool_contrastive"
    keys = norm(state, f"{pool}.ln_k", norm(state, "norm", x, 1e-6))
    attn = torch.nn.MultiheadAttention(dim, pool_heads)
    attn.load_state_dict(
        {n.removeprefix(f"{pool}.attn."): t for n, t in state.items() if n.startswith(f"{pool}.attn.")}
    )
    query = norm(state, f"{pool}.ln_q", state[f"{pool}.query"])
    return (attn(query[:, None], keys[:, None], keys[:, None])[0][:, 0] @ state["proj"])[0].detach()


def walk_feather(state: State, features: Tensor) -> Tensor:
    """Gated attention over embedded tiles."""
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    h = linear(state, "patch_embed.0", features).relu()
    gated = (
        linear(state, "global_attn.attention_a.0", h).tanh() * linear(state, "global_attn.attention_b.0", h).sigmoid()
    )
    return linear(state, "global_attn.attention_c", gated).softmax(0).T[0] @ h
