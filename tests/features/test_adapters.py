"""Adapters in extraction: several over one backbone in a pass, each a set of its own, and nothing done for a bad one."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.adapt import create
from pathotune_pipeline.archive.manifest import Manifest, read_manifest
from pathotune_pipeline.errors import CorruptDataError, PathotuneError, SpecError, UsageError
from pathotune_pipeline.execution import SerialExecutor
from pathotune_pipeline.features import loaded
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.plan import ExtractSpec
from pathotune_pipeline.features.planning import plan_extract
from pathotune_pipeline.store import FeatureStore
from pathotune_pipeline.store.runs import read_runs
from tests.adapt.files import write_adapter
from tests.encoders.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`toy`, an encoder's folder, with adapters beside it: one of prompts, one of LoRA, one of two tasks."""
    root = tmp_path_factory.mktemp("adapters")
    write_checkpoint(root / "toy")
    write_adapter(root / "prompts.safetensors", root / "toy")
    write_adapter(root / "lora.safetensors", root / "toy", "lora")
    write_adapter(root / "both.safetensors", root / "toy", "pathotune", tasks=2)
    return root


@pytest.fixture
def manifest(small_archive: Path) -> Manifest:
    return read_manifest(small_archive / "case-1")


def spec_of(folder: Path, *adapters: object, **encoder: object) -> ExtractSpec:
    given = [str(each) if each == "none" else str(folder / str(each)) for each in adapters]
    return ExtractSpec.parse(
        {"tiles": {"tile_px": 128}, "encoder": {"name": f"local:{folder / 'toy'}", "adapter": given, **encoder}}
    )


def go(manifest: Manifest, store: FeatureStore, folder: Path, *adapters: object) -> ExtractResult:
    return extract(manifest, spec_of(folder, *adapters), store, SerialExecutor(2))


def rows(store: FeatureStore, result: ExtractResult) -> np.ndarray:
    records = store.records(store.find_set(result.features))
    return np.concatenate([store.read(record, "features") for _, record in sorted(records.items())])


