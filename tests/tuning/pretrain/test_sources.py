"""Batches by number: whole, without duplicates, the same for any number of threads and processes, from any start."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathotune_pipeline.errors import SlideError, UsageError
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tuning.pretrain.sources import Team, open_source
from pathotune_pipeline.tuning.pretrain.spec import ImageSpec
from tests.tuning.pretrain.toy import textures, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("pretrain") / "images", 24)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretrain-slides")
    for seed in range(2):
        write_slide(root / f"s{seed}.tif", size_px=(512, 512), seed=seed)
    return root


def take(spec: ImageSpec, count: int, *, size: int = 8, team: Team | None = None, start: int = 0) -> list[np.ndarray]:
    source = open_source(spec, input_px=32, seed=1)
    with source.batches(size, team=team or Team(), start=start) as batches:
        return list(itertools.islice(batches, count))


def test_every_image_comes_once_an_epoch_and_held_out_ones_never(images):
    source = open_source(ImageSpec(images=(str(images),), held_out=0.25), input_px=32, seed=1)
    held_out = 24 - source.images
    assert 2 <= held_out <= 11
    with source.batches(source.images, team=Team()) as batches:
        epochs = [next(batches) for _ in range(2)]
    first, second = ({each.tobytes() for each in epoch} for epoch in epochs)
    watched = {each.tobytes() for each in source.watched(24)}
    assert first == second
    assert len(first) == source.images
    assert len(watched) == held_out
    assert not first & watched
    assert [each.tobytes() for each in epochs[0]] != [each.tobytes() for each in epochs[1]]


def test_batches_of_both_kinds_are_the_same_for_any_threads_processes_and_start(images, slides):
    spec = ImageSpec(images=(str(images),), slides=str(slides), slide_share=0.5, mpps=(0.5,))
    whole = take(spec, 4)
    assert whole[0].shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(take(spec.with_values(readers=3), 4), whole)
    np.testing.assert_array_equal(take(spec, 2, start=2), whole[2:])
    for rank in range(2):
        part = take(spec, 4, team=Team(rank, 2))
        np.testing.assert_array_equal(part, [batch[rank::2] for batch in whole])
    with_images = {image.tobytes() for image in textures(24)}
    kinds = [image.tobytes() in with_images for image in whole[0]]
    assert kinds == [False] * 4 + [True] * 4


def test_larger_images_give_windows_at_their_own_scale_and_smaller_ones_are_enlarged(tmp_path):
    large = textures(1, side=50)[0]
    cv2.imwrite(str(tmp_path / "large.png"), large[..., ::-1])
    (batch,) = take(ImageSpec(images=(str(tmp_path),), held_out=0.0), 1, size=4)
    windows = np.lib.stride_tricks.sliding_window_view(large, (32, 32), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    assert all((windows == window).all((2, 3, 4)).any() for window in batch)
    assert len({window.tobytes() for window in batch}) > 1
    cv2.imwrite(str(tmp_path / "large.png"), large[:20, :16])
    assert take(ImageSpec(images=(str(tmp_path),), held_out=0.0), 1, size=4)[0].shape == (4, 32, 32, 3)


def test_a_table_names_images_relative_to_itself(images, tmp_path):
    table = images.parent / "some.csv"
    table.write_text("path,label\nimages/0.png,a\nimages/3.png,b\n")
    source = open_source(ImageSpec(images=(str(table),), held_out=0.0), input_px=32, seed=0)
    assert source.images == 2
    facts = source.facts()
    assert facts["images"] == 2
    assert "0.png" not in str(facts)


def test_what_cannot_serve_is_told_at_once(images, slides, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"this is no image")
    (tmp_path / "t.csv").write_text("file\na.png\n")
    (tmp_path / "absent.csv").write_text("path\na.png\n")
    (tmp_path / "none").mkdir()
    for named, says in [
        ("nowhere", "neither a folder nor a file"),
        ("none", "no image was found"),
        ("t.csv", "there is no column 'path'"),
        ("absent.csv", "1 of 1 images are absent"),
        ("", "bad.png cannot be read"),
    ]:
        with pytest.raises(UsageError, match=says):
            open_source(ImageSpec(images=(str(tmp_path / named),)), input_px=32, seed=0)
    with pytest.raises(UsageError, match="--images, --slides or --manifest"):
        open_source(ImageSpec(), input_px=32, seed=0)
    with pytest.raises(UsageError, match="Name each source once"):
        open_source(ImageSpec(images=(str(images), str(images))), input_px=32, seed=0)
    with pytest.raises(UsageError, match="a multiple of 3"):
        take(ImageSpec(images=(str(images),)), 1, team=Team(0, 3))


def test_an_error_of_a_reader_reaches_the_one_who_waits(slides):
    with pytest.raises(SlideError, match="no slide gives a tile"):
        take(ImageSpec(slides=str(slides), mpps=(0.1,)), 1)
