"""Stain normalisation: two renderings of one slide come together; white, and what fits already, stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.errors import TileReadError
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo, open_slide
from pathotune_pipeline.testing import scene
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tiles import TileGrid, TileSpec, read_tiles, tile_slide
from pathotune_pipeline.tiles.stain import (
    MACENKO_REFERENCE,
    Macenko,
    Reinhard,
    StainVectors,
    density,
    fit,
    fit_slide,
    measure_lab,
    measure_vectors,
)
from pathotune_pipeline.tissue import TissueMask

METHODS = ["macenko", "reinhard"]
PURPLE = ((0.65, 0.70, 0.29), (0.20, 0.88, 0.43))
BLUISH = ((0.75, 0.60, 0.28), (0.32, 0.82, 0.47))


def render(vectors, strengths=(0.9, 0.5), seed=0, side=256) -> np.ndarray:
    """Nuclei on stroma with glass beside them, in two given stains: uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    eosin = 0.35 + 0.5 * rng.random((side, side)) ** 2
    nuclei = np.zeros((side, side))
    for cx, cy in rng.uniform(0, side, (90, 2)):
        nuclei = np.maximum(nuclei, 0.95 * ((x - cx) ** 2 + (y - cy) ** 2 < 36))
    nuclei *= 0.6 + 0.4 * rng.random((side, side))
    eosin = np.where(nuclei > 0, 0.1, eosin)
    glass = x < side // 6
    pair = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    od = nuclei[..., None] * pair[0] * strengths[0] + eosin[..., None] * pair[1] * strengths[1]
    od[glass] = 0
    return np.rint(255 * 10**-od).astype(np.uint8)


