"""Random tiles straight from the slides: their pixels, shares, seeds, parts, and how little they leave behind."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pathotune_pipeline.archive.manifest import Manifest, SlideItem, read_manifest
from pathotune_pipeline.errors import SlideError, SpecError, TileReadError
from pathotune_pipeline.features import online
from pathotune_pipeline.features.online import OnlineSpec, Patch, stream_tiles
from pathotune_pipeline.features.tile_stream import TileStream
from pathotune_pipeline.slides import open_slide, read_at_mpp
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tissue import TissueSpec, find_tissue

SMALL = {"tile_px": 32, "mpps": (2.0, 1.0, 0.5)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five slides of 768 px at 0.5 um/px, one at 1 um/px, and one that is no slide."""
    root = tmp_path_factory.mktemp("online")
    for seed in range(5):
        write_slide(root / f"s{seed}.tif", size_px=(768, 768), seed=seed)
    write_slide(root / "coarse.tif", size_px=(512, 512), mpp=1.0, seed=9)
    (root / "broken.svs").write_bytes(b"this is no slide")
    return root


@pytest.fixture(scope="module")
def manifest(archive: Path) -> Manifest:
    items = [SlideItem(path.name, path) for path in sorted(archive.iterdir())]
    return Manifest(tuple(items))


def take(manifest: Manifest, count: int, **settings) -> list[Patch]:
    with stream_tiles(manifest, **settings) as draws:
        return list(itertools.islice(draws, count))


def place(patch: Patch) -> tuple:
    return patch.number, patch.slide_id, patch.location, patch.mpp


def test_pixels_are_those_of_direct_reads_with_enough_tissue(manifest, archive):
    masks, slides = {}, {}
    for patch in take(manifest, 40, **SMALL, min_tissue=0.6):
        if patch.slide_id not in slides:
            slides[patch.slide_id] = open_slide(archive / patch.slide_id)
            masks[patch.slide_id] = find_tissue(slides[patch.slide_id], TissueSpec())
        slide = slides[patch.slide_id]
        direct = read_at_mpp(slide, patch.mpp, location=patch.location, size_px=(32, 32))
        np.testing.assert_array_equal(patch.pixels, direct)
        assert patch.pixels.dtype == np.uint8
        side = 32 * patch.mpp / slide.info.mpp.x
        box = np.array([[*patch.location, side, side]])
        assert masks[patch.slide_id].fraction(box)[0] >= 0.6
        assert min(patch.location) >= 0
        assert max(patch.location) + side <= slide.info.size.width
    for slide in slides.values():
        slide.close()


def test_the_same_seed_draws_the_same_whatever_came_before(manifest):
    first = take(manifest, 60, **SMALL, seed=3)
    assert [place(patch) for patch in take(manifest, 60, **SMALL, seed=3)] == [place(patch) for patch in first]
    assert [place(patch) for patch in take(manifest, 60, **SMALL, seed=4)] != [place(patch) for patch in first]
    late = take(manifest, 20, **SMALL, seed=3, start=40)
    assert [place(patch) for patch in late] == [place(patch) for patch in first[40:]]
    np.testing.assert_array_equal(late[0].pixels, first[40].pixels)


