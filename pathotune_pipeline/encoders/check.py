"""Whether real weights do what their card says: against the publisher's transform, and against a stored reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.version import VERSION

LEAST_COSINE = 0.9999
TILES = 8

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One comparison.

    Attributes:
        against: what the features were compared with.
        cosine: the least over the tiles.
        passed: whether it reaches LEAST_COSINE.
    """

    against: str
    cosine: float
    passed: bool


def check_tiles(side: int, count: int = TILES) -> npt.NDArray[np.uint8]:
    """Tiles that are the same everywhere and for ever: smooth haematoxylin and eosin from a few whole-number waves.

    Args:
        side: in px.
        count: how many.

    Returns:
        uint8 [count, side, side, 3].
    """
    y, x = np.mgrid[:side, :side].astype(np.float64) * (256.0 / side)
    tiles = []
    for number in range(count):
        # Raw output of the bit generator: numpy keeps that stream for ever, and not those of its distributions.
        draw = iter(np.random.PCG64(number).random_raw(2 * 12 * 4).tolist())
        stains = []
        for _ in range(2):
            field = np.zeros((side, side))
            for _ in range(12):
                kx, ky, phase, height = (next(draw) % span for span in (23, 23, 628, 99))
                field += (height + 1) * np.sin(2 * np.pi * ((kx + 1) * x + (ky + 1) * y) / 256 + phase / 100)
            low, high = field.min(), field.max()
            stains.append((field - low) / (high - low))
        density = stains[0][..., None] ** 2 * [1.1, 1.2, 0.5] + stains[1][..., None] * [0.05, 0.6, 0.1]
        tiles.append(np.floor(255 * np.exp(-density) + 0.5).astype(np.uint8))
    return np.stack(tiles)


def features_of(encoder: Encoder, tiles: npt.NDArray[np.uint8]) -> Features:
    """Features float32 [N, D] of tiles uint8 [N, P, P, 3], as an extraction makes them."""
    parts = [encoder.encode(tiles[i : i + encoder.batch_size]) for i in range(0, len(tiles), encoder.batch_size)]
    return torch.cat(parts).cpu().numpy()


def published_features(encoder: Encoder, tiles: npt.NDArray[np.uint8]) -> Features:
    """Features by the way that publishers write: Pillow's resize, CenterCrop, ToTensor and Normalize of torchvision.

    Args:
        encoder: with mean and std on its card.
        tiles: uint8 [N, P, P, 3].

    Raises:
        UsageError: the encoder takes raw bytes, so there is no such transform.
    """
    from PIL import Image
    from torchvision import transforms

    card = encoder.card
    if card.mean is None or card.std is None or card.input_px is None:
        raise UsageError(f"{card.name} has no published transform; compare it with a reference alone.")
    mode = (
        transforms.InterpolationMode.BILINEAR
        if card.interpolation == "bilinear"
        else transforms.InterpolationMode.BICUBIC
    )
    steps = transforms.Compose(
        [
            transforms.Resize(card.resize_px or card.input_px, interpolation=mode),
            transforms.CenterCrop(card.input_px),
            transforms.ToTensor(),
            transforms.Normalize(card.mean, card.std),
        ]
    )
    pixels = torch.stack([steps(Image.fromarray(tile)) for tile in tiles]).to(encoder.device, encoder.dtype)
    with torch.inference_mode():
        parts = [encoder.module(part).float() for part in pixels.split(encoder.batch_size)]
    return torch.cat(parts).cpu().numpy()


def check_transform(encoder: Encoder) -> Verdict:
    """Compare this package's preprocessing on the device with the publisher's on Pillow images, through the same weights."""
    tiles = check_tiles(encoder.card.tile_px)
    return _compare("the publisher's transform", features_of(encoder, tiles), published_features(encoder, tiles))


def write_reference(encoder: Encoder, path: Path) -> None:
    """Store what these weights make of the tiles, for `check_reference` on another machine or after an update."""
    facts = {"encoder": encoder.card.name, "weights_sha256": encoder.card.weights_sha256, "version": VERSION}
    features = features_of(encoder, check_tiles(encoder.card.tile_px))
    with path.open("wb") as file:
        np.savez_compressed(file, features=features, facts=np.array(json.dumps(facts)))


def check_reference(encoder: Encoder, path: Path) -> Verdict:
    """Compare with features that were stored before.

    Args:
        encoder: with the weights in question.
        path: .npz with `features` float32 [8, D]: of `write_reference`, or made elsewhere of the same `check_tiles`.

    Raises:
        UsageError: the file cannot be read, or is of another encoder.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            expected = np.asarray(stored["features"], dtype=np.float32)
            facts = json.loads(str(stored["facts"])) if "facts" in stored else {}
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"--reference {path.name}: is no reference ({error}). Write one with --write-reference."
        ) from None
    found = features_of(encoder, check_tiles(encoder.card.tile_px))
    if expected.shape != found.shape or facts.get("encoder", encoder.card.name) != encoder.card.name:
        raise UsageError(
            f"--reference {path.name}: holds {expected.shape} of {facts.get('encoder', 'an unnamed encoder')}; "
            f"{encoder.card.name} makes {found.shape}. Give its own reference."
        )
    return _compare(f"the reference {path.name}", found, expected)


def _compare(against: str, found: Features, expected: Features) -> Verdict:
    one, other = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(np.min((one * other).sum(1) / np.maximum(norms, 1e-30)))
    return Verdict(against, cosine, bool(cosine >= LEAST_COSINE))
