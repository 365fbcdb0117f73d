import csv
import json

import numpy as np
import openslide
import pytest
import tifffile

from pathotune_pipeline.errors import SpecError, UsageError
from pathotune_pipeline.testing.scene import draw_scene
from pathotune_pipeline.testing.slides import SyntheticSlideSpec, make_archive, write_slide, write_svs

SMALL = {"size_px": (1024, 1024), "seed": 3}


def pixels(path):
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_openslide_reads_levels_and_the_exact_mpp(tmp_path, mpp):
    write_slide(tmp_path / "a.tif", mpp=mpp, **SMALL)
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((1024, 1024), (512, 512), (256, 256))
        assert float(slide.properties["openslide.mpp-x"]) == mpp
        assert float(slide.properties["openslide.mpp-y"]) == mpp
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        assert not slide.associated_images


@pytest.mark.parametrize("write", [write_slide, write_svs])
def test_a_slide_may_keep_its_mpp_to_itself(tmp_path, write):
    truth = write(tmp_path / "a.svs", states_mpp=False, size_px=(512, 512))
    with openslide.OpenSlide(str(truth.path)) as slide:
        assert "openslide.mpp-x" not in slide.properties


def test_a_slide_that_is_no_multiple_of_the_tile_is_whole(tmp_path):
    write_slide(tmp_path / "a.tif", size_px=(900, 700), seed=1, levels=2)
    assert pixels(tmp_path / "a.tif").shape == (700, 900, 3)


def test_one_seed_one_file(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_slide(tmp_path / f"{name}.tif", size_px=(512, 512), seed=seed)
    a, b, c = ((tmp_path / f"{name}.tif").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_it_looks_like_tissue_on_glass(tmp_path):
    truth = write_slide(tmp_path / "a.tif", **SMALL)
    rgb = pixels(truth.path).astype(float)
    coloured = rgb.max(-1) - rgb.min(-1) > 15
    assert 0.2 < coloured.mean() < 0.8
    assert np.median(rgb[~coloured], 0).min() > 225  # glass
    red, green, blue = rgb[coloured].mean(0)
    assert red > green
    assert blue > green  # pink to purple
    assert truth.tissue_tiles > 3


def test_special_tiles_stand_on_the_grid_and_are_full_of_nuclei(tmp_path):
    truth = write_slide(tmp_path / "a.tif", pattern="planted", size_px=(2048, 2048), seed=3)
    rgb = pixels(truth.path)
    assert len(truth.planted) + len(truth.decoys) == max(1, round(0.05 * truth.tissue_tiles)) + round(
        0.04 * truth.tissue_tiles
    )
    for box in (*truth.planted, *truth.decoys):
        assert box.x % 256 == box.y % 256 == 0
        assert (box.width, box.height) == (256, 256)
        tile = rgb[int(box.y) : int(box.bottom), int(box.x) : int(box.right)]
        assert (tile[..., 0] < 150).mean() > 0.15
    assert truth.coords.shape == (len(truth.planted), 2)
    assert truth.coords.dtype == np.int64


@pytest.mark.parametrize("mpp", [0.25, 1.0])
def test_special_tiles_keep_their_physical_size(mpp):
    spec = SyntheticSlideSpec(pattern="decoy", size_px=(1536, 1536), seed=0, mpp=mpp)
    assert spec.tile_px == round(128 / mpp)
    assert draw_scene(spec).decoys


def test_an_offset_moves_the_grid(tmp_path):
    truth = write_slide(tmp_path / "a.tif", pattern="planted", offset=(100, 40), size_px=(2048, 2048), seed=3)
    assert {(box.x % 256, box.y % 256) for box in truth.planted} == {(100, 40)}


def test_the_pattern_changes_special_tiles_and_nothing_else():
    planted, decoy = (
        draw_scene(SyntheticSlideSpec(size_px=(2048, 2048), seed=5, pattern=pattern))
        for pattern in ("planted", "decoy")
    )
    assert sorted(planted.planted + planted.decoys) == sorted(decoy.decoys)
    assert not decoy.planted
    differs = (planted.rgb != decoy.rgb).any(-1)
    for column, row in decoy.decoys:
        here = np.s_[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256]
        differs[here] = False
        one, other = (scene.rgb[here].reshape(-1, 3).astype(float) for scene in (planted, decoy))
        assert np.abs(one.mean(0) - other.mean(0)).max() < 1.5
        assert np.abs(one.std(0) - other.std(0)).max() < 1.5
    assert not differs.any()


def test_svs_looks_like_aperio(tmp_path):
    write_svs(tmp_path / "a.svs", description="Patient = Jane Roe", label_text="Jane Roe", **SMALL)
    with openslide.OpenSlide(str(tmp_path / "a.svs")) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_count == 3
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.properties["aperio.Patient"] == "Jane Roe"
        assert set(slide.associated_images) == {"label", "macro", "thumbnail"}
        label = np.asarray(slide.associated_images["label"])[..., :3]
        assert (label[55:90, 10:200].max(-1) < 140).sum() > 100  # printed letters
        reference = draw_scene(SyntheticSlideSpec(**SMALL)).rgb.astype(float)
        assert np.abs(pixels(tmp_path / "a.svs") - reference).mean() < 4


def test_a_name_can_be_hidden_in_a_generic_tiff(tmp_path):
    write_slide(tmp_path / "a.tif", description="Jane Roe", label_text="Jane Roe", **SMALL)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.pages[0].description == "Jane Roe"
        assert len(tif.pages) == 4
        assert not tif.pages[-1].is_tiled
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as slide:
        assert slide.level_count == 3
        assert slide.properties["openslide.comment"] == "Jane Roe"


def test_an_archive_is_balanced_and_its_files_tell_the_truth(tmp_path):
    archive = make_archive(tmp_path / "one", patients=6, second_slide_share=0.34, size_px=(1280, 1280))
    with archive.labels.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["slide_id"]: row["class"] for row in rows} == archive.classes
    classes = {row["case_id"]: row["class"] for row in rows}
    assert sorted(classes.values()) == ["negative"] * 3 + ["positive"] * 3
    assert sorted(archive.classes.values()) == ["negative"] * 4 + ["positive"] * 4
    truth = json.loads(archive.truth.read_text())
    for row in rows:
        assert (archive.folder / row["path"]).is_file()
        planted = truth[row["slide_id"]]["planted"]
        assert bool(planted) == (row["class"] == "positive")
        assert planted == [[b.x, b.y, b.width, b.height] for b in archive.slides[row["slide_id"]].planted]
        assert len(planted) <= max(1, 0.1 * truth[row["slide_id"]]["tissue_tiles"])


def test_worker_processes_write_the_same_archive(tmp_path):
    one, two = (
        make_archive(tmp_path / str(workers), patients=2, second_slide_share=0, size_px=(1024, 1024), workers=workers)
        for workers in (1, 2)
    )
    assert one.truth.read_text() == two.truth.read_text()
    for slide_id in one.slides:
        assert (one.folder / slide_id).read_bytes() == (two.folder / slide_id).read_bytes()


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(SpecError, match="Did you mean 'pattern'"):
        write_slide(tmp_path / "a.tif", patern="planted")
    with pytest.raises(UsageError, match="no room for a special tile, which has 256 px"):
        write_slide(tmp_path / "a.tif", pattern="planted", size_px=(200, 300))
