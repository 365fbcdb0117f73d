from __future__ import annotations

import pytest
import torch

from pathotune_pipeline.engine import load_checkpoint, pick_device, save_checkpoint
from pathotune_pipeline.errors import CorruptDataError, SpecError


def test_what_was_saved_is_read(tmp_path):
    state = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3, dtype=torch.int64)}
    save_checkpoint(tmp_path / "new" / "v1.2", state, {"name": "x"})
    read, meta = load_checkpoint(tmp_path / "new" / "v1.2")
    assert meta == {"name": "x"}
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["v1.2.json", "v1.2.safetensors"]


def test_files_that_do_not_belong_together_are_found_out(tmp_path):
    save_checkpoint(tmp_path / "a", {"w": torch.zeros(2)}, {})
    save_checkpoint(tmp_path / "b", {"w": torch.ones(2)}, {})
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    with pytest.raises(CorruptDataError, match=r"not what a\.json recorded"):
        load_checkpoint(tmp_path / "a")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(CorruptDataError, match=r"b\.json"):
        load_checkpoint(tmp_path / "b")


def test_a_missing_checkpoint_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none")


def test_a_failed_write_leaves_the_old_one(tmp_path):
    save_checkpoint(tmp_path / "a", {"w": torch.zeros(2)}, {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "a", {"w": torch.zeros(2)}, {"n": float("nan")})
    assert load_checkpoint(tmp_path / "a")[1] == {"n": 1}


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in {"cpu", "cuda", "mps"}
    with pytest.raises(SpecError, match="'gpu'"):
        pick_device("gpu")
    with pytest.raises(SpecError, match="this machine has"):
        pick_device("cuda:99")
