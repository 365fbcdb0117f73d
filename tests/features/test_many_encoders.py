"""Several encoders in one pass: each block is decoded once, each set stands for itself, only what is missing is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.create import ENCODERS
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.store import FeatureStore, open_store
from pathotune_pipeline.store.runs import read_runs

TILES = {"tile_px": 128}


class Colour(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.float().mean(dim=(1, 2))


class Overflow(torch.nn.Module):
    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.full((len(batch), 3), 1e9)


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`toy-colour` for 0.5 um/px, `toy-coarse` for 2, `toy-overflow` which fails; and none that other tests loaded."""
    from pathotune_pipeline.features import loaded

    def build(module: type[torch.nn.Module], mpp: float):  # type: ignore[no-untyped-def]
        def builder(spec: EncoderSpec) -> tuple[torch.nn.Module, EncoderCard]:
            architecture = spec.name
            card = EncoderCard(
                name=spec.name, source="built-in", architecture=architecture, dim=3, tile_px=128, mpp=mpp, mean=None,
                std=None,
            )  # fmt: skip
            return module(), card

        return builder

    monkeypatch.setattr(loaded, "_residents", {})
    ENCODERS.names()
    for name, module, mpp in (
        ("toy-colour", Colour, 0.5),
        ("toy-coarse", Colour, 2.0),
        ("toy-overflow", Overflow, 0.5),
    ):
        monkeypatch.setitem(ENCODERS._loaded, name, build(module, mpp))
    return


def go(manifest: Manifest, store: FeatureStore, *names: str, tiles: dict | None = None) -> ExtractResult:
    first, *also = names
    spec = ExtractSpec.parse({"tiles": TILES if tiles is None else tiles, "encoder": {"name": first, "also": also}})
    return extract(manifest, spec, store, SerialExecutor(2))


