"""Small slide encoders of every kind, and slides for them."""

from __future__ import annotations

import torch
from torch import Tensor

from pathotune_pipeline.slide_encoders import StagedSlideEncoder
from pathotune_pipeline.slide_encoders.abmil import GatedPool, GatedPoolSpec
from pathotune_pipeline.slide_encoders.alibi_vit import AlibiViT, AlibiViTSpec
from pathotune_pipeline.slide_encoders.longnet import LongNet, LongNetSpec
from pathotune_pipeline.slide_encoders.mean import MeanSlideEncoder

IN_DIM = 12
STRIDE_PX = 512
LONGNET = LongNetSpec(dim=16, layers=3, heads=4, segments=(7, 16, 64), dilations=(1, 2, 3))
ALIBI = AlibiViTSpec(dim=24, layers=3, heads=6, pool_heads=4)
KINDS = ("mean", "abmil", "longnet", "alibi-vit")


def toy(kind: str) -> StagedSlideEncoder:
    """An encoder of that kind with weights of their own, in eval."""
    torch.manual_seed(1)
    made: dict[str, StagedSlideEncoder] = {
        "mean": MeanSlideEncoder(IN_DIM),
        "abmil": GatedPool(IN_DIM, GatedPoolSpec(dim=16, attention_dim=8)),
        "longnet": LongNet(IN_DIM, LONGNET),
        "alibi-vit": AlibiViT(IN_DIM, ALIBI),
    }
    return made[kind].eval()


def slide(tiles: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [N, IN_DIM] and places [N, 2] of some cells of a grid, in raster order."""
    generator = torch.Generator().manual_seed(seed)
    side = int((2 * tiles) ** 0.5) + 1
    cells = torch.randperm(side * side, generator=generator)[:tiles].sort().values
    coords = torch.stack([cells % side, cells // side], dim=1) * STRIDE_PX
    return torch.randn(tiles, IN_DIM, generator=generator), coords
