from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathotune_pipeline.errors import (
    ScaleError,
    SlideNotFoundError,
    TileReadError,
    UnknownNameError,
    UnreadableSlideError,
)
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.slides import Level, SlideInfo, SlideSpec, check_scale, describe, open_checked, open_slide
from pathotune_pipeline.slides.slide import Slide


def info_with(mpp: Mpp | None) -> SlideInfo:
    return SlideInfo("aperio", "openslide", (Level(Size(1000, 500), 1.0),), mpp, "openslide" if mpp else None, 20.0)


def test_the_first_reader_that_can_opens_the_slide(pyramid):
    slide = open_slide(pyramid[0])
    assert isinstance(slide, Slide)
    assert slide.info.reader == "jpeg"
    assert slide.info.size == Size(640, 480)
    assert [level.downsample for level in slide.info.levels] == [1.0, 2.0, 4.0]
    assert slide.info.mpp is not None
    assert slide.info.mpp.x == pytest.approx(0.5, rel=1e-6)
    assert slide.info.mpp_source == "tiff-resolution"


def test_the_users_mpp_goes_before_the_files(pyramid):
    path = pyramid[0]
    spec = SlideSpec(mpp_override=0.3)
    own, override, manifest = open_slide(path), open_slide(path, spec), open_slide(path, spec, mpp=0.2)
    assert own.info.mpp_source == "tiff-resolution"
    assert (override.info.mpp, override.info.mpp_source) == (Mpp(0.3, 0.3), "override")
    assert (manifest.info.mpp, manifest.info.mpp_source) == (Mpp(0.2, 0.2), "manifest")
    np.testing.assert_array_equal(manifest.read_region((8, 8), 1, (9, 7)), own.read_region((8, 8), 1, (9, 7)))


def test_missing_file_and_unknown_reader(tmp_path, pyramid):
    with pytest.raises(SlideNotFoundError, match="no such file"):
        open_slide(tmp_path / "smith-john.svs")
    with pytest.raises(UnknownNameError, match="Did you mean 'openslide'"):
        open_slide(pyramid[0], SlideSpec(reader="openslid"))
    with pytest.raises(UnreadableSlideError, match="folder"):
        open_slide(tmp_path)


def test_refusal_gives_every_readers_reason_and_no_path(tmp_path):
    path = tmp_path / "smith-john.svs"
    path.write_bytes(b"nothing that any reader knows")
    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path)
    text = str(caught.value)
    for name in ("jpeg:", "openslide:", "tiffslide:", "image:"):
        assert name in text
    assert "smith" not in text
    assert str(tmp_path) not in text


def test_a_truncated_tiff_is_refused_without_its_path(tmp_path, pyramid):
    path = tmp_path / "smith-john.tif"
    path.write_bytes(pyramid[0].read_bytes()[:3000])
    with pytest.raises(UnreadableSlideError) as caught:
        open_slide(path)
    assert "smith" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_scale_checks():
    spec = SlideSpec()
    check_scale(info_with(Mpp(0.25, 0.26)), spec)
    with pytest.raises(ScaleError, match="no mpp in its metadata"):
        check_scale(info_with(None), SlideSpec(allow_odd_mpp=True), overridden=True)
    for odd in (Mpp.square(264.6), Mpp.square(0.05), Mpp(0.25, 0.27)):
        with pytest.raises(ScaleError, match="--mpp-override"):
            check_scale(info_with(odd), spec)
        check_scale(info_with(odd), spec, overridden=True)
        check_scale(info_with(odd), SlideSpec(allow_odd_mpp=True))


def test_no_resolution_unit_means_no_mpp(tmp_path):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.full((64, 64, 3), 200, np.uint8), photometric="rgb", resolution=(1, 1), resolutionunit=1)
    assert open_slide(path).info.mpp is None
    with pytest.raises(ScaleError, match=r"no mpp in its metadata \(image, tiff resolution tried\)"):
        open_checked(path)
    assert open_checked(path, mpp=0.5).info.mpp == Mpp(0.5, 0.5)


def test_an_odd_mpp_must_be_a_number_of_um(pyramid):
    with pytest.raises(ScaleError, match="positive"):
        open_slide(pyramid[0], mpp=-1.0)


def test_describe_tells_the_facts(pyramid):
    text = describe(open_slide(pyramid[0]).info)
    assert "640 x 480 px, 0.32 x 0.24 mm" in text
    assert "0.5 um/px (from tiff-resolution)" in text
    assert "160 x 120 px, 1/4 of level 0, 2 um/px" in text
    assert "unknown" in describe(info_with(None))


