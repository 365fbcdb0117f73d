"""Small slide encoders, gene sets and cases, and networks whose gates are open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pathotune_pipeline.adapt.modal import ModalCase, ModalNetwork, ModalSpec, PathwayTable, attach_modal
from pathotune_pipeline.slide_encoders import StagedSlideEncoder, Tokens
from pathotune_pipeline.slide_encoders.abmil import GatedPool, GatedPoolSpec
from pathotune_pipeline.slide_encoders.alibi_vit import AlibiViT, AlibiViTSpec
from pathotune_pipeline.slide_encoders.encoder import run_layers
from pathotune_pipeline.slide_encoders.longnet import LongNet, LongNetSpec
from pathotune_pipeline.slide_encoders.mean import MeanSlideEncoder

DIM, IN_DIM, STRIDE = 64, 24, 256
SETS = {"growth": ["A", "B", "C"], "repair": ["C", "D"], "death": ["E", "F", "A", "G"], "lone": ["H"]}
TABLE = PathwayTable.of_sets(SETS)
CLINICAL = ("age", "female", "grade")


class Layer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0.5), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x[:, :1], x[:, 1:] + 0.1 * context], 1)
        parts = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class Transformer(StagedSlideEncoder):
    """A slide encoder with a class token, positions that the layers see, and dropout that must stay off."""

    name, prefix, in_dim = "toy", 1, IN_DIM

    def __init__(self, dim: int = DIM, n_layers: int = 5) -> None:
        super().__init__()
        self.dim, self.n_layers = dim, n_layers
        self.project, self.places = nn.Linear(IN_DIM, dim), nn.Linear(2, dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.layers = nn.ModuleList(Layer(dim) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    def embed(self, features: torch.Tensor, coords: torch.Tensor, *, stride_px: float) -> Tokens:
        places = self.places(coords.to(features) / stride_px)
        tiles = self.project(features)[None] + places.sin()
        return Tokens(torch.cat([self.class_token, tiles], 1), places.cos()[None])

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        return tokens.with_x(run_layers(self.layers[start:stop], tokens.x, tokens.context))

    def read_out(self, tokens: Tokens) -> torch.Tensor:
        return self.norm(tokens.x[0, 0])


KINDS: dict[str, Callable[[], StagedSlideEncoder]] = {
    "toy": Transformer,
    "one layer": lambda: Transformer(n_layers=1),
    "longnet": lambda: LongNet(
        IN_DIM, LongNetSpec(dim=DIM, layers=4, heads=4, segments=(8, 32), dilations=(1, 2), dropout=0.5)
    ),
    "alibi-vit": lambda: AlibiViT(IN_DIM, AlibiViTSpec(dim=DIM, layers=3, heads=4, pool_heads=2, dropout=0.5)),
    "abmil": lambda: GatedPool(IN_DIM, GatedPoolSpec(dim=DIM, attention_dim=16)),
    "mean": lambda: MeanSlideEncoder(DIM),
}


def of_kind(kind: str, seed: int = 0) -> StagedSlideEncoder:
    """In train mode with gradients, as a careless caller leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return KINDS[kind]()


def encoder(seed: int = 0, **size: int) -> Transformer:
    """The toy, likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(**size)


def spec_of(**changes: Any) -> ModalSpec:
    small = {"n_heads": 4, "n_gene_tokens": 6, "pathway_dim": 16, "out_dim": 32, "modality_dropout": 0.0}
    return ModalSpec.parse({**small, **changes})


def network_of(
    slide_encoder: StagedSlideEncoder, *, opened: bool = False, seed: int = 1, **changes: Any
) -> ModalNetwork:
    """A network in eval mode, with all modalities; `opened`: every tensor has left its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = attach_modal(slide_encoder, spec_of(**changes), pathways=TABLE, clinical=CLINICAL)
        if opened:
            with torch.no_grad():
                for parameter in network.adapter.parameters():
                    parameter.add_(0.2 * torch.randn(parameter.shape))
    return network.eval()


def case_of(seed: int = 3, *, n_tiles: int = 17, in_dim: int = IN_DIM) -> ModalCase:
    draw = torch.Generator().manual_seed(seed)
    coords = torch.stack([torch.arange(n_tiles) % 5, torch.arange(n_tiles) // 5], 1) * STRIDE
    return ModalCase(
        torch.randn(n_tiles, in_dim, generator=draw),
        coords,
        STRIDE,
        torch.randn(len(TABLE.genes), generator=draw),
        torch.randn(len(CLINICAL), generator=draw),
    )


def answer(network: ModalNetwork, case: ModalCase, task: Any = None) -> torch.Tensor:
    return network(case.features, case.coords, case.stride_px, genes=case.genes, clinical=case.clinical, task=task)


def image_of(network: ModalNetwork, case: ModalCase) -> torch.Tensor:
    """The image read-outs, [T, D]."""
    return network.read(network.inputs(case)).image
