"""Heat maps: every format puts each tile's percentile where the tile is."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from pathotune_pipeline.cli import main
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.models.field import AttentionField, colours, field_of
from pathotune_pipeline.models.heat_geojson import band_features, tile_features
from pathotune_pipeline.models.heat_tiff import pick_downsample, write_heat_tiff
from pathotune_pipeline.models.heatmap import heads_with_attention
from pathotune_pipeline.models.top_tiles import ranked
from pathotune_pipeline.slides.open import open_slide
from pathotune_pipeline.testing.slides import write_slide
from tests.features.toy import ColourSlide
from tests.models.conftest import FAST, Study, extract


def brute_force(coords: np.ndarray, extent: tuple[float, float], values: np.ndarray, at: tuple[float, float]) -> float:
    """Mean of the values of all tiles over a place; -1 where none is."""
    inside = ((coords <= at) & (np.array(at) < coords + extent)).all(axis=1)
    return float(values[inside].mean()) if inside.any() else -1.0


@pytest.mark.parametrize("stride", [64.0, 32.0, 48.3, 100.0])
def test_the_field_is_the_mean_of_the_tiles_that_cover_a_place(stride: float) -> None:
    rng = np.random.default_rng(3)
    every = np.array([(round(i * stride), round(j * stride)) for j in range(9) for i in range(7)])
    coords = every[rng.random(len(every)) < 0.7]
    values, extent = rng.random(len(coords)), (64.0, 64.0)
    field = field_of(coords, extent, values)
    x, y = np.arange(-10, 800, 7) + 3.2, np.arange(-10, 1000, 7) + 3.2
    levels, covered = field.sample(x, y)
    expected = np.array([[brute_force(coords, extent, values, (a, b)) for a in x] for b in y])
    edges = np.concatenate([coords, coords + extent])
    far = np.abs(x[:, None] - edges[:, 0]).min(axis=1) > 2, np.abs(y[:, None] - edges[:, 1]).min(axis=1) > 2
    sure = np.ix_(far[1], far[0])  # by the edges, a pixel of rounding is allowed
    assert sure[0].size * sure[1].size > 1000
    np.testing.assert_array_equal(covered[sure], (expected >= 0)[sure])
    np.testing.assert_allclose(levels[sure][covered[sure]], expected[sure][covered[sure]], atol=1e-12)


@pytest.fixture
def chessboard() -> tuple[np.ndarray, np.ndarray, AttentionField]:
    """Tiles of 256 px at every second place of a slide of 3000 x 2000 px, with rising levels."""
    coords = np.array([(x, y) for y in range(0, 1792, 256) for x in range(256 * (y // 256 % 2), 2800, 512)])
    levels = np.linspace(0, 1, len(coords))
    return coords, levels, field_of(coords, (256.0, 256.0), levels)


def test_the_tiff_has_the_slides_scale_and_places(tmp_path: Path, chessboard) -> None:
    coords, levels, field = chessboard
    path = tmp_path / "heat.tif"
    write_heat_tiff(path, field, level0=Size(3000, 2000), mpp=Mpp(0.25, 0.26), downsample=2)
    with openslide.OpenSlide(path) as slide:
        assert slide.detect_format(path) == "generic-tiff"
        assert slide.dimensions == (1500, 1000)
        assert slide.level_count == 3
        scales = (float(slide.properties[f"tiff.{name}Resolution"]) for name in "XY")
        assert [1e4 / scale for scale in scales] == pytest.approx([0.5, 0.52], rel=1e-6)
        for level in range(3):
            step = 2 * 2**level
            pixels = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]
            for (x, y), value in zip(coords, levels, strict=True):
                inside = pixels[(y + 16) // step : (y + 240) // step, (x + 16) // step : (x + 240) // step]
                assert (inside == colours(np.array(value))).all()
            assert (pixels[128 // step, 384 // step] == 255).all()  # between two tiles
    assert open_slide(path).info.mpp is not None
    with tifffile.TiffFile(path) as file:
        assert not file.is_bigtiff
        assert all(page.is_tiled for page in file.pages)


def test_a_map_that_may_grow_large_is_a_bigtiff(tmp_path: Path) -> None:
    field = field_of(np.array([[0, 0]]), (40000.0, 40000.0), np.array([0.5]))
    import pathotune_pipeline.models.heat_tiff as module

    limit, module._CLASSIC_BYTES = module._CLASSIC_BYTES, 10_000
    try:
        write_heat_tiff(tmp_path / "a.tif", field, level0=Size(40000, 40000), mpp=Mpp.square(0.25), downsample=256)
    finally:
        module._CLASSIC_BYTES = limit
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff


def test_a_tile_is_at_least_so_wide_on_the_tiff() -> None:
    assert pick_downsample((512.0, 512.0), 16) == 32
    assert pick_downsample((500.0, 520.0), 16) == 16
    assert pick_downsample((8.0, 8.0), 16) == 1


def area(ring: list[list[float]]) -> float:
    x, y = np.array(ring[:-1]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_geojson_bands_cover_the_tiles_exactly(chessboard) -> None:
    coords, levels, field = chessboard
    bands = band_features(field, (0.0, 0.5, 0.9))
    by_band: dict[str, float] = {}
    for feature in bands:
        assert feature["properties"]["objectType"] == "annotation"
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for ring in rings)
        name = feature["properties"]["classification"]["name"]
        by_band[name] = by_band.get(name, 0.0) + sum(area(ring) for ring in rings)
    low, middle, high = (levels < 0.5).sum(), ((levels >= 0.5) & (levels < 0.9)).sum(), (levels >= 0.9).sum()
    assert by_band == {
        "Attention percentile 0-50": low * 256.0**2,
        "Attention percentile 50-90": middle * 256.0**2,
        "Attention percentile 90-100": high * 256.0**2,
    }
    tiles = tile_features(coords, (256.0, 256.0), attention=levels / 10, levels=levels)
    assert len(tiles) == len(coords)
    x, y = coords[3].tolist()
    square = [[x, y], [x + 256, y], [x + 256, y + 256], [x, y + 256], [x, y]]
    assert tiles[3]["geometry"]["coordinates"] == [square]
    assert tiles[3]["properties"]["measurements"]["Attention percentile"] == pytest.approx(100 * levels[3], abs=1e-3)
    assert tiles[3]["properties"]["objectType"] == "detection"
    assert tiles[3]["properties"]["color"] == colours(levels[3]).tolist()


def test_ranked_tiles_do_not_overlap() -> None:
    grid = ColourSlide().grid(64)
    attention = np.linspace(0, 1, len(grid))
    top = ranked(grid, attention, count=4, highest=True)
    assert top == list(range(len(grid) - 1, len(grid) - 5, -1))
    assert ranked(grid, -attention, count=2, highest=False) == top[:2]
    assert ranked(grid, np.ones(len(grid)), count=3, highest=True) == [0, 1, 2]
    dense = replace(grid, coords=np.array([(x, 0) for x in range(0, 640, 32)]))
    chosen = ranked(dense, np.linspace(0, 1, 20), count=3, highest=True)
    assert np.diff(dense.coords[chosen][:, 0]).tolist() == [-64, -64]
    assert ranked(dense, np.ones(20), count=0, highest=True) == []


def heatmap(*words: object) -> int:
    return main(["heatmap", *map(str, words), "--picture-px", "300"])


def test_all_formats_of_a_slide(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, out = "case-1%2Fs3.tif", tmp_path / "maps"
    words = ("--model", study.model, "--store", study.store, "--slide", name)
    assert heatmap(*words, "--slides", study.archive, "--out", out) == 0
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{kind}" for kind in ("csv", "geojson", "tif", "png", "tiles.png")
    }
    with (out / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    attention = np.array([float(row["attention"]) for row in rows])
    percent = np.array([float(row["percentile"]) for row in rows])
    assert attention.sum() == pytest.approx(1, abs=1e-5)
    assert (np.argsort(attention) == np.argsort(percent)).all()
    assert (percent.min(), percent.max()) == (0, 100)
    strongest = rows[int(attention.argmax())]
    x, y = int(strongest["x"]), int(strongest["y"])
    with openslide.OpenSlide(out / f"{name}.tif") as tif:
        step = 1536 // tif.dimensions[0]
        pixel = tif.read_region(((x + 128) // step, (y + 128) // step), 0, (1, 1)).getpixel((0, 0))[:3]
    assert pixel == tuple(colours(np.array(1.0)))
    told = json.loads((out / f"{name}.geojson").read_text())
    kinds = [feature["properties"]["objectType"] for feature in told["features"]]
    assert kinds.count("detection") == len(rows)
    assert kinds.count("annotation") >= 4
    with Image.open(out / f"{name}.png") as picture:
        assert min(picture.size) > 300
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert heatmap(*words, "--slides", study.archive, "--out", out) == 0  # the same again: nothing to replace
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert heatmap(*words, "--out", out, "--set", "heatmap.bands=[0.2]") == 3
    assert "--overwrite" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_the_sheet_shows_the_slides_own_pixels(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "a" / "case-1" / "s3.tif"
    write_slide(other, size_px=(1536, 1536), seed=99)
    words = ("--model", study.model, "--store", study.store, "--slides", tmp_path / "a", "--out", tmp_path / "m")
    assert heatmap(*words, "--slide", "case-1%2Fs3.tif") == 3
    assert "not the one that its features were made of" in capsys.readouterr().out
    assert list((tmp_path / "m").iterdir()) == []
    assert heatmap(*words, "--slide", "case-1%2Fs2.tif") == 0
    assert "no sheet of tiles: --slides has no such slide" in capsys.readouterr().out


def test_overlapping_tiles_share_their_mean(study: Study, tmp_path: Path) -> None:
    store, name = tmp_path / "s", "case-1%2Fs2.tif"
    extract(study.archive, store, "--overlap-px", 64)
    words = study.words("train", *FAST, "--head", "abmil", "--out", tmp_path / "m")
    assert main([str(store) if word == str(study.store) else word for word in words]) == 0
    assert heatmap("--model", tmp_path / "m", "--store", store, "--slide", name, "--out", tmp_path / "o") == 0
    with (tmp_path / "o" / f"{name}.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    coords = np.array([(row["x"], row["y"]) for row in rows])
    levels = np.array([row["percentile"] / 100 for row in rows])
    with openslide.OpenSlide(tmp_path / "o" / f"{name}.tif") as tif:
        step = 1536 // tif.dimensions[0]
        for at in ((640 + 64, 768 + 64), (512 + 64, 640 + 64)):
            over = ((coords <= at) & (np.array(at) < coords + 256)).all(axis=1)
            assert over.sum() >= 2
            pixel = tif.read_region((at[0] // step, at[1] // step), 0, (1, 1)).getpixel((0, 0))[:3]
            np.testing.assert_allclose(pixel, colours(levels[over].mean()), atol=3)


def test_wrong_calls_are_one_clear_line(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(study.words("train", *FAST, "--head", "mean", "--out", tmp_path / "mean")) == 0
    model, out = ("--model", study.model, "--store", study.store), ("--out", tmp_path / "o")
    capsys.readouterr()
    for words, message in (
        (
            ("--model", tmp_path / "mean", "--store", study.store, *out),
            "Heads that have: abmil, abmil-ungated, clam-sb",
        ),
        ((*model, "--slide", "case-1%2Fs2.ti", *out), "Did you mean 'case-1%2Fs2.tif'"),
        ((*model, "--slides", tmp_path / "absent", *out), "absent"),
        ((*model, "--set", "heatmap.bands=[0.9, 0.5]", *out), "must rise"),
        ((*model, "--out", study.store), "this is a store"),
    ):
        assert heatmap(*words) == 2, words
        told = capsys.readouterr().err
        assert len(told.strip().splitlines()) == 1, told
        assert message in told
    assert not (tmp_path / "o").exists()


def test_which_heads_have_attention_is_found_out() -> None:
    found = heads_with_attention()
    assert {"abmil", "clam-sb", "clam-mb", "transmil"} <= set(found)
    assert not {"mean", "max"} & set(found)