def rows(store: FeatureStore, result: ExtractResult) -> dict[str, np.ndarray]:
    found = store.find_set(result.features)
    return {slide: store.read(record, "features") for slide, record in store.records(found).items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_two_encoders_of_one_grid_give_what_each_gives_alone_and_tiles_are_read_once(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune_pipeline.features import engine

    manifest, store = read_manifest(small_archive / "case-1"), FeatureStore(tmp_path / "s")
    read, plain = [], engine.read_tiles

    def counted(slide, grid, start, stop, out, **more):  # type: ignore[no-untyped-def]
        read.append(stop - start)
        return plain(slide, grid, start, stop, out, **more)

    monkeypatch.setattr(engine, "read_tiles", counted)
    both = go(manifest, store, "stain-texture", "toy-colour")
    (other,) = both.others
    assert both.features.startswith("stain-texture-")
    assert other.features.startswith("toy-colour-")
    assert both.counts()["committed"] == other.counts()["committed"] == 2
    assert sum(read) == both.counts()["tiles"] == other.counts()["tiles"]
    alone = FeatureStore(tmp_path / "alone")
    for result in both.each():
        single = go(manifest, alone, result.features.partition("-128px")[0])
        assert single.features == result.features, "a set is named and fingerprinted as if it were alone"
        assert same(rows(alone, single), rows(store, result))
    assert len(store.sets("tiles")) == len(store.sets("tissue")) == 1
    for record in store.records(store.find_set(other.features)).values():
        attrs = store.group(record).attrs
        assert attrs["settings"]["encoder"]["name"] == attrs["encoder"]["name"] == "toy-colour"
        assert attrs["settings"]["encoder"]["also"] == []


def test_only_what_is_missing_is_made_and_each_set_has_a_record_of_the_run(small_archive: Path, tmp_path: Path) -> None:
    manifest, store = read_manifest(small_archive / "case-1"), FeatureStore(tmp_path / "s")
    first = go(manifest, store, "toy-colour")
    both = go(manifest, store, "toy-colour", "stain-texture")
    assert [each.counts()["computed"] for each in both.each()] == [0, 2]
    assert go(manifest, store, "stain-texture", "toy-colour", "stain-texture").counts()["computed"] == 0
    records = {run.run_id: run.record for run in read_runs(store.runs)}
    assert sorted(record["planned"] for record in records.values()) == [0, 0, 0, 2, 2]
    for each in both.each():
        assert records[each.run_id]["features"] == f"features-{each.features}"
        assert records[each.run_id]["planned"] == each.counts()["computed"]
        assert records[each.run_id]["stream"].get("tiles", 0) == sum(o.tiles for o in each.outcomes if o.new)
    next((store.root / "commits" / f"features-{first.features}").glob("s2*")).unlink()
    again = go(manifest, store, "toy-colour", "stain-texture")
    assert [each.counts()["computed"] for each in again.each()] == [1, 0]


def test_encoders_of_other_geometry_get_grids_of_their_own_in_the_same_pass(
    small_archive: Path, tmp_path: Path
) -> None:
    manifest, store = read_manifest(small_archive / "case-1"), FeatureStore(tmp_path / "s")
    both = go(manifest, store, "toy-colour", "toy-coarse", tiles={})
    fine, coarse = (each.features for each in both.each())
    assert "128px-0.5mpp" in fine
    assert "128px-2mpp" in coarse
    assert [each.counts()["committed"] for each in both.each()] == [2, 2]
    assert len(store.sets("tiles")) == 2
    assert len(store.sets("tissue")) == 1
    alone = FeatureStore(tmp_path / "alone")
    assert same(rows(store, both.others[0]), rows(alone, go(manifest, alone, "toy-coarse", tiles={})))


def test_an_encoder_that_fails_fails_its_own_set(small_archive: Path, tmp_path: Path) -> None:
    shutil.copytree(small_archive / "case-0", tmp_path / "in")
    manifest, store = read_manifest(tmp_path / "in"), FeatureStore(tmp_path / "s")
    both = go(manifest, store, "toy-colour", "toy-overflow")
    good, bad = ({o.slide_id: o for o in each.outcomes} for each in both.each())
    assert [good[name].status for name in ("s0.tif", "s1.tif", "broken.svs")] == ["committed", "committed", "failed"]
    assert {outcome.status for outcome in bad.values()} == {"failed"}
    assert "not finite in fp16" in bad["s0.tif"].reason
    assert not list((store.root / "staging").rglob("zarr.json"))
    failures = {run.run_id: sorted(run.record["failures"]) for run in read_runs(store.runs)}
    assert failures == {both.run_id: ["broken.svs"], both.others[0].run_id: ["broken.svs", "s0.tif", "s1.tif"]}


def test_the_flag_is_given_more_than_once_and_each_set_is_told_of(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pathotune_pipeline.cli.main import main

    words = ["extract", "--slides", str(small_archive / "case-1"), "--store", str(tmp_path / "s"), "--tile-px", "128",
             "--executor", "serial"]  # fmt: skip
    assert main([*words, "--encoder", "stain-texture", "--encoder", "toy-colour"]) == 0
    out = capsys.readouterr().out
    assert out.count("slides    2: 2 committed") == 2
    assert out.count(" tiles/s, encoders busy ") == 2
    assert len(open_store(tmp_path / "s").sets("features")) == 2
    assert main([*words, "--encoder", "toy-colour", "--also-encoder", "stain-texture", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["counts"]["computed"] for each in (told, *told["others"])] == [0, 0]
    assert told["features"].startswith("toy-colour")


def test_what_the_stream_cost_is_told_for_each_slide_and_shown_in_the_report(
    small_archive: Path, tmp_path: Path
) -> None:
    from pathotune_pipeline.reports.history import run_row

    store = FeatureStore(tmp_path / "s")
    both = go(read_manifest(small_archive / "case-1"), store, "stain-texture", "toy-colour")
    for each in both.each():
        for outcome in each.outcomes:
            assert outcome.stages["encode_s"] > 0
            assert outcome.stages["stream_s"] > 0
            assert {"read_s", "read_wait_s", "encode_wait_s"} <= outcome.stages.keys()
        assert 0 < each.stream["device_busy"] <= 1
        assert each.stream["tiles_per_s"] > 0
    files = sum(path.stat().st_size for path in (small_archive / "case-1").iterdir())
    if Path("/proc/thread-self/io").exists():
        assert 0.3 * files < sum(each.stream["bytes_read"] for each in both.each()) < 3 * files
    row = run_row(read_runs(store.runs)[0])
    assert "tiles/s, encoders busy" in row.stream
