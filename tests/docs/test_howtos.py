"""How-tos hold: Python that pages show works, reasons they quote are given, files they show can be read."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from pathotune_pipeline.encoders import create
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from tests.docs.pages import PAGES, ROOT, Block, blocks

HOWTO = ROOT / "docs" / "howto"


# architecture.md lists signatures with arrows, which are no Python.


def blocks_of(page: Path, language: str) -> list[Block]:
    return [block for block in blocks(page.read_text(encoding="utf-8")) if block.language == language]


def imports_of(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, None) for name in node.names)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "architecture.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_python_on_a_page_parses_and_imports_what_there_is(page) -> None:
    for block in blocks_of(page, "python"):
        for module, name in imports_of(ast.parse(block.text)):
            if module.startswith("pathotune_pipeline"):
                assert name is None or hasattr(import_module(module), name), f"line {block.line}: {module}.{name}"


def test_an_encoder_written_as_the_page_says_is_taken(tmp_path, monkeypatch) -> None:
    import timm

    monkeypatch.chdir(tmp_path)
    shown = blocks_of(HOWTO / "own_encoder.md", "python")[0].text
    smaller = shown.replace("vit_small_patch16_224", "vit_tiny_patch16_224").replace("224", "64").replace("_64", "_224")
    weights = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).state_dict()
    exec(compile(smaller, "own_encoder.md", "exec"), {"my_weights": weights})
    encoder = create_encoder(EncoderSpec(name="local:my-encoder", batch_size=2))
    assert (encoder.card.input_px, encoder.card.mean) == (64, (0.485, 0.456, 0.406))
    assert encoder.encode(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, encoder.card.dim)


def test_a_builder_written_as_the_page_says_is_an_encoder(monkeypatch) -> None:
    page = HOWTO / "own_encoder.md"
    space: dict[str, object] = {"__name__": "my_package.encoder"}
    exec(compile(blocks_of(page, "python")[1].text, "own_encoder.md", "exec"), space)
    assert inspect.isfunction(space["build"])
    assert f'entry-points."{create.ENCODERS.group}"' in blocks_of(page, "toml")[0].text
    monkeypatch.setitem(create.ENCODERS._loaded, "my-encoder", space["build"])
    encoder = create_encoder(EncoderSpec(name="my-encoder:large", batch_size=2))
    assert encoder.encode(np.zeros((2, 256, 256, 3), np.uint8)).shape == (2, 64)
    assert encoder.card.weights_sha256


def test_the_study_on_the_page_can_be_read(tmp_path) -> None:
    from pathotune_pipeline.tuning.studies.file import StudyFile

    file = tmp_path / "study.yaml"
    file.write_text(blocks_of(HOWTO / "200_labels.md", "yaml")[0].text)
    study = StudyFile.read(file)
    assert [method for _, method, _ in study.rows()] == ["linear", "vpt", "lora"]
    assert study.baseline == "uni2, linear"
    assert study.scaling_spec({"seeds": 3}).fractions == (0.25, 0.5, 1.0)
    assert list(study.encoder_specs()) == ["uni2"]


def test_reasons_that_a_page_quotes_are_given_somewhere() -> None:
    rows = re.findall(r"(?m)^\| `([^`]+)`", (HOWTO / "failed_slide.md").read_text(encoding="utf-8"))
    assert len(rows) > 8
    said = "\n".join(_strings(path) for path in (ROOT / "pathotune_pipeline").rglob("*.py"))
    assert not [reason for reason in rows if reason not in said]


def _strings(path: Path) -> str:
    """Every string constant of a module, those in f-strings too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_on_a_page_is_yaml(page) -> None:
    for block in blocks_of(page, "yaml"):
        assert isinstance(yaml.safe_load(block.text), dict), f"line {block.line}"
