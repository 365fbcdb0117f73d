"""Distillation: teachers stay as they are, what has no weight is not computed, and the student learns what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pathotune_pipeline.cli.main import main
from pathotune_pipeline.config import load
from pathotune_pipeline.encoders import catalogue
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.errors import OutputExistsError, SpecError, UsageError, WeightsError
from pathotune_pipeline.tuning.pretrain.distill import Crops, Distillation
from pathotune_pipeline.tuning.pretrain.distill_heads import TeacherHead, WeightNormed
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import build_trunk, write_encoder
from pathotune_pipeline.tuning.pretrain.run import pretrain
from pathotune_pipeline.tuning.pretrain.self_distill import let_sizes_vary
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec, NetworkSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective
from pathotune_pipeline.tuning.pretrain.teachers import Teacher
from tests.tuning.pretrain.students import ALONE, SMALL, distillation, gradients, step, views
from tests.tuning.pretrain.test_run import ROOT, alike, same, table, together, weights
from tests.tuning.pretrain.toy import SETTINGS, source_of, spec_of, textures, write_images


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two encoders with random weights, of other widths and grids than the student's 32 and 4 x 4."""
    folder = tmp_path_factory.mktemp("teachers")
    shapes = {"coarse": (48, 32, 16, "cls"), "fine": (24, 40, 8, "mean")}
    for seed, (name, (dim, side, patch, pooling)) in enumerate(shapes.items()):
        spec = NetworkSpec(input_px=side, patch_px=patch, embed_dim=dim, depth=2, heads=2, pooling=pooling)
        write_encoder(build_trunk(spec, 10 + seed), folder / name, {})
    return tuple(f"local:{folder / name}" for name in shapes)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("distill") / "images", 40)


def parts_of(teacher: Teacher) -> dict[str, torch.Tensor]:
    return teacher._encoder.module.state_dict()


def test_heads_have_the_published_numbers_of_weights():
    counts = [sum(p.numel() for p in TeacherHead(1024, width, 256).parameters()) for width in (1024, 768, 512)]
    assert counts == [525_568, 459_776, 393_984]
    layer = WeightNormed(5, 3, gain=True)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[3.0], [0.2], [1.0]]))
        layer.gain.copy_(torch.tensor([1.0, 2.0, 0.5]))
    inputs = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    unit = layer.weight / layer.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(layer(inputs), inputs @ unit.T * layer.gain)


def test_a_teacher_says_what_an_extraction_says_and_its_tokens_in_one_pass(teachers):
    for name, width, count in zip(teachers, (48, 24), (4, 25), strict=True):
        encoder = create_encoder(EncoderSpec(name=name, batch_size=4))
        teacher = Teacher(encoder, class_weight=1, patch_weight=1)
        told = teacher.look(views())
        torch.testing.assert_close(told.feature, encoder.encode(textures(4)), atol=1e-5, rtol=1e-4)
        assert told.patches.shape == (4, count, width)
        assert (teacher.token_dim, teacher.grid[0] * teacher.grid[1]) == (width, count)
        whole = encoder.module.forward_features(encoder.prepare(views().permute(0, 2, 3, 1) * 255))
        torch.testing.assert_close(told.patches, whole[:, 1:])
        assert not told.feature.requires_grad
        assert not told.patches.requires_grad
        assert Teacher(encoder, class_weight=1, patch_weight=0).look(views()).patches is None


def test_every_loss_is_told_and_every_trained_weight_gets_a_gradient(tmp_path, teachers):
    method = distillation(tmp_path, *teachers)
    before = [{name: p.clone() for name, p in parts_of(each).items()} for each in method.teachers]
    method.begin_step(0, 10)
    losses = step(method)
    assert set(losses) == {f"local:{n}.{part}" for n in ("coarse", "fine") for part in ("class", "patch")} | {
        "dino",
        "ibot",
        "koleo",
    }
    assert all(value.isfinite() for value in losses.values())
    found = gradients(method)
    still = [n for n, p in method.named_parameters() if p.requires_grad and (n not in found or not found[n].any())]
    assert not still
    method.end_step()
    for teacher, was in zip(method.teachers, before, strict=True):
        assert all(torch.equal(was[name], tensor) for name, tensor in parts_of(teacher).items())
        assert not any(p.requires_grad or p.grad is not None for p in teacher._encoder.module.parameters())
    assert not [name for name in method.state_dict() if "teacher" in name]


