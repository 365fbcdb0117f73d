"""The cache of decoded patches: the same pixels, decoded once, there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.tuning.patches import PatchSet, PatchSpec, read_patches
from pathotune_pipeline.tuning.patches.decode import Decoded, decode_patches

Write = Callable[..., Path]


@pytest.fixture
def source(tmp_path: Path, write_image: Write, table: Write) -> Path:
    rows = []
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
        rows.append({"path": f"{number}.png", "label": "ab"[number % 2], "group": f"s{number}"})
    return table(tmp_path / "patches.csv", rows)


def read(source: Path, **settings: object) -> PatchSet:
    return read_patches(PatchSpec.parse({"source": source, "cache": source.parent / "cache", "side_px": 8, **settings}))


def sets(source: Path) -> list[Path]:
    return sorted(path for path in (source.parent / "cache").iterdir() if path.is_dir())


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("patches were decoded again")

    monkeypatch.setattr("pathotune_pipeline.tuning.patches.read.decode_patches", refuse)


def test_what_is_mapped_is_what_is_read(source: Path) -> None:
    kept, plain = read(source), read(source, cache=None)
    assert isinstance(kept.images, np.memmap)
    assert not kept.images.flags.writeable
    assert np.array_equal(kept.images, plain.images)
    assert kept.names == plain.names


def test_labels_and_groups_do_not_decode_again(source: Path, monkeypatch: pytest.MonkeyPatch, table: Write) -> None:
    first = read(source)
    forbid_decoding(monkeypatch)
    rows = [{"path": f"{number}.png", "label": "xyz"[number % 3]} for number in range(6)]
    again = read(table(source, rows))
    assert again.classes == ("x", "y", "z")
    assert np.array_equal(again.images, first.images)
    assert len(sets(source)) == 1
    # Touched and otherwise the same: its contents decide.
    os.utime(source.parent / "0.png", (1, 1))
    read(source)
    assert len(sets(source)) == 1


def test_what_is_there_is_read_without_writing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(source)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert np.array_equal(read(source).images, first.images)
    with pytest.raises(UsageError, match="Read-only file system"):
        read(source, side_px=4)


def test_other_contents_or_sizes_are_other_sets(source: Path, write_image: Write) -> None:
    read(source)
    assert read(source, side_px=4).side_px == 4
    write_image(source.parent / "0.png", 200)
    assert read(source).images[0, 0, 0, 0] == 200
    assert len(sets(source)) == 3


def test_unreadable_patches_are_remembered(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "2.png").write_bytes(b"broken")
    (source.parent / "5.png").unlink()
    skipped = read(source, unreadable="skip")
    forbid_decoding(monkeypatch)
    again = read(source, unreadable="skip")
    for patches in (skipped, again):
        assert patches.images[:, 0, 0, 0].tolist() == [0, 1, 3, 4]
        assert patches.names == ("0.png", "1.png", "3.png", "4.png")
        assert any("2 of 6 patches could not be read" in note for note in patches.notes)
    (source.parent / "5.png").write_bytes(b"broken")
    monkeypatch.undo()
    with pytest.raises(ManifestError, match="2 of 6 patches cannot be read"):
        read(source)
    for number in range(6):
        (source.parent / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(ManifestError, match="none of 6"):
        read(source, unreadable="skip")


@pytest.mark.parametrize("name", ["images.npy", "manifest.json"])
def test_a_damaged_set_is_made_again(source: Path, name: str) -> None:
    first = np.array(read(source).images)
    (folder,) = sets(source)
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    assert np.array_equal(read(source).images, first)
    (folder / name).unlink()
    assert np.array_equal(read(source).images, first)
    assert sets(source) == [folder]


CODE = """
import sys
from pathlib import Path
from pathotune_pipeline.tuning.patches import PatchSpec, read_patches
read_patches(PatchSpec(source=Path(sys.argv[1]), cache=Path(sys.argv[2]), side_px=8))
"""


def test_a_killed_run_leaves_nothing_that_is_believed(source: Path) -> None:
    command = [sys.executable, "-c", CODE, str(source), str(source.parent / "cache")]
    killed = subprocess.run(command, env={**os.environ, "PATHOTUNE_FAILPOINT": "patches.written"}, check=False)
    assert killed.returncode == -9
    (left,) = sets(source)
    assert left.name.startswith(".")
    assert left.name.endswith(".tmp")
    assert read(source).images[:, 0, 0, 0].tolist() == list(range(6))
    (made,) = sets(source)
    assert not made.name.startswith(".")


def test_of_many_that_want_a_set_one_makes_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slowly(*arguments: Any, **named: Any) -> Decoded:
        made.append(1)
        time.sleep(0.05)
        return decode_patches(*arguments, **named)

    monkeypatch.setattr("pathotune_pipeline.tuning.patches.read.decode_patches", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read(source).images[:, 0, 0, 0].tolist(), range(4)))
    assert found == [list(range(6))] * 4
    assert made == [1]


def test_a_full_disk_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UsageError, match="No space left on device"):
        read(source)
    assert sets(source) == []
    monkeypatch.undo()
    assert len(read(source)) == 6
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UsageError, match=r"take 0\.0 GB, and 0\.0 GB are free"):
        read(source, side_px=4)
    (source.parent / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        read(source, cache=source.parent / "file")
