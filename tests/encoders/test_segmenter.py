"""A TorchScript network that tells tissue: tiles blend to the whole, card and file are what is hashed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.segmenter import network_segmenter
from pathotune_pipeline.errors import SpecError, WeightsError


class Darkness(torch.nn.Module):
    """Logit 40 * (0.5 - brightness) of channel 1, at half the resolution."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        grey = torch.nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), 2)
        dark = 40 * (0.5 - grey)
        return torch.cat([torch.zeros_like(dark), dark], dim=1)


class Position(torch.nn.Module):
    """A probability that depends on where in the tile a pixel lies: what blending is for."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, pixels.shape[3])
        return ramp.expand(pixels.shape[0], 1, pixels.shape[2], pixels.shape[3])


class Fails(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.reshape(-1, 7, 11, 13)


CARD = {"mpp": 4.0, "tile_px": 64, "mean": [0, 0, 0], "std": [1, 1, 1], "class_index": 1}


def save(folder: Path, module: torch.nn.Module, **card: Any) -> Path:
    path = folder / "net.pt"
    traced = (
        torch.jit.trace(module, torch.zeros(1, 3, 64, 64), check_trace=False) if not isinstance(module, Fails) else None
    )
    if traced is None:
        with torch.no_grad():
            traced = torch.jit.trace(module, torch.zeros(1, 7, 11, 13), check_trace=False)
    torch.jit.save(traced, str(path))
    path.with_suffix(".json").write_text(json.dumps({**CARD, **card}))
    return path


pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
)


@pytest.mark.parametrize("shape", [(64, 64), (200, 331), (31, 500), (97, 5)])
def test_tiles_together_are_the_whole(tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    blocks = rng.random((shape[0] // 16 + 1, shape[1] // 16 + 1)) < 0.5
    dark = np.kron(blocks, np.ones((16, 16), bool))[: shape[0], : shape[1]]
    rgb = np.where(dark[..., None], 30, 230).astype(np.uint8).repeat(3, axis=2)
    segmenter = network_segmenter(str(save(tmp_path, Darkness())), "cpu")
    assert segmenter.mpp == 4.0
    found = segmenter(rgb, 4.0)
    assert found.dtype == bool
    assert found.shape == shape
    assert (found != dark).mean() < 0.2  # pixels at rims are interpolated from half the resolution
    inner = np.zeros(shape, bool)
    inner[4:-4, 2:-2] = True
    flat = np.ones(shape, bool)
    for shift in range(-2, 3):
        flat &= (np.roll(dark, shift, 0) == dark) & (np.roll(dark, shift, 1) == dark)
        for other in range(-2, 3):
            flat &= np.roll(dark, (shift, other), (0, 1)) == dark
    assert (found == dark)[flat & inner].all()


def test_overlapping_tiles_are_blended(tmp_path: Path) -> None:
    """The mean of a ramp and the ramp half a tile on, weighted: no pixel sees one tile's rim alone."""
    path = save(tmp_path, Position(), class_index=0, activation="none", threshold=0.2)
    rgb = np.zeros((64, 256, 3), np.uint8)
    assert network_segmenter(str(path), "cpu")(rgb, 4.0).all()
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "threshold": 0.8}))
    assert not network_segmenter(str(path), "cpu")(rgb, 4.0).any()


def test_card_and_weights_are_the_recipe_and_the_path_is_not(tmp_path: Path) -> None:
    path = save(tmp_path, Darkness())
    first = network_segmenter(str(path), "cpu").recipe()
    (tmp_path / "b").mkdir()
    for file in (path, path.with_suffix(".json")):
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    assert network_segmenter(str(tmp_path / "b" / "net.pt"), "auto").recipe() == first
    path.with_suffix(".json").write_text(json.dumps({**CARD, "threshold": 0.6}))
    assert network_segmenter(str(path), "cpu").recipe() != first
    path.with_suffix(".json").write_text(json.dumps({**CARD, "sha256": first["weights_sha256"], "licence": "MIT"}))
    assert network_segmenter(str(path), "cpu").recipe() == first
    json.dumps(first)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"network:PATH\.pt"):
        network_segmenter("", "cpu")
    with pytest.raises(WeightsError, match="nothing lies there"):
        network_segmenter(str(tmp_path / "absent.pt"), "cpu")
    path = tmp_path / "net.pt"
    path.write_bytes(b"no network")
    with pytest.raises(WeightsError, match="has no card"):
        network_segmenter(str(path), "cpu")
    card = path.with_suffix(".json")
    for text, error, message in (
        ("{", WeightsError, "cannot be read"),
        ("[]", WeightsError, "JSON object"),
        ("{}", SpecError, "mpp must be given"),
        ('{"mpp": 4, "tile": 3}', SpecError, "Did you mean 'tile_px'"),
        ('{"mpp": 4, "tile_px": 63}', SpecError, "multiple of 2"),
        ('{"mpp": 4, "sha256": "00"}', WeightsError, "SHA-256"),
    ):
        card.write_text(text)
        with pytest.raises(error, match=message):
            network_segmenter(str(path), "cpu")
    card.write_text('{"mpp": 4}')
    with pytest.raises(WeightsError, match="no TorchScript"):
        network_segmenter(str(path), "cpu")(np.zeros((9, 9, 3), np.uint8), 4.0)
    with pytest.raises(WeightsError, match="class_index"):
        network_segmenter(str(save(tmp_path, Darkness(), class_index=2)), "cpu")(np.zeros((9, 9, 3), np.uint8), 4.0)
    with pytest.raises(WeightsError, match="failed on a tile"):
        network_segmenter(str(save(tmp_path, Fails())), "cpu")(np.zeros((9, 9, 3), np.uint8), 4.0)
