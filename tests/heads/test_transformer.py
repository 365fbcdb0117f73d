"""The small Transformer against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathotune_pipeline.bags.bag import BagBatch


def oracle(layer) -> nn.TransformerEncoderLayer:
    """torch's layer with our layer's weights."""
    dim, width = layer.to_out.in_features, layer.feedforward[0].out_features
    theirs = nn.TransformerEncoderLayer(
        dim, layer.heads, width, activation="gelu", batch_first=True, norm_first=True, dropout=0.0
    ).double()
    names = {"to_qkv.weight": "self_attn.in_proj_weight", "to_qkv.bias": "self_attn.in_proj_bias"}
    moved = (("to_out", "self_attn.out_proj"), ("feedforward.0", "linear1"), ("feedforward.3", "linear2"))
    state = {}
    for key, value in layer.state_dict().items():
        for ours, name in moved:
            key = key.replace(f"{ours}.", f"{name}.")
        state[names.get(key, key)] = value
    theirs.load_state_dict(state)
    return theirs.train()  # dropout is 0; in evaluation mode torch takes a fused path that gives no attention


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_are_those_of_torch(layers, small_head, some_bags):
    model, bags = small_head("transformer", layers=layers), some_bags(1, 2, 30)
    output = model(BagBatch.of(*bags))
    for i, bag in enumerate(bags):
        x = torch.cat([model.cls_token, model.embed(bag)[None]], dim=1)
        for layer in model.layers:
            x = oracle(layer)(x)
        last = oracle(model.last)
        normed = last.norm1(x)
        _, weights = last.self_attn(normed, normed, normed, average_attn_weights=False)
        to_tiles = weights[0, :, 0, 1:]  # [heads, N]
        to_tiles = (to_tiles / to_tiles.sum(dim=1, keepdim=True)).mean(dim=0)
        assert (output.attention[i] - to_tiles).abs().max() < 1e-12
        assert (output.logits[i] - model.classifier(model.norm(last(x)[:, 0]))[0]).abs().max() < 1e-12
