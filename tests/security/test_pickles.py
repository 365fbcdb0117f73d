"""Nothing unpickles what others may have made: the sources say so, and files with a payload are refused by each verb.

Verbs that take a model's folder: tests/models/test_untrusted.py.
"""

from __future__ import annotations

import ast
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.testing.slides import write_slide
from tests.encoders.checkpoints import write_checkpoint
from tests.security.payloads import object_array, object_arrays, pickled, torch_file

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for package in ("pathotune_pipeline", "flows") for path in (ROOT / package).rglob("*.py"))
UNPICKLING = {"load", "loads", "Unpickler"}


def unsafe_calls(text: str) -> list[str]:
    """Calls that would run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called, settings = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        room, _, name = called.rpartition(".")
        if (
            (called == "torch.load" and settings.get("weights_only") != "True")
            or (called in ("np.load", "numpy.load") and settings.get("allow_pickle") != "False")
            or (settings.get("allow_pickle") == "True")
            or (
                room in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
                and name in {*UNPICKLING, "open"}
            )
            or (room == "yaml" and name in ("unsafe_load", "full_load", "unsafe_load_all"))
            or (called == "yaml.load" and "Safe" not in settings.get("Loader", ""))
            or called in ("eval", "exec", "pd.read_pickle", "pandas.read_pickle")
        ):
            found.append(f"line {node.lineno}: {called}")
    return found


def test_no_source_unpickles() -> None:
    found = {str(path.relative_to(ROOT)): calls for path in SOURCES if (calls := unsafe_calls(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, mmap_mode='r', allow_pickle=True)",
        "pickle.loads(data)",
        "joblib.load(path)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert unsafe_calls(text)


def test_payloads_run_where_they_are_unpickled(tmp_path: Path) -> None:
    """What the tests below rely on."""
    import io

    import torch

    openers: dict[str, Callable[[Path], object]] = {
        "a": lambda mark: pickle.loads(pickled(mark)),
        "b": lambda mark: torch.load(io.BytesIO(torch_file(mark)), weights_only=False),
        "c": lambda mark: np.load(io.BytesIO(object_array(mark)), allow_pickle=True),
        "d": lambda mark: np.load(io.BytesIO(object_arrays(mark, "x")), allow_pickle=True)["x"],
    }
    for name, opened in openers.items():
        opened(tmp_path / name)
        assert (tmp_path / name).exists()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("archive")
    write_slide(place / "a.tif", size_px=(512, 512), seed=1)
    return place


def refused(words: list[object], mark: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a verb says that must refuse, in one line, and not run what it was given."""
    code = main([str(word) for word in words])
    said = capsys.readouterr().err
    assert not mark.exists(), "the payload was run"
    assert code in (1, 2), said
    (line,) = [line for line in said.splitlines() if line.startswith("pathotune: ")]
    assert "Traceback" not in said
    return line


@pytest.mark.parametrize("make", [pickled, torch_file, object_array])
def test_an_encoders_folder(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], bytes]
) -> None:
    mark, toy = tmp_path / "ran", tmp_path / "toy"
    write_checkpoint(toy, pickled=True)
    (toy / "pytorch_model.bin").write_bytes(make(mark))
    words = [
        "extract",
        "--slides",
        archive,
        "--store",
        tmp_path / "s",
        "--executor",
        "serial",
        "--encoder",
        f"local:{toy}",
    ]
    assert f"local:{toy}" in refused(words, mark, capsys)
    assert not list((tmp_path / "s").rglob("features"))


@pytest.mark.parametrize("make", [pickled, torch_file])
@pytest.mark.parametrize("flag", ["--weights", "--adapter"])
def test_weights_and_adapters(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], bytes], flag: str
) -> None:
    mark = tmp_path / "ran"
    for name in ("evil.pth", "evil.safetensors"):
        (tmp_path / name).write_bytes(make(mark))
        encoder = "uni2-h" if flag == "--weights" else "stain-texture"
        words = ["extract", "--slides", archive, "--store", tmp_path / "s", "--encoder", encoder, flag, tmp_path / name]
        assert name in refused([*words, "--executor", "serial"], mark, capsys)


@pytest.mark.parametrize("make", [pickled, torch_file, object_array])
@pytest.mark.parametrize("tool", ["trident", "clam", "stamp"])
def test_features_of_other_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], bytes], tool: str
) -> None:
    mark, source = tmp_path / "ran", tmp_path / "job"
    folder = {
        "trident": source / "20x_256px_0px_overlap" / "features_uni_v1",
        "clam": source / "h5_files",
        "stamp": source,
    }[tool]
    folder.mkdir(parents=True)
    (folder / "evil.h5").write_bytes(make(mark))
    (source / "pt_files").mkdir()
    (source / "pt_files" / "evil.pt").write_bytes(make(mark))
    words = ["import", "--from", tool, "--source", source, "--store", tmp_path / "s", "--mpp", 0.25, "--encoder", "uni"]
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert not mark.exists()
    assert code in (1, 2, 3), said
    assert "cannot be read" in said.out + said.err
    assert "Traceback" not in said.err


def test_an_adapters_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.safetensors"
    path.write_bytes(pickled(mark))
    assert main(["info", str(path)]) in (1, 2, 3)
    assert not mark.exists()
    assert "evil.safetensors" in "".join(capsys.readouterr())


def test_a_manifest_that_is_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "ran"
    for name in ("m.csv", "m.parquet"):
        (tmp_path / name).write_bytes(pickled(mark))
        refused(["extract", "--manifest", tmp_path / name, "--store", tmp_path / "s"], mark, capsys)
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