def test_importing_slides_loads_no_reader():
    code = (
        "import sys, pathotune_pipeline.slides\n"
        "names = 'openslide', 'tiffslide', 'tifffile', 'simplejpeg', 'imagecodecs', 'zarr', 'torch', 'PIL'\n"
        "print([m for m in names if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_plain_images_are_slides_of_one_level(tmp_path, kind):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(path, format=kind, dpi=(72, 72))
    slide = open_slide(path)
    assert (slide.info.vendor, slide.info.reader, slide.info.size) == (kind, "image", Size(50, 30))
    assert slide.info.mpp is None
    region = slide.read_region((-10, 20), 0, (20, 20))
    assert (region[:10, 10:] == 90).all()
    assert (region[:, :10] == 255).all()
    assert (region[10:] == 255).all()


def test_transparent_pixels_are_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0] = (100, 0, 0, 255)
    rgba[1] = (100, 0, 0, 128)
    path = tmp_path / "image.png"
    Image.fromarray(rgba).save(path)
    region = open_slide(path).read_region((0, 0), 0, (4, 4))
    assert region[0, 0].tolist() == [100, 0, 0]
    assert region[1, 0].tolist() == [177, 127, 127]
    assert (region[2:] == 255).all()


def test_a_damaged_png_fails_when_read(tmp_path):
    path = tmp_path / "smith-john.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    slide = open_slide(path)
    with pytest.raises(TileReadError) as caught:
        slide.read_region((0, 0), 0, (8, 8))
    assert "smith" not in str(caught.value)


# crc01's own tags say 1.3 um/px.
REAL = [
    ("crc01.tif", "jpeg", 6, 1.3, None),
    ("cmu-1-small-region.svs", "jpeg", 1, 0.499, None),
    ("tcga-cr-7395-01a-01-ts1.svs", "jpeg", 2, None, "no mpp"),
    ("two-pieces.tif", "jpeg", 3, 0.987, None),
    ("absurd-mpp.tiff", "jpeg", 6, 264.58, "264.6 um/px"),
    ("flat-kidney.tif", "image", 1, None, "no mpp"),
    ("invalid-resolution.tif", "openslide", 1, None, "no mpp"),
    ("fluorescence-dapi.ndpi", "openslide", 7, 0.228, None),
    ("camelyon-overview-j2k.dcm", "openslide", 1, 28.97, "28.97 um/px"),
    ("tiny-16px.svs", "jpeg", 1, 0.499, None),
]


@pytest.mark.parametrize(("name", "reader", "levels", "mpp", "refusal"), REAL)
def test_real_slides(real_slides: Path, name, reader, levels, mpp, refusal):
    slide = open_slide(real_slides / name)
    assert slide.info.reader == reader
    assert len(slide.info.levels) == levels
    assert (slide.info.mpp and slide.info.mpp.mean) == (mpp and pytest.approx(mpp, rel=1e-3))
    assert slide.read_region((0, 0), 0, (16, 16)).shape == (16, 16, 3)
    if refusal is None:
        open_checked(real_slides / name)
    else:
        with pytest.raises(ScaleError, match=refusal):
            open_checked(real_slides / name)
    assert open_checked(real_slides / name, mpp=0.5).info.mpp_source == "manifest"


def test_real_unreadable_slides(real_slides: Path):
    with pytest.raises(UnreadableSlideError, match="52479") as caught:
        open_slide(real_slides / "unopenable.tiff")
    assert "unopenable" not in str(caught.value)
    slide = open_slide(real_slides / "unreadable.svs")
    for _ in range(2):
        with pytest.raises(TileReadError, match="Bogus marker length") as failed:
            slide.read_region((0, 0), 0, (16, 16))
        assert "unreadable.svs" not in str(failed.value)


def test_only_the_volume_of_a_dicom_series_is_a_slide(real_slides: Path):
    opened, refused = [], []
    for path in sorted((real_slides / "cmu-1-dicom").glob("*.dcm")):
        try:
            opened.append(open_slide(path).info)
        except UnreadableSlideError as error:
            refused.append(str(error))
    assert [info.size for info in opened] == [Size(2220, 2967)]
    assert sorted(kind for text in refused for kind in ("LABEL", "OVERVIEW", "THUMBNAIL") if kind in text) == [
        "LABEL", "OVERVIEW", "THUMBNAIL",
    ]  # fmt: skip
    assert not any("1.2.826" in text for text in refused)