def statistics(rgb: np.ndarray) -> np.ndarray:
    """Mean and deviation beside the glass, [6]."""
    pixels = rgb[:, 256 // 6 + 1 :].reshape(-1, 3).astype(np.float64)
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


@pytest.mark.parametrize("method", METHODS)
def test_two_stains_of_one_slide_come_together(method):
    one, two = render(PURPLE), render(BLUISH, (0.6, 0.8))
    before = np.abs(statistics(one) - statistics(two))
    after = np.abs(statistics(fit(method, one)(one)) - statistics(fit(method, two)(two)))
    assert before.max() > 20
    assert after[:3].max() < 3
    assert after[3:].max() < 7
    # And so with a reference of one's own.
    matched = fit(method, two, reference=one)(two)
    assert np.abs(statistics(matched) - statistics(one))[:3].max() < 3


def test_macenko_recovers_the_vectors_and_its_picture():
    one, two = render(PURPLE), render(BLUISH, (0.6, 0.8))
    found = measure_vectors(two)
    truth = np.array(BLUISH) / np.linalg.norm(BLUISH, axis=1, keepdims=True)
    assert found is not None
    angles = np.rad2deg(np.arccos((np.array(found.vectors) * truth).sum(axis=1).clip(-1, 1)))
    assert angles.max() < 4
    matched = fit("macenko", two, reference=one)(two)
    assert np.abs(matched.astype(int) - one).mean() < 6
    assert np.abs(two.astype(int) - one).mean() > 12


@pytest.mark.parametrize("method", METHODS)
def test_identity_stays_near_identity(method):
    picture = render(PURPLE)
    same = fit(method, picture, reference=picture)(picture)
    assert np.abs(same.astype(int) - picture).max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_white_stays_white_and_nothing_is_made_up(method):
    picture = render(BLUISH)
    normaliser = fit(method, picture)
    white = np.full((8, 8, 3), 255, np.uint8)
    np.testing.assert_array_equal(normaliser(white), white)
    assert (normaliser(picture)[:, : 256 // 6] == 255).all()
    pale = np.full((8, 8, 3), 240, np.uint8)
    assert np.abs(normaliser(pale).astype(int) - 240).max() <= 8
    # Without stain to measure, nothing changes and nobody guesses.
    nothing = fit(method, white)
    assert nothing(picture) is picture
    assert nothing.facts() == {"method": method, "measured": None}
    black = np.zeros((4, 4, 3), np.uint8)
    assert normaliser(black).max() < 60


def test_one_stain_alone_is_not_taken_for_two():
    od = np.random.default_rng(0).random((64, 64, 1)) * np.array([0.6, 0.7, 0.3])
    assert measure_vectors(np.rint(255 * 10**-od).astype(np.uint8)) is None
    assert measure_lab(np.full((64, 64, 3), 120, np.uint8)) is None


@pytest.mark.parametrize("method", METHODS)
def test_a_tile_is_normalised_alike_whatever_stands_beside_it(method):
    tiles = np.stack([render(PURPLE, seed=seed, side=64) for seed in range(5)])
    normaliser = fit(method, tiles)
    together = normaliser(tiles)
    assert together.dtype == np.uint8
    assert together.shape == tiles.shape
    for index in range(5):
        np.testing.assert_array_equal(normaliser(tiles[index]), together[index])
    np.testing.assert_array_equal(fit(method, tiles)(tiles), together)


def test_a_colour_that_is_neither_stain_is_carried_along():
    green = np.array([[[30, 160, 60]]], np.uint8)
    moved = Macenko(MACENKO_REFERENCE, MACENKO_REFERENCE)(green)
    assert np.abs(moved.astype(int) - green).max() <= 1
    other = StainVectors(PURPLE, (0.9, 0.6))
    assert Macenko(other)(green)[0, 0].argmax() == 1


def test_density_is_zero_at_255_and_bounded_at_0():
    assert density(np.array([255], np.uint8))[0] == 0
    assert density(np.array([0, 1], np.uint8)).tolist() == pytest.approx([2.40654, 2.40654])


class TwoHalves:
    """A rendering as a slide; its right half cannot be read."""

    def __init__(self, picture: np.ndarray, broken: int) -> None:
        self.picture, self.broken = picture, broken
        size = Size(picture.shape[1], picture.shape[0])
        self.info = SlideInfo("made", "made", (Level(size, 1.0),), Mpp.square(0.5), "openslide", None)

    def read_region(self, location, level, size):
        if location[0] + size[0] > self.broken:
            raise TileReadError("damaged")
        return self.picture[location[1] : location[1] + size[1], location[0] : location[0] + size[0]].copy()

    def close(self):
        pass


def grid_of(info: SlideInfo, tile_px: int) -> TileGrid:
    assert info.mpp is not None
    across, down = info.size.width * info.mpp.x / 4, info.size.height * info.mpp.y / 4
    mask = TissueMask(np.ones((4, 4), bool), across, down, info.mpp, info.size, np.zeros((4, 4, 3), np.uint8))
    return tile_slide(info, mask, TileSpec(), mpp=info.mpp.x, tile_px=tile_px)


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_is_measured_once_and_its_tiles_are_transformed(method):
    slide = TwoHalves(render(BLUISH), broken=192)
    grid = grid_of(slide.info, 64)
    normaliser = fit_slide(slide, grid, method)
    assert normaliser is not None
    assert normaliser.facts()["measured"]
    plain, moved = (np.zeros((len(grid), 64, 64, 3), np.uint8) for _ in range(2))
    valid, _ = read_tiles(slide, grid, 0, len(grid), plain)
    again, _ = read_tiles(slide, grid, 0, len(grid), moved, transform=normaliser)
    np.testing.assert_array_equal(valid, again)
    assert valid.sum() == 12
    assert not moved[~valid].any()  # what could not be read is not painted
    np.testing.assert_array_equal(moved[valid], normaliser(plain[valid]))
    assert fit_slide(slide, grid, "none") is None


@pytest.mark.parametrize("method", METHODS)
def test_two_laboratories_stain_the_same_slide(method, tmp_path: Path, monkeypatch):
    look = scene._draw_look
    shifts = {"a": ((1.0, 1.0, 1.0), 1.0), "b": ((1.15, 0.9, 1.0), 1.3)}
    before, after = [], []
    for name, (shift, strength) in shifts.items():

        def other(rng, shift=shift, strength=strength):
            own = look(rng)
            return replace(own, hematoxylin=own.hematoxylin * shift, eosin=own.eosin * np.array(shift)[::-1] * strength)

        monkeypatch.setattr(scene, "_draw_look", other)
        write_slide(tmp_path / f"{name}.tif", size_px=(1024, 1024), seed=2)
        slide = open_slide(tmp_path / f"{name}.tif")
        grid = grid_of(slide.info, 256)
        normaliser = fit_slide(slide, grid, method)
        assert isinstance(normaliser, Macenko | Reinhard)
        for told, transform in ((before, None), (after, normaliser)):
            out = np.zeros((len(grid), 256, 256, 3), np.uint8)
            valid, _ = read_tiles(slide, grid, 0, len(grid), out, transform=transform)
            assert valid.all()
            told.append(out)
        slide.close()
    tissue = before[0].min(axis=-1) < 200
    apart = np.abs(before[0][tissue].astype(int) - before[1][tissue]).mean()
    left = np.abs(after[0][tissue].astype(int) - after[1][tissue]).mean()
    assert apart > 5
    assert left < 0.5 * apart
    means = [np.abs(pair[0][tissue].mean(axis=0) - pair[1][tissue].mean(axis=0)).max() for pair in (before, after)]
    assert means[1] < 0.35 * means[0]