@pytest.mark.parametrize("of", [2, 3, 8])
def test_parts_are_disjoint_and_together_the_whole(manifest, of):
    whole = [place(patch) for patch in take(manifest, 48, **SMALL, seed=1)]
    parts = [
        [place(patch) for patch in take(manifest, 48 // of, **SMALL, seed=1, substream=(index, of))]
        for index in range(of)
    ]
    assert len({each[1:] for part in parts for each in part}) == 48  # no place twice
    assert sorted(each for part in parts for each in part) == whole


def test_every_scale_has_its_share(manifest):
    count, weights = 1500, (1.0, 2.0, 5.0)
    for index, of in ((0, 1), (2, 4)):
        with stream_tiles(manifest, **SMALL, weights=weights, substream=(index, of)) as draws:
            drawn = Counter(patch.mpp for patch in itertools.islice(draws, count))
            assert draws.counts.drawn == drawn
        for mpp, weight in zip(SMALL["mpps"], weights, strict=True):
            assert drawn[mpp] / count == pytest.approx(weight / 8, rel=0.05)


def test_the_default_scales_are_drawn_alike(archive):
    fine = Manifest(tuple(SlideItem(f"s{seed}.tif", archive / f"s{seed}.tif", mpp=0.25) for seed in range(5)))
    with stream_tiles(fine, tile_px=32) as draws:
        drawn = Counter(patch.mpp for patch in itertools.islice(draws, 1000))
    assert set(drawn) == {2.0, 1.0, 0.5, 0.25}
    assert all(count == pytest.approx(250, rel=0.05) for count in drawn.values())


def test_slides_serve_alike_and_too_coarse_ones_only_what_they_can(manifest):
    with stream_tiles(manifest, **SMALL, patches_per_slide=4, max_open=3) as draws:
        patches = list(itertools.islice(draws, 900))
        assert draws.counts.too_coarse == {("coarse.tif", 0.5)}
        assert list(draws.counts.left_out) == ["broken.svs"]
        assert "no reader" in draws.counts.left_out["broken.svs"]
    assert {patch.mpp for patch in patches if patch.slide_id == "coarse.tif"} == {2.0, 1.0}
    served = Counter(patch.slide_id for patch in patches if patch.mpp == 2.0)
    assert len(served) == 6
    assert min(served.values()) > 0.5 * 300 / 6
    assert max(served.values()) < 1.6 * 300 / 6


def test_open_slides_are_bounded_and_closed(manifest, monkeypatch):
    alive: set[int] = set()
    most = 0

    def watched(*args, **kwargs):
        nonlocal most
        slide = real(*args, **kwargs)
        alive.add(id(slide))
        most = max(most, len(alive))
        close = slide.close
        monkeypatch.setattr(slide, "close", lambda: (alive.discard(id(slide)), close()))
        return slide

    real = online.open_checked
    monkeypatch.setattr(online, "open_checked", watched)
    found = []
    monkeypatch.setattr(online, "find_tissue", lambda slide, spec: found.append(1) or find_tissue(slide, spec))
    with stream_tiles(manifest, **SMALL, max_open=2, patches_per_slide=3) as draws:
        for _ in range(80):
            next(draws)
            assert draws.open_slides <= 2
    assert most == 2
    assert not alive
    assert draws.open_slides == 0
    assert len(found) == 6  # tissue once for each slide, however often it is opened


def test_unreadable_places_are_passed_over_and_counted(manifest, monkeypatch):
    real = online.read_planned

    def fragile(slide, plan, *, location):
        if location[0] < 300:
            raise TileReadError("damaged")
        return real(slide, plan, location=location)

    monkeypatch.setattr(online, "read_planned", fragile)
    with stream_tiles(manifest, **SMALL) as draws:
        patches = list(itertools.islice(draws, 50))
        assert sum(draws.counts.unreadable.values()) > 5
    assert all(patch.location[0] >= 300 for patch in patches)
    assert [patch.number for patch in patches] == list(range(50))


def test_nothing_is_written(manifest, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.relative_to(archive) for path in archive.rglob("*"))
    take(manifest, 30, **SMALL)
    assert not list(tmp_path.iterdir())
    assert sorted(path.relative_to(archive) for path in archive.rglob("*")) == before


def test_what_cannot_be_drawn_is_said(manifest, archive):
    with (
        stream_tiles(manifest, tile_px=32, mpps=(0.1,)) as draws,
        pytest.raises(SlideError, match="too coarse") as told,
    ):
        next(draws)
    assert str(archive) not in str(told.value)
    with stream_tiles(manifest, tile_px=2000, mpps=(1.0,)) as draws, pytest.raises(SlideError, match="too small"):
        next(draws)
    for wrong in ({"weights": (1.0,)}, {"mpps": (1.0, 1.0)}, {"mpps": (-1.0,)}, {"weights": (0.0, 0.0, 0.0, 0.0)}):
        with pytest.raises(SpecError):
            stream_tiles(manifest, **wrong)
    with pytest.raises(SpecError, match="min_tissue"):
        stream_tiles(manifest, min_tisue=0.1)
    with pytest.raises(SpecError, match="substream"):
        stream_tiles(manifest, substream=(2, 2))
    with pytest.raises(SpecError, match="at least one slide"):
        stream_tiles(Manifest(()))


def test_masks_come_from_a_store_that_has_them(archive, tmp_path, monkeypatch):
    from pathotune_pipeline.execution.serial import SerialExecutor
    from pathotune_pipeline.features.extract import extract
    from pathotune_pipeline.features.plan import ExtractSpec
    from pathotune_pipeline.store.store import FeatureStore

    listed = read_manifest(archive)
    whole = [place(patch) for patch in take(listed, 20, **SMALL)]
    extract(listed, ExtractSpec.parse({"tiles": {"mpp": 1.0}}), FeatureStore(tmp_path / "store"), SerialExecutor())
    before = sorted((tmp_path / "store").rglob("*"))
    searched: list[int] = []
    monkeypatch.setattr(online, "find_tissue", lambda slide, spec: searched.append(1))
    assert [place(patch) for patch in take(listed, 20, **SMALL, store=tmp_path / "store")] == whole
    assert not searched
    assert sorted((tmp_path / "store").rglob("*")) == before


def numbers(stream: TileStream) -> list[int]:
    return [each["number"] for each in stream]


def test_a_data_set_splits_over_ranks_and_workers(manifest, monkeypatch):
    whole = numbers(TileStream(manifest, **SMALL, limit=24))
    assert whole == list(range(24))
    parts = []
    for rank, worker in itertools.product(range(2), range(3)):
        info = SimpleNamespace(id=worker, num_workers=3)
        monkeypatch.setattr("pathotune_pipeline.features.tile_stream.get_worker_info", lambda info=info: info)
        parts.append(numbers(TileStream(manifest, **SMALL, limit=24, rank=rank, world=2)))
    assert [len(part) for part in parts] == [4] * 6
    assert sorted(itertools.chain(*parts)) == whole


def test_epochs_go_on(manifest):
    stream = TileStream(manifest, **SMALL, limit=5)
    stream.set_epoch(2)
    assert numbers(stream) == [10, 11, 12, 13, 14]
    for wrong in (lambda: TileStream(manifest, **SMALL).set_epoch(1), lambda: TileStream(manifest, rank=2, world=2)):
        with pytest.raises(SpecError):
            wrong()


def test_a_loader_with_workers_gives_batches(manifest):
    stream = TileStream(manifest, OnlineSpec.parse(SMALL), limit=16)
    batches = list(DataLoader(stream, batch_size=4, num_workers=2))
    assert len(batches) == 4
    assert batches[0]["pixels"].shape == (4, 32, 32, 3)
    assert batches[0]["pixels"].dtype == torch.uint8
    assert batches[0]["location"].shape == (4, 2)
    assert sorted(torch.cat([batch["number"] for batch in batches]).tolist()) == list(range(16))
