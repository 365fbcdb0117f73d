"""A run that is killed and begun again is the run that was not; several processes are one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.errors import CorruptDataError, OutputExistsError, PathotuneError, UsageError
from pathotune_pipeline.tuning.pretrain.objective import Objective
from pathotune_pipeline.tuning.pretrain.records import Table, load_state
from pathotune_pipeline.tuning.pretrain.run import pretrain
from pathotune_pipeline.tuning.pretrain.sources import Team
from pathotune_pipeline.tuning.pretrain.spec import MaeSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from tests.tuning.pretrain.toy import SETTINGS, source_of, spec_of, write_images

ROOT = Path(__file__).resolve().parents[3]
TIMINGS = {"images_per_s", "waited_share"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("pretrain-run") / "images")


@pytest.fixture(scope="module")
def config(images: Path) -> Path:
    path = images.parent / "run.yaml"
    path.write_text(json.dumps({"pretrain": {**SETTINGS, "data": {"images": [str(images)], "held_out": 0.2}}}))
    return path


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """The run that nothing disturbed."""
    out = config.parent / "whole"
    assert main(["pretrain", "mae", "--config", str(config), "--out", str(out)]) == 0
    return out


def command(config: Path, out: Path) -> list[str]:
    return ["-m", "pathotune_pipeline.cli", "pretrain", "mae", "--config", str(config), "--out", str(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    (found,) = out.glob("*-encoder/model.safetensors")
    return load_file(found)


def table(out: Path, name: str) -> list[dict[str, str]]:
    with (out / name).open() as file:
        return [{key: value for key, value in row.items() if key not in TIMINGS} for row in csv.DictReader(file)]


def same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("metrics.csv", "checks.csv"):
        assert table(one, name) == table(other, name)


def together(words: list[str]) -> None:
    """Run a command in two processes that train together."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launch, *words], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def alike(one: Path, other: Path) -> None:
    """Two runs came to the same weights but for rounding."""
    first, second = weights(one), weights(other)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-3)


def test_a_run_leaves_tables_and_an_encoder(whole):
    steps = [int(row["step"]) for row in table(whole, "metrics.csv")]
    assert steps == [2, 3, 4, 6, 8, 9]
    rows = table(whole, "checks.csv")
    assert [int(row["step"]) for row in rows] == [3, 6, 9]
    assert all(float(row["rankme"]) >= 1 for row in rows)
    assert len(list((whole / "checkpoints").glob("*.json"))) == 2
    record = json.loads(next(whole.glob("*-encoder/pretraining.json")).read_text())
    assert record["steps"] == 9
    assert record["images_seen"] == 72
    assert record["recipe"]["method"] == "mae"


