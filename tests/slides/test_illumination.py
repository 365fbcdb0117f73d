"""Brightfield and fluorescence told apart, hard cases of both first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.slides.illumination import glance, illumination_of
from pathotune_pipeline.slides.open import open_slide

SIDE = 400
HAEMATOXYLIN, EOSIN, DAB = (120, 80, 160), (225, 150, 190), (70, 45, 30)


def blobs(share: float, seed: int = 0, blur: float = 6.0) -> np.ndarray:
    """Float [h, w], 0 to 1: smooth spots that cover about a share of the field."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), (0, 0), blur)
    high, low = np.quantile(noise, 1 - share / 8), np.quantile(noise, 1 - share)
    return np.clip((noise - low) / (high - low), 0, 1)


def stained(ground: tuple[int, int, int], stain: tuple[int, int, int], share: float) -> np.ndarray:
    amount = blobs(share)[..., None]
    picture = np.array(ground) * (1 - amount) + np.array(stain) * amount
    return np.clip(picture + np.random.default_rng(1).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def bordered(picture: np.ndarray) -> np.ndarray:
    out = np.zeros((SIDE * 2, SIDE * 2, 3), np.uint8)
    out[100 : 100 + SIDE, 300 : 300 + SIDE] = picture
    return cv2.blur(out, (3, 3))


def glowing(colour: tuple[float, float, float], share: float, *, offset: int, gain: float) -> np.ndarray:
    light = blobs(share, blur=4) * 255 * gain
    picture = offset + light[..., None] * np.array(colour)
    return np.clip(picture + np.random.default_rng(2).normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


BRIGHT = {
    "empty glass": np.full((SIDE, SIDE, 3), 243, np.uint8),
    "dull glass": np.full((SIDE, SIDE, 3), 150, np.uint8),
    "h&e": stained((243, 242, 245), EOSIN, 0.4),
    "all tissue": stained(EOSIN, HAEMATOXYLIN, 0.9),
    "dark ihc": stained((240, 238, 236), DAB, 0.6),
    "all dark ihc": stained((110, 80, 70), DAB, 0.9),
    "h&e in a black border": bordered(stained(EOSIN, HAEMATOXYLIN, 0.9)),
    "dark ihc in a black border": bordered(stained((110, 80, 70), DAB, 0.9)),
    "glass in a black border": bordered(np.full((SIDE, SIDE, 3), 243, np.uint8)),
}
DARK = {
    "dapi": glowing((0.1, 0.3, 1.0), 0.2, offset=3, gain=1.0),
    "dapi, saturated": glowing((0.0, 0.0, 1.0), 0.4, offset=12, gain=3.0),
    "fitc": glowing((0.0, 1.0, 0.2), 0.5, offset=8, gain=0.8),
    "grey": glowing((1.0, 1.0, 1.0), 0.3, offset=5, gain=0.7),
    "faint": glowing((1.0, 0.2, 0.2), 0.1, offset=0, gain=0.3),
    "nothing seen": np.full((SIDE, SIDE, 3), 4, np.uint8),
}


@pytest.mark.parametrize("name", BRIGHT)
def test_brightfield_is_not_taken_for_fluorescence(name: str) -> None:
    assert illumination_of(BRIGHT[name]) == "brightfield"


@pytest.mark.parametrize("name", DARK)
def test_fluorescence_is_seen(name: str) -> None:
    assert illumination_of(DARK[name]) == "fluorescence"


@pytest.mark.parametrize(
    ("name", "light"),
    [
        ("fluorescence-dapi.ndpi", "fluorescence"),
        ("crc01.tif", "brightfield"),
        ("cmu-1-small-region.svs", "brightfield"),
        ("camelyon-overview-j2k.dcm", "brightfield"),
        ("absurd-mpp.tiff", "brightfield"),
        ("invalid-resolution.tif", "brightfield"),
        ("flat-kidney.tif", "brightfield"),
    ],
)
def test_real_slides(real_slides: Path, name: str, light: str) -> None:
    assert illumination_of(glance(open_slide(real_slides / name))) == light


def test_a_large_slide_without_a_pyramid_is_glanced_at_in_patches(
    tmp_path: Path, write_pyramid: Callable[..., np.ndarray]
) -> None:
    path = tmp_path / "wide.tif"
    write_pyramid(path, np.full((512, 4608, 3), 240, np.uint8), mpp=0.5, factors=(1,), tile=256)
    picture = glance(open_slide(path))
    assert picture.shape == (16 * 48, 16 * 48, 3)
    assert illumination_of(picture) == "brightfield"