def test_frozen_and_adapted_in_one_pass_give_what_each_gives_alone(
    folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathotune_pipeline.features import engine

    read, plain = [], engine.read_tiles

    def counted(slide, grid, start, stop, out, **more):  # type: ignore[no-untyped-def]
        read.append(stop - start)
        return plain(slide, grid, start, stop, out, **more)

    monkeypatch.setattr(engine, "read_tiles", counted)
    asked = ("none", "prompts.safetensors", "lora.safetensors", "both.safetensors#1")
    store, alone = FeatureStore(tmp_path / "s"), FeatureStore(tmp_path / "alone")
    together = go(manifest, store, folder, *asked)
    assert sum(read) == together.counts()["tiles"]
    names = [each.features for each in together.each()]
    labels = ("toy", "toy+prompts", "toy+lora", "toy+both_1")
    assert [name.partition("-128px")[0] for name in names] == [f"local.{label}" for label in labels]
    for adapter, result in zip(asked, together.each(), strict=True):
        single = go(manifest, alone, folder, adapter)
        assert single.features == result.features
        assert np.array_equal(rows(alone, single), rows(store, result))
    frozen, *adapted = (rows(store, each).astype(np.float32) for each in together.each())
    assert all(np.abs(each - frozen).max() > 1e-2 for each in adapted)
    assert len(store.sets("tiles")) == 1
    assert go(manifest, store, folder, *asked[::-1]).counts()["computed"] == 0


def test_without_adapters_a_set_is_as_it_was(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    plain = go(manifest, FeatureStore(tmp_path / "a"), folder)
    assert go(manifest, FeatureStore(tmp_path / "b"), folder, "none").features == plain.features
    assert plan_extract(manifest, spec_of(folder, "none", "prompts.safetensors"), FeatureStore(tmp_path / "a")).done


def test_records_name_the_adapter_and_no_folder(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    result = go(manifest, store, folder, "both.safetensors#1")
    for record in store.records(store.find_set(result.features)).values():
        attrs = dict(store.group(record).attrs)
        facts = attrs["encoder"]["adapter"]
        assert (facts["name"], facts["method"], facts["text"]) == ("both", "pathotune", "image for typing")
        assert attrs["settings"]["encoder"]["adapter"] == ["both.safetensors#1"]
    written = [path.read_bytes() for path in store.root.rglob("*.json*")]
    assert not any(str(folder).encode() in data for data in written)


def test_the_backbone_is_read_once_to_plan_and_once_to_work(
    folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, plain = [], create.create_encoder
    monkeypatch.setattr(create, "create_encoder", lambda spec, **more: built.append(spec.name) or plain(spec, **more))
    monkeypatch.setattr(loaded, "_residents", {})
    monkeypatch.setattr(loaded, "_bases", {})
    go(manifest, FeatureStore(tmp_path / "s"), folder, "prompts.safetensors", "none", "lora.safetensors")
    assert len(built) == 2
    residents = [resident.encoder.module for resident in loaded._residents.values()]
    assert len(residents) == 3
    places = [{tensor.data_ptr() for tensor in module.parameters()} for module in residents]
    assert len(set.intersection(*places)) > 10


def test_a_path_from_here_holds_for_workers_elsewhere(
    folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    spec = ExtractSpec.parse({"encoder": {"name": f"local:{folder / 'toy'}", "adapter": ["both.safetensors#0"]}})
    plan = plan_extract(manifest, spec, FeatureStore(tmp_path / "s"))
    assert plan.recipe.spec.encoder.adapter == (str(folder / "both.safetensors#0"),)
    assert pickle.loads(pickle.dumps(plan.recipe)) == plan.recipe


def test_two_names_of_one_adapter_are_one_set(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    copied = shutil.copy(folder / "prompts.safetensors", tmp_path / "copied.safetensors")
    result = go(manifest, FeatureStore(tmp_path / "s"), folder, "prompts.safetensors", copied)
    assert not result.others


def test_a_bad_adapter_stops_all_before_work(
    folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "other", seed=1)
    (tmp_path / "cut.safetensors").write_bytes((folder / "lora.safetensors").read_bytes()[:-7])
    flipped = bytearray((folder / "lora.safetensors").read_bytes())
    flipped[-3] ^= 64
    (tmp_path / "flipped.safetensors").write_bytes(flipped)
    shutil.copy(write_other(tmp_path), tmp_path / "others.safetensors")
    refused: list[tuple[str, type[PathotuneError], str]] = [
        ("absent.safetensors", UsageError, "nothing lies there"),
        ("cut.safetensors", CorruptDataError, "cannot be read"),
        ("flipped.safetensors", CorruptDataError, "not those that its card tells of"),
        ("others.safetensors", UsageError, "trained on local:other"),
        (str(folder / "both.safetensors"), SpecError, "holds 2 texts"),
    ]
    for name, kind, said in refused:
        store = FeatureStore(tmp_path / "s")
        with pytest.raises(kind, match=said):
            extract(manifest, spec_of(folder, "none", tmp_path / name), store, SerialExecutor(2))
        assert not store.sets()
        assert not read_runs(store.runs)
    # What a look at the file shows is said before the backbone's weights are read.
    monkeypatch.setattr(create, "create_encoder", lambda *given, **more: pytest.fail("weights were read"))
    for name in ("absent.safetensors", "cut.safetensors"):
        with pytest.raises(PathotuneError):
            plan_extract(manifest, spec_of(folder, tmp_path / name), FeatureStore(tmp_path / "s"))


def write_other(root: Path) -> Path:
    write_adapter(root / "of_other.safetensors", root / "other")
    return root / "of_other.safetensors"


def test_an_adapter_that_is_trained_again_is_another(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    file, store = tmp_path / "mine.safetensors", FeatureStore(tmp_path / "s")
    write_adapter(file, folder / "toy")
    first = go(manifest, store, folder, file)
    write_adapter(file, folder / "toy", seed=2)
    second = go(manifest, store, folder, file)
    assert [each.counts()["computed"] for each in (first, second)] == [2, 2]
    assert np.abs(rows(store, first).astype(np.float32) - rows(store, second)).max() > 1e-3
    write_adapter(file, folder / "toy")
    assert go(manifest, store, folder, file).counts()["computed"] == 0


def test_a_worker_with_another_file_fails_the_slides(folder: Path, manifest: Manifest, tmp_path: Path) -> None:
    file, store = tmp_path / "mine.safetensors", FeatureStore(tmp_path / "s")
    write_adapter(file, folder / "toy", seed=3)
    result = extract(
        manifest, spec_of(folder, "none", file), store, SerialExecutor(2),
        on_plan=lambda plan: write_adapter(file, folder / "toy", seed=4),
    )  # fmt: skip
    frozen, adapted = result.each()
    assert frozen.counts()["committed"] == 2
    assert adapted.counts()["failed"] == 2
    assert "the weights or the adapter on this worker differ" in adapted.outcomes[0].reason
    write_adapter(file, folder / "toy", seed=3)
    assert go(manifest, store, folder, file).counts()["computed"] == 2, "the right file, put back, is read anew"


def test_a_worker_without_the_file_says_so_and_names_no_folder(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    file, store = tmp_path / "mine.safetensors", FeatureStore(tmp_path / "s")
    write_adapter(file, folder / "toy", seed=5)
    result = extract(manifest, spec_of(folder, file), store, SerialExecutor(2), on_plan=lambda plan: file.unlink())
    (reason,) = {outcome.reason for outcome in result.outcomes}
    assert "mine.safetensors: nothing lies there" in reason
    assert "same path on every machine" in reason
    assert str(tmp_path) not in reason
