"""A model's folder from elsewhere: a payload in any of its files is not run, and an array that would fill memory is not read."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import CorruptDataError
from pathotune_pipeline.evaluation.result import read_result
from pathotune_pipeline.reports.predictions import Attention
from pathotune_pipeline.store.npz import open_npz
from tests.models.conftest import FAST, Study
from tests.security.payloads import object_array, object_arrays, pickled, torch_file, zip_bomb


@pytest.fixture
def model(study: Study, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(study.model, tmp_path / "model"))


def test_heads_with_a_payload(study: Study, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "ran"
    for each in model.rglob("head.safetensors"):
        each.write_bytes(torch_file(mark))
    verbs = (
        ("predict", "--model", model, "--store", study.store, "--out", tmp_path / "p.csv"),
        ("evaluate", "--model", model, "--store", study.store, "--labels", study.labels, "--out", tmp_path / "e"),
        ("heatmap", "--model", model, "--store", study.store, "--slides", study.archive, "--out", tmp_path / "h"),
    )
    for words in verbs:
        assert main([str(word) for word in words]) in (1, 2), words
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert len([line for line in said.splitlines() if line.startswith("pathotune: ")]) == 1, said
        assert not mark.exists(), words


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.ckpt", "evil.safetensors"])
def test_init_from_a_payload(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    mark, evil = tmp_path / "ran", tmp_path / name
    for make in (pickled, torch_file, object_array):
        evil.write_bytes(make(mark))
        words = study.words("train", *FAST, "--head", "abmil", "--out", tmp_path / "new", "--init-from", evil)
        assert main(words) in (1, 2)
        assert name in capsys.readouterr().err
        assert not mark.exists()
    assert not list((tmp_path / "new").rglob("head.safetensors"))


def test_attention_with_a_payload(model: Path, tmp_path: Path) -> None:
    mark, kept = tmp_path / "ran", model / "attention.npz"
    names = read_result(model).attention.keys()
    for data in (object_arrays(mark, *names), pickled(mark), object_array(mark), b"", kept.read_bytes()[:200]):
        kept.write_bytes(data)
        with pytest.raises(CorruptDataError):
            read_result(model)
        with Attention(model) as attention:
            assert all(attention.of(name) is None for name in names)
    assert not mark.exists()


def test_attention_that_would_fill_memory(model: Path) -> None:
    """A packed array of 400 MB in 0.4; and one that says it is larger than it is."""
    kept = model / "attention.npz"
    zip_bomb(kept, "s0.tif", 400)
    assert kept.stat().st_size < 2e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptDataError, match="it is not unpacked"):
        read_result(model)
    with Attention(model) as attention:
        assert attention.of("s0.tif") is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"
    np.savez_compressed(kept, zeros=np.zeros(1_000_000, np.float32))
    with open_npz(kept) as small:
        assert len(small["zeros"]) == 1_000_000, "small ones may be packed well"
