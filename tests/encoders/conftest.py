"""A small encoder of the catalogue, and the hub's cache in a temporary folder with the hub out of reach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pathotune_pipeline.encoders import catalogue, create
from pathotune_pipeline.encoders.catalogue import CatalogueCard
from pathotune_pipeline.encoders.network import build_network
from pathotune_pipeline.encoders.published import catalogue_encoder

COMMIT = "0" * 40


def toy_card(**changes: object) -> CatalogueCard:
    """32 wide, 2 deep, 4 x 4 patches of 16 px out of tiles of 80 px, resized to 72 and cut to 64."""
    return CatalogueCard.parse(
        {
            "name": "toy",
            "about": "a toy",
            "page": "https://example.org/toy",
            "hub": "lab/toy",
            "gated": True,
            "licence": "MIT",
            "architecture": "vit_tiny_patch16_224",
            "arguments": {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.5},
            "pooling": "cls+mean",
            "dim": 64,
            "tile_px": 80,
            "resize_px": 72,
            "input_px": 64,
            "source": ["none"],
            **changes,
        }
    )


def filled(card: CatalogueCard, seed: int = 0) -> torch.nn.Module:
    """A card's network in which every parameter is random, layer scales and class tokens too."""
    draw = torch.Generator().manual_seed(seed)
    network = build_network(card).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return network


def trunk_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its trunk's parameters under timm's names, as publishers serve them."""
    return {name.removeprefix("trunk."): tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, with the hub out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> CatalogueCard:
    """`toy` as a name of the catalogue."""
    card = toy_card()
    monkeypatch.setattr(catalogue, "_by_any_name", lambda: {"toy": card, "uni": catalogue.catalogue()["uni"]})
    monkeypatch.setitem(create.ENCODERS._loaded, "toy", catalogue_encoder)
    return card


def in_cache(hub: Path, repository: str, files: dict[str, bytes]) -> Path:
    """Files as the hub's cache has them: blobs by their SHA-256, links in a snapshot."""
    import hashlib

    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for part in (snapshot, folder / "blobs", folder / "refs"):
        part.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).unlink(missing_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


def as_safetensors(network: torch.nn.Module) -> bytes:
    from safetensors.torch import save

    return save(trunk_state(network))
