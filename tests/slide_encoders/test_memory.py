"""Bags of 25,000 tiles in bounded memory, measured in a process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from pathotune_pipeline.slide_encoders import SlideEncoderSpec, create_slide_encoder

kind, layers, tiles, train = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "train"
in_dim = 1536 if kind == "longnet" else 768
encoder = create_slide_encoder(SlideEncoderSpec(name=kind, settings={"layers": layers}), in_dim=in_dim).train(train)
features = torch.randn(tiles, in_dim)
cells = torch.arange(tiles)
coords = torch.stack([cells % 160, cells // 160], dim=1) * 512
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.set_grad_enabled(train):
    out = encoder(features, coords, 512)
if train:
    out.square().sum().backward()
    assert encoder.cls_token.grad is not None
assert torch.isfinite(out).all()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


def grown_gb(kind: str, layers: int, tiles: int, how: str) -> float:
    """GB by which a process's memory peaks above what it had before."""
    arguments = [kind, str(layers), str(tiles), how]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_longnet_on_25_000_tiles_takes_memory_for_one_layers_inside() -> None:
    """Kept as they are, two layers alone would hold some 4 GB, and twelve 20 GB."""
    quarter, whole = (grown_gb("longnet", 2, tiles, "train") for tiles in (6_250, 25_000))
    assert whole < 5.0
    assert whole < 4.6 * quarter


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_25_000_tiles_with_a_bias_by_distance() -> None:
    """Twelve heads' matrices of it would be 30 GB."""
    assert grown_gb("alibi-vit", 1, 25_000, "use") < 2.0