def test_a_teacher_without_weight_is_never_loaded_and_changes_nothing(tmp_path, teachers):
    alone = distillation(tmp_path, teachers[0], **ALONE)
    settings = {"class_weights": [1, 0], "patch_weights": [0.25, 0]}
    beside = distillation(tmp_path, teachers[0], "local:/nowhere/at-all", **settings, **ALONE)
    assert len(beside.teachers) == 1
    step(alone), step(beside)
    first, second = gradients(alone), gradients(beside)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tokens_are_not_asked_for_without_a_weight_and_self_distillation_is_not_built(tmp_path, teachers):
    method = distillation(tmp_path, teachers[0], patch_weights=[0], **ALONE)
    assert set(step(method)) == {"local:coarse.class"}
    assert method.own is None
    assert method.mask_token is None
    assert method.trunk is method.student
    patches = distillation(tmp_path, teachers[1], class_weights=[0], **ALONE)
    assert set(step(patches)) == {"local:fine.patch"}
    assert patches.judge().losses() == (None, None)


def test_the_encoder_that_is_written_gives_the_same_features(tmp_path, images, teachers):
    for pooling, result in (("cls", "student"), ("mean", "average")):
        method = distillation(images, teachers[0], network={"pooling": pooling}, result=result)
        folder = method.write(tmp_path / pooling, {"steps": 0})
        encoder = create_encoder(EncoderSpec(name=f"local:{folder}", batch_size=4))
        torch.testing.assert_close(encoder.encode(textures(4)), method.eval().embed(views()), atol=1e-5, rtol=1e-4)
        said = json.loads((folder / "pretraining.json").read_text())
        assert [each["name"] for each in said["teachers"]] == ["local:coarse"]
        assert str(Path(teachers[0].removeprefix("local:")).parent) not in (folder / "pretraining.json").read_text()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"teachers": ["local:/nowhere"]}, (UsageError, WeightsError), "nowhere"),
        ({"teachers": ["unni"]}, UsageError, "unni"),
        ({"teachers": ["stain-texture"]}, SpecError, "no patch tokens"),
        ({"teachers": ["T", "T"]}, SpecError, "is there twice"),
        ({"teachers": ["T"], "class_weights": [1, 2]}, SpecError, "class_weights: 2 for 1"),
        ({"teachers": ["T"], "class_weights": [-1]}, SpecError, "below 0"),
        ({"dino_weight": 0, "ibot_weight": 0}, SpecError, "neither a teacher"),
        ({"local_min": 0.5}, SpecError, "local_min 0.5 is above"),
    ],
)
def test_what_cannot_be_is_one_error_before_the_first_step(tmp_path, teachers, settings, error, says):
    names = [teachers[0] if name == "T" else name for name in settings.pop("teachers", [])]
    with pytest.raises(error, match=says):
        distillation(tmp_path, *names, **settings)


def test_in_bf16_losses_are_near_those_in_fp32(tmp_path, teachers):
    exact = step(distillation(tmp_path, *teachers))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = step(distillation(tmp_path, *teachers))
    for name, value in exact.items():
        assert float(short[name].detach()) == pytest.approx(float(value.detach()), rel=0.05, abs=0.01)


def test_a_teacher_of_any_size_gives_the_grid_of_its_card(teachers):
    encoder = create_encoder(EncoderSpec(name=teachers[0]))
    encoder.card = encoder.card.with_values(input_px=64)
    let_sizes_vary(encoder.module)
    teacher = Teacher(encoder, class_weight=0, patch_weight=1)
    assert teacher.grid == (4, 4)
    assert teacher.look(views()).patches.shape == (4, 16, 48)


def test_hand_made_features_may_teach_too(tmp_path):
    method = distillation(tmp_path, "stain-texture", patch_weights=[0], **ALONE)
    assert float(step(method)["stain-texture.class"].detach()) > 0


def test_spreading_one_image_apart_is_refused(tmp_path):
    method = distillation(tmp_path)
    with pytest.raises(SpecError, match="koleo_weight"):
        method(Crops(torch.cat([views(1)] * 2), None), Draws(0, 0, rows=1))


@pytest.fixture(scope="module")
def config(images: Path, teachers: tuple[str, str]) -> Path:
    path = images.parent / "run.yaml"
    data = {"images": [str(images)], "held_out": 0.2}
    settings = {**SETTINGS, "data": data, "weight_decay": 0.04, "weight_decay_end": 0.4}
    path.write_text(json.dumps({"pretrain": settings, "distill": {**SMALL, "teachers": list(teachers)}}))
    return path


