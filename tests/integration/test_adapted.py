"""From patches to an adapter, features, a model and its report, by commands: other features, another fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathotune_pipeline.cli import main
from pathotune_pipeline.store import open_store
from tests.adapt.files import write_adapter
from tests.encoders.checkpoints import write_checkpoint

FAST = ("--set", "crossval.train={epochs: 2, min_epochs: 0}", "--folds", "2", "--seeds", "1", "--head", "mean")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_archive: Path) -> Path:
    """An encoder's folder, and `breast/`, what it learnt of patches of the slides."""
    root = tmp_path_factory.mktemp("adapted")
    write_checkpoint(root / "toy")
    lines = ["path,label,slide"]
    for number in range(6):
        pixels = tifffile.imread(small_archive / f"case-{number // 2}" / f"s{number}.tif")
        for patch in range(8):
            x, y = 400 + 80 * patch, 500 + 60 * patch
            Image.fromarray(pixels[y : y + 64, x : x + 64]).save(root / f"{number}-{patch}.png")
            lines.append(f"{number}-{patch}.png,{('decoy', 'planted')[number % 2]},s{number}")
    (root / "patches.csv").write_text("\n".join(lines) + "\n")
    words = [
        "--method", "pathotune", "--organ", "breast", "--task", "grading", "--epochs", "3", "--warmup-epochs", "1",
        "--n-prompts", "4", "--device", "cpu", "--test-share", "0", "--val-share", "0.34",
    ]  # fmt: skip
    given = ("--patches", root / "patches.csv", "--encoder", f"local:{root / 'toy'}", "--out", root / "breast")
    assert main(["adapt", *map(str, given), *words, "--json"]) == 0
    return root


def told(capsys: Captured, *words: object, code: int = 0) -> str:
    """Standard output, or where the command was refused what it says of it."""
    assert main([str(word) for word in words]) == code
    output = capsys.readouterr()
    return output.out if code == 0 else output.err