@pytest.mark.parametrize("place", ["pretrain.step:5", "pretrain.checkpoint:2", "pretrain.checkpoint:3"])
def test_killed_and_begun_again_gives_the_same_bits(config, whole, tmp_path, place):
    environment = {**os.environ, "PATHOTUNE_FAILPOINT": place, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, *command(config, tmp_path / "whole")], env=environment, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert not list((tmp_path / "whole").glob("*-encoder"))
    assert main(command(config, tmp_path / "whole")[2:]) == 0
    same(whole, tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(config, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    assert main(command(config, whole)[2:]) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_two_processes_are_one(config, whole, tmp_path):
    out = tmp_path / "whole"
    together(command(config, out))
    alike(whole, out)
    rows = [(row["step"], float(row["restoration"])) for row in table(out, "metrics.csv")]
    assert rows == [
        (row["step"], pytest.approx(float(row["restoration"]), rel=1e-3)) for row in table(whole, "metrics.csv")
    ]


def test_other_settings_are_refused_before_anything_is_done(images, whole):
    spec = spec_of(images, base_lr=0.5)
    with pytest.raises(OutputExistsError, match="another base_lr"):
        pretrain(build_objective(spec, MaeSpec()), source_of(spec), spec, whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for path in (whole / "checkpoints").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    recipe = json.loads((folder / "step-00000009.json").read_text())["recipe"]
    (folder / "step-00000009.safetensors").write_bytes(b"cut short")
    found = load_state(folder, recipe)
    assert found is not None
    assert found[1] == 6
    (folder / "step-00000006.safetensors").unlink()
    with pytest.raises(CorruptDataError):
        load_state(folder, recipe)


def test_a_table_forgets_what_comes_again_and_a_line_cut_short(tmp_path):
    path = tmp_path / "t.csv"
    first = Table(path, upto=0)
    for step in (10, 20, 30):
        first.add({"step": step, "loss": step / 7})
    path.write_text(path.read_text() + "4")
    again = Table(path, upto=20)
    again.add({"step": 30, "loss": 0.5})
    assert path.read_text().splitlines() == ["step,loss", f"10,{10 / 7}", f"20,{20 / 7}", "30,0.5"]
    path.write_text("ste")
    Table(path, upto=20).add({"step": 1, "loss": 0.5})
    assert path.read_text().splitlines() == ["step,loss", "1,0.5"]


def test_accumulated_batches_are_one_step(images, tmp_path):
    results = []
    for name, batch, accumulate in (("one", 8, 1), ("two", 4, 2)):
        spec = spec_of(
            images,
            batch_size=batch,
            accumulate=accumulate,
            epochs=1,
            warmup_epochs=0,
            views={"crop_min": 1.0, "flips": False},
        )
        objective = build_objective(spec, MaeSpec())
        pretrain(objective, source_of(spec), spec, tmp_path / name)
        rows = table(tmp_path / name, "metrics.csv")
        results.append([(row["step"], row["images"], row["lr"]) for row in rows])
    assert results[0] == results[1]


class Poisoned:
    """An objective whose loss is not finite from its third batch on."""

    def __init__(self, inner: Objective) -> None:
        self.inner, self.batches = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, views, draws):
        self.batches += 1
        losses = self.inner(views, draws)
        return {name: value * (float("nan") if self.batches > 2 else 1.0) for name, value in losses.items()}


def test_a_loss_that_is_not_finite_stops_the_run_and_its_batch_is_kept(images, tmp_path):
    spec = spec_of(images, check_steps=100, log_steps=4)
    source = source_of(spec)
    poisoned = Poisoned(build_objective(spec, MaeSpec()))
    with pytest.raises(PathotuneError, match=r"batch 2 .*not finite"):
        pretrain(poisoned, source, spec, tmp_path)
    (kept,) = tmp_path.glob("broken-batch-2-*.npz")
    with source.batches(spec.batch_size, team=Team(), start=2) as batches:
        np.testing.assert_array_equal(np.load(kept)["pixels"], next(batches))
    assert not (tmp_path / "checkpoints").exists()


def test_a_stream_needs_a_length_of_its_epochs(small_archive, tmp_path):
    spec = spec_of(tmp_path, data={"images": [], "slides": str(small_archive)})
    with pytest.raises(UsageError, match="epoch_images"):
        pretrain(build_objective(spec, MaeSpec()), source_of(spec), spec, tmp_path)


def test_bf16_and_slides_together(small_archive, images, tmp_path):
    data = {"slides": str(small_archive), "mpps": [1.0], "images": [str(images)]}
    spec = spec_of(images, precision="bf16", epochs=1, warmup_epochs=0, data=data, views={"jitter": 0.1})
    result = pretrain(build_objective(spec, MaeSpec(contrast=0.1)), source_of(spec), spec, tmp_path)
    assert np.isfinite(result.checks["watched_loss"])
    assert all(float(row["contrast"]) > 0 for row in table(tmp_path, "metrics.csv"))


@pytest.mark.parametrize(
    "words",
    [
        ["mae", "--images", "nowhere", "--epochs", "5", "--warmup-epochs", "20"],
        ["mae", "--slides", "nowhere"],
        ["puzzle", "--epochs", "30"],
        ["distill", "--images", "nowhere", "--epochs", "30", "--teachers", "unni", "--class-weights", "1", "2"],
    ],
)
def test_wrong_settings_are_told_before_anything_is_loaded(tmp_path, words):
    asked = repr(["pretrain", *words, "--out", str(tmp_path / "out")])
    code = f"import sys; from pathotune_pipeline.cli import main; print(main({asked}), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert told.stdout.split() == ["2", "False"], told.stderr
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mae", "--out", "O"], "--images, --slides or --manifest"),
        (["mae", "--out", "FILE", "--images", "I"], "is a file"),
        (["mae", "--out", "O", "--images", "I", "--batch-size", "0"], "greater than or equal to 1"),
        (["mae", "--out", "O", "--images", "I", "--set", "mae.mask_shar=0.5"], "mask_share"),
        (["mae", "--out", "O", "--images", "I", "--patch-px", "9"], "does not divide"),
        (["mae", "--out", "O", "--slides", "I"], "epoch_images must be given"),
        (["distill", "--out", "O", "--images", "I", "--teachers", "local:/nowhere/at-all"], "at-all"),
        (["distill", "--out", "O", "--images", "I", "--teachers", "unni"], "unni"),
    ],
)
def test_wrong_calls_are_one_clear_line(images, tmp_path, capsys, words, says):
    (tmp_path / "file").write_text("")
    places = {"O": str(tmp_path / "out"), "I": str(images), "FILE": str(tmp_path / "file")}
    small = ["--input-px", "32", "--embed-dim", "32", "--heads", "2", "--depth", "1", "--epochs", "30"]
    assert main(["pretrain", *(places.get(word, word) for word in words), *small]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