def test_killed_and_begun_again_gives_the_same_bits(config, tmp_path):
    words = ["pretrain", "distill", "--config", str(config), "--out"]
    whole, out = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert main([*words, str(whole)]) == 0
    environment = {**os.environ, "PATHOTUNE_FAILPOINT": "pretrain.step:5", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pathotune_pipeline.cli", *words, str(out)]
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    assert main([*words, str(out)]) == 0
    same(whole, out)
    rows = table(whole, "metrics.csv")
    assert {"dino", "ibot", "koleo", "local:coarse.class", "local:fine.patch"} <= rows[0].keys()
    assert float(rows[-1]["momentum"]) == 1
    checks = table(whole, "checks.csv")
    assert all(0 < float(row["constant_loss"]) < 1 and float(row["rankme"]) >= 1 for row in checks)
    assert not any(name.startswith("teachers") for name in weights(whole))


@pytest.mark.slow
def test_two_processes_are_one(config, tmp_path):
    one, two = tmp_path / "a" / "run", tmp_path / "b" / "run"
    words = ["pretrain", "distill", "--config", str(config), "--koleo-weight", "0", "--base-lr", "0.005", "--out"]
    assert main([*words, str(one)]) == 0
    together(["-m", "pathotune_pipeline.cli", *words, str(two)])
    alike(one, two)
    for first, second in zip(table(one, "metrics.csv"), table(two, "metrics.csv"), strict=True):
        assert [float(second[name]) for name in first] == pytest.approx(
            [float(each) for each in first.values()], rel=2e-3
        )


def test_the_published_recipe_is_one_that_a_run_takes():
    path = ROOT / "configs" / "recipes" / "distill-gpfm.yaml"
    run, method = load(("pretrain", "distill"), path, (), {}).values()
    run.check(), method.check()
    with torch.device("meta"):
        trunk = build_trunk(run.network, 0)
    assert (trunk.dim, trunk.grid, len(trunk.module.blocks)) == (1024, (16, 16), 24)
    assert [method.weights_of(place) for place in range(3)] == [(1, 0.25), (0.5, 0.125), (1, 0)]
    assert run.base_lr * run.batch_size / 256 == pytest.approx(4e-4 * (run.batch_size / 1024) ** 0.5, rel=1e-3)
    assert set(method.teachers) <= set(catalogue.names())


def test_a_run_goes_on_from_teachers_that_were_moved_and_not_from_others(config, teachers, images, tmp_path):
    spec = spec_of(images, epochs=2)
    moved = tmp_path / "elsewhere" / "coarse"
    shutil.copytree(teachers[0].removeprefix("local:"), moved)
    for name in (teachers[0], f"local:{moved}"):
        method = build_objective(spec, DistillSpec.parse({**SMALL, "teachers": [name]}))
        pretrain(method, source_of(spec), spec, tmp_path / "run")
    other = build_objective(spec, DistillSpec.parse({**SMALL, "teachers": [teachers[1]]}))
    with pytest.raises(OutputExistsError, match="another teachers"):
        pretrain(other, source_of(spec), spec, tmp_path / "run")


def explained(said: torch.Tensor, told: torch.Tensor) -> tuple[float, float]:
    """Mean cosine of directions freed of the teacher's mean, and the most that any constant answer comes to there."""
    unit = F.normalize(told, dim=1)
    centre = unit.mean(0)
    left = F.normalize(unit - centre, dim=1)
    cosine = F.cosine_similarity(F.normalize(said, dim=1) - centre, left, dim=1).mean()
    return float(cosine), float(left.mean(0).norm())


def probed(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Held-out accuracy of a ridge regression of signs [N, L] on features [N, D]: the second half, from the first."""
    half = len(features) // 2
    inputs = features.double() - features[:half].double().mean(0)
    inputs = torch.cat([inputs / inputs[:half].std(0).clamp(min=1e-9), torch.ones(len(inputs), 1)], 1)
    learnt = inputs[:half]
    weight = torch.linalg.solve(
        learnt.T @ learnt + torch.eye(inputs.shape[1]).double(), learnt.T @ labels[:half].double()
    )
    return float(((inputs[half:] @ weight).sign() == labels[half:]).double().mean())


def test_the_student_beats_the_best_constant_and_its_own_beginning_on_images_it_never_saw(tmp_path, teachers):
    folder = write_images(tmp_path / "images", 96)
    spec = spec_of(
        folder, epochs=60, batch_size=16, warmup_epochs=2, base_lr=0.03, views={"crop_min": 0.9}, check_steps=1000
    )
    method = build_objective(spec, DistillSpec.parse({**SMALL, "head_bottleneck": 24, "teachers": teachers, **ALONE}))
    assert isinstance(method, Distillation)
    unseen = torch.from_numpy(textures(300, seed=9)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        told = F.normalize(method.teachers[0].look(unseen).feature, dim=1)
        labels = torch.linalg.svd(told - told.mean(0), full_matrices=False).U[:, 2:6].sign()
        before = probed(method.eval().embed(unseen), labels)
        with torch.enable_grad():
            result = pretrain(method, source_of(spec), spec, tmp_path / "run")
        assert result.steps >= 240
        assert result.checks["watched_loss"] < result.checks["constant_loss"]
        for _, said, target in method.eval().said(unseen):
            found, constant = explained(said, target)
            assert found > 0.1 + constant
        assert probed(method.embed(unseen), labels) > before + 0.04