def test_patches_to_adapter_to_features_to_model_to_report(
    place: Path, small_archive: Path, tmp_path: Path, capsys: Captured
) -> None:
    store, file, encoder = (
        tmp_path / "s",
        place / "breast" / "adapter.safetensors",
        ("--encoder", f"local:{place / 'toy'}"),
    )
    slides = [tmp_path / "in" / f"s{number}.tif" for number in range(6)]
    slides[0].parent.mkdir()
    for number, slide in enumerate(slides):
        slide.symlink_to(small_archive / f"case-{number // 2}" / slide.name)
    words = ("--slides", slides[0].parent, "--store", store, "--tile-px", 128, "--executor", "serial")
    both = json.loads(told(capsys, "extract", *words, *encoder, "--adapter", "none", "--adapter", file, "--json"))
    names = [each["features"] for each in (both, *both["others"])]
    assert [name.partition("-128px")[0] for name in names] == ["local.toy", "local.toy+breast"]
    opened = open_store(store)
    frozen, adapted = (opened.records(opened.find_set(name)) for name in names)
    for slide in frozen:
        before, after = (opened.read(records[slide], "features").astype(np.float32) for records in (frozen, adapted))
        assert np.abs(before - after).max() > 1e-2
        assert frozen[slide].fingerprint != adapted[slide].fingerprint

    assert "breast: pathotune" in told(capsys, "info", file)
    status = told(capsys, "status", "--store", store)
    assert status.count("adapter breast: pathotune") == 1
    text = "H&E-stained breast histopathology image for grading; classes: decoy, planted"
    assert f"text {text!r} read by hash-ngram" in status
    told(capsys, "verify", "--store", store)

    labels = tmp_path / "labels.csv"
    labels.write_text("slide,case,y\n" + "".join(f"s{n},P{n},{n % 2}\n" for n in range(6)))
    asked = ("--store", store, "--features", names[1], "--labels", labels, "--target", "y")
    told(capsys, "crossval", *asked, "--out", tmp_path / "model", *FAST)
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["features"]["encoder"]["adapter"]["name"] == "breast"
    readme = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "the adapter `breast` (pathotune" in readme
    assert f'with the text "{text}" read by `hash-ngram`' in readme
    assert "a reconstruction of PathoTune" in readme
    assert "nothing of their meaning" in readme
    told(
        capsys,
        "report",
        "--store",
        store,
        "--features",
        names[1],
        "--model",
        tmp_path / "model",
        "--out",
        tmp_path / "r",
    )
    page = (tmp_path / "r" / "report.html").read_text()
    assert "local:toy+breast" in page
    assert "a reconstruction of PathoTune" in page

    predict = ("predict", "--model", tmp_path / "model", "--slides", slides[0].parent, "--executor", "serial")
    out = ("--out", tmp_path / "p.csv")
    assert "Say where its file lies: --adapter PATH" in told(capsys, *predict, *encoder, *out, code=2)
    told(capsys, *predict, *encoder, "--adapter", file, *out)
    assert (tmp_path / "p.csv").read_text().count(",,predicted,") == 6
    write_adapter(tmp_path / "other.safetensors", place / "toy", "pathotune", seed=7)
    words = ("crossval", *asked, *FAST, "--adapter")
    told(capsys, *words, file, "--out", tmp_path / "whole")
    told(capsys, "predict", "--model", tmp_path / "whole", *predict[3:], *encoder, "--out", tmp_path / "w.csv")
    assert (tmp_path / "w.csv").read_text().count(",,predicted,") == 6
    refused = told(
        capsys, *predict, *encoder, "--adapter", tmp_path / "other.safetensors", "--out", tmp_path / "q.csv", code=2
    )
    assert "adapter.sha256" in refused
    other = tmp_path / "other.safetensors"
    assert "was made with adapter breast" in told(capsys, *words, other, "--out", tmp_path / "no", code=2)
    assert not (tmp_path / "no").exists()
    (tmp_path / "whole" / "adapter.safetensors").write_bytes(other.read_bytes())
    mixed = ("predict", "--model", tmp_path / "whole", *predict[3:], *encoder, "--out", tmp_path / "x.csv")
    assert "is not its own" in told(capsys, *mixed, code=1)


def test_a_bad_call_is_one_clear_line(place: Path, small_archive: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ("extract", "--slides", small_archive, "--store", tmp_path / "s", "--executor", "serial")
    file = place / "breast" / "adapter.safetensors"
    for given, said in (
        (("--adapter", file), "trained on local:toy"),
        (
            ("--encoder", "stain-texture", "--encoder", f"local:{place / 'toy'}", "--adapter", file),
            "goes with one encoder",
        ),
        (
            ("--encoder", f"local:{place / 'toy'}", "--adapter", place / "toy" / "model.safetensors"),
            "no adapter of this package",
        ),
    ):
        assert said in told(capsys, *words, *given, code=2)
    assert not open_store(tmp_path / "s").sets()


def test_a_real_slide(shared: Path, place: Path, tmp_path: Path, capsys: Captured) -> None:
    slide = tmp_path / "in" / "cmu.svs"
    slide.parent.mkdir()
    slide.symlink_to(shared / "data" / "slides" / "cmu-1-small-region.svs")
    words = ("extract", "--slides", slide.parent, "--store", tmp_path / "s", "--executor", "serial", "--max-tiles", 40)
    asked = (
        "--encoder",
        f"local:{place / 'toy'}",
        "--tile-px",
        128,
        "--adapter",
        place / "breast" / "adapter.safetensors",
        "none",
    )
    made = json.loads(told(capsys, *words, *asked, "--json"))
    assert [each["counts"]["tiles"] for each in (made, *made["others"])] == [40, 40]
    store = open_store(tmp_path / "s")
    adapted, frozen = (
        store.read(next(iter(store.records(store.find_set(each["features"])).values())), "features").astype(np.float32)
        for each in (made, *made["others"])
    )
    assert np.abs(adapted - frozen).max() > 1e-2
    assert adapted.std(0).min() > 0
