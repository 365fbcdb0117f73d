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
from PIL import Image
from safetensors.torch import load_file

from pathotune_pipeline.adapt.file import load_adapter, read_adapter_card
from pathotune_pipeline.cli.main import main
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.tuning.patches.splits import LeakageWarning
from pathotune_pipeline.tuning.run.adapt import COURSE


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A CSV of 120 patches from 30 slides."""
    root, rng = tmp_path_factory.mktemp("patches"), np.random.default_rng(0)
    lines = ["path,label,slide"]
    for number in range(120):
        colour = (200, 120, 180) if number % 2 else (120, 90, 190)
        pixels = np.clip(np.array(colour) + rng.normal(0, 45, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        lines.append(f"{number}.png,{'pink' if number % 2 else 'blue'},slide-{number // 4}")
    (root / "patches.csv").write_text("\n".join(lines) + "\n")
    return root / "patches.csv"


def adapt(table: Path, small_backbone: Path, out: Path, method: str, *more: str) -> int:
    quick = ["--epochs", "4", "--warmup-epochs", "1", "--lr", "0.003", "--n-prompts", "4", "--cnn", "resnet10t"]
    return main(
        ["adapt", "--patches", str(table), "--encoder", f"local:{small_backbone}", "--device", "cpu", "--method", method, "--out",
         str(out), "--json", *quick, *more]
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def probabilities(features: torch.Tensor, head: dict[str, torch.Tensor]) -> np.ndarray:
    logits = features.double() @ head["weight"].double().T + head["bias"].double()
    return logits.softmax(1).numpy()


def pixels_of(table: Path, names: list[str]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(table.parent / name))) for name in names])


@pytest.mark.parametrize("method", ["linear", "knn", "vpt-deep", "pathotune", "lora", "partial", "full", "cnn"])
def test_a_folder_gives_the_probabilities_that_it_tells(table, small_backbone, tmp_path, method, capsys):
    out = tmp_path / "tuned"
    assert adapt(table, small_backbone, out, method) == 0
    card = json.loads((out / "adapted.json").read_text())
    assert card == json.loads(capsys.readouterr().out)
    assert not (out / COURSE).exists()
    scores = card["scores"]["test"]
    assert scores["unit"] == "group"
    assert scores["balanced_accuracy"]["value"] > 0.9
    assert card["method"] == method
    files = {path.name for path in out.iterdir()}
    always = {"adapted.json", "history.csv", "splits.csv", "predictions.csv"}
    own = {"knn": set(), "linear": {"head.safetensors"}}
    network = {"model.safetensors", "config.json", "head.safetensors"}
    adapter = {"adapter.safetensors", "head.safetensors"}
    own |= dict.fromkeys(("partial", "full", "cnn"), network) | dict.fromkeys(
        ("vpt-deep", "pathotune", "lora"), adapter
    )
    assert files == always | own[method]
    assert len(rows(out / "history.csv")) == card["epochs"]
    if method == "knn":
        return
    told = rows(out / "predictions.csv")
    source = f"local:{out}" if method in ("partial", "full", "cnn") else f"local:{small_backbone}"
    encoder = create_encoder(EncoderSpec(name=source, batch_size=256))
    if method in ("vpt-deep", "pathotune", "lora"):
        network = load_adapter(out / "adapter.safetensors", encoder.module, encoder.card)
        with torch.no_grad():
            features = network(encoder.prepare(pixels_of(table, [row["name"] for row in told])))
    else:
        features = encoder.encode(pixels_of(table, [row["name"] for row in told]))
    expected = np.array([[float(row["prob_blue"]), float(row["prob_pink"])] for row in told])
    assert np.abs(probabilities(features, load_file(out / "head.safetensors")) - expected).max() < 1e-5


def test_parts_keep_slides_together(table, small_backbone, tmp_path):
    adapt(table, small_backbone, tmp_path / "tuned", "linear", "--test-share", "0.3", "--val-share", "0.25")
    parts: dict[str, set[str]] = {}
    for row in rows(tmp_path / "tuned" / "splits.csv"):
        parts.setdefault(row["part"], set()).add(row["group"])
    assert {name: len(groups) for name, groups in parts.items()} == {"train": 16, "val": 5, "test": 9}
    assert not parts["train"] & parts["val"]
    assert not parts["test"] & (parts["train"] | parts["val"])


def test_a_papers_split_tears_slides_and_says_so(table, small_backbone, tmp_path):
    with pytest.warns(LeakageWarning, match="one by one"):
        assert adapt(table, small_backbone, tmp_path / "tuned", "linear", "--paper-split") == 0
    card = json.loads((tmp_path / "tuned" / "adapted.json").read_text())
    assert card["patches"]["parts"] == "drawn patch by patch"
    assert any("scores are too good" in note for note in card["notes"])
    parts: dict[str, set[str]] = {}
    for row in rows(tmp_path / "tuned" / "splits.csv"):
        parts.setdefault(row["group"], set()).add(row["part"])
    assert max(len(each) for each in parts.values()) > 1


def test_what_could_not_be_written_is_said_before_patches_are_read(small_backbone, tmp_path, capsys):
    nothing = tmp_path / "nothing.csv"  # it would be missed next
    for words, said in (
        (["--encoder", "stain-texture", "--method", "full"], "no weights that could be adapted"),
        (["--encoder", f"local:{small_backbone}", "--method", "partial", "--partial-blocks", "3"], "has 2 blocks"),
    ):
        assert (
            main(["adapt", "--patches", str(nothing), "--out", str(tmp_path / "out"), "--device", "cpu", *words]) == 2
        )
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_file_tells_where_it_comes_from(table, small_backbone, tmp_path):
    out = tmp_path / "tuned"
    adapt(table, small_backbone, out, "pathotune", "--organ", "breast", "--task", "colours")
    card = read_adapter_card(out / "adapter.safetensors")
    assert card.name == "tuned"
    assert card.text is not None
    assert card.text.texts == ("H&E-stained breast histopathology image for colours; classes: blue, pink",)
    assert card.text.encoder == "hash-ngram"
    assert "nothing of their meaning" in card.text.note
    assert "reconstruction" in card.note
    assert card.training["scores"]["test"]["balanced_accuracy"]["value"] > 0.9
    weights = (small_backbone / "model.safetensors").stat().st_size
    assert (out / "adapter.safetensors").stat().st_size < 4 * 800_000 + weights


def test_merged_lora_is_an_encoder_with_the_same_features(table, small_backbone, tmp_path, capsys):
    out, merged = tmp_path / "tuned", tmp_path / "merged"
    adapt(table, small_backbone, out, "lora")
    arguments = ["--encoder", f"local:{small_backbone}", "--lora", str(out / "adapter.safetensors")]
    assert main(["merge-lora", *arguments, "--out", str(merged)]) == 0
    tiles = pixels_of(table, ["0.png", "1.png", "2.png"])
    base, other = (create_encoder(EncoderSpec(name=f"local:{each}")) for each in (small_backbone, merged))
    adapted = load_adapter(out / "adapter.safetensors", base.module, base.card)
    with torch.no_grad():
        expected = adapted(base.prepare(tiles))
    assert torch.allclose(other.encode(tiles), expected, atol=1e-5)
    assert not torch.allclose(other.encode(tiles), base.encode(tiles), atol=1e-3)
    assert set(other.module.state_dict()) == set(base.module.state_dict())
    assert main(["merge-lora", *arguments, "--out", str(merged)]) == 2
    assert "is there already" in capsys.readouterr().err
    adapt(table, small_backbone, tmp_path / "prompts", "vpt-deep")
    arguments[3] = str(tmp_path / "prompts" / "adapter.safetensors")
    assert main(["merge-lora", *arguments, "--out", str(tmp_path / "no")]) == 2
    assert "no weights to be merged" in capsys.readouterr().err


def test_a_killed_command_goes_on(table, small_backbone, tmp_path, capsys):
    out, whole = tmp_path / "tuned", tmp_path / "whole"
    paths = ", ".join(f"t.Path({str(each)!r})" for each in (table, small_backbone, out))
    code = f"import tests.tuning.run.test_folder as t; t.adapt({paths}, 'vpt-deep')"
    environment = {
        **os.environ,
        "PATHOTUNE_FAILPOINT": "course.saved:2",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    died = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert [path.name for path in out.iterdir()] == [COURSE]
    assert (
        adapt(table, small_backbone, out, "vpt-deep", "--epochs", "5") == 2
    )  # another training: refused, nothing lost
    assert "other data or settings" in capsys.readouterr().err
    assert adapt(table, small_backbone, out, "vpt-deep") == 0
    assert adapt(table, small_backbone, whole, "vpt-deep") == 0
    for name in ("adapter.safetensors", "head.safetensors"):
        one, other = load_file(out / name), load_file(whole / name)
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_a_finished_folder_is_not_written_over(table, small_backbone, tmp_path, capsys):
    out = tmp_path / "tuned"
    assert adapt(table, small_backbone, out, "linear") == 0
    assert adapt(table, small_backbone, out, "linear") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "head.safetensors").exists()
    assert adapt(table, small_backbone, out, "knn", "--overwrite") == 0
    assert not (out / "head.safetensors").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.docx").write_text("years of work")
    assert adapt(table, small_backbone, other, "linear") == 2
    assert "thesis.docx" in capsys.readouterr().err


def test_the_screen_says_what_was_learnt(table, small_backbone, tmp_path, capsys):
    arguments = ["--patches", str(table), "--encoder", f"local:{small_backbone}", "--method", "linear"]
    assert main(["adapt", *arguments, "--out", str(tmp_path / "tuned")]) == 0
    said = capsys.readouterr().out
    assert "linear on local:small: 98 trained" in said
    assert "balanced_accuracy" in said
    assert "groups" in said
