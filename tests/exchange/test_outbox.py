"""Files that are there whole or not at all, and one export at a time in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pathotune_pipeline.errors import OutputExistsError, UsageError
from pathotune_pipeline.exchange.layout import Named, name_slides, stem_of, text_file
from pathotune_pipeline.exchange.outbox import PARTIAL, Outbox

KILLED = """
import os, signal, sys
from pathlib import Path
from pathotune_pipeline.exchange.outbox import Outbox
def die(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
with Outbox(Path(sys.argv[1]), overwrite=False) as outbox:
    outbox.put({"first.txt": lambda path: path.write_text("whole")})
    outbox.put({"second.txt": lambda path: path.write_text("whole"), "third.txt": die})
"""


def listed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_kill_leaves_no_half_file_and_the_next_export_clears_up(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=100)
    assert done.returncode == -signal.SIGKILL
    left = listed(tmp_path)
    assert {name for name in left if not name.startswith(PARTIAL)} == {"first.txt"}
    assert len(left) > 2  # what was being written
    with Outbox(tmp_path, overwrite=False) as outbox:
        assert outbox.put({"second.txt": text_file("whole")})
        assert not outbox.put({"first.txt": text_file("whole")})
    assert listed(tmp_path) == {"first.txt", "second.txt"}
    assert not (tmp_path / PARTIAL).exists()


def test_one_export_at_a_time(tmp_path: Path) -> None:
    with Outbox(tmp_path, overwrite=False) as outbox:
        with pytest.raises(UsageError, match="another export"), Outbox(tmp_path, overwrite=False):
            pass
        outbox.put({"a": text_file("a")})
    with Outbox(tmp_path, overwrite=False) as outbox:
        assert not outbox.put({"a": text_file("a")})


def test_all_or_none_of_what_belongs_together(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("other")
    files = {"a": text_file("a"), "b": text_file("b")}
    with Outbox(tmp_path, overwrite=False) as outbox, pytest.raises(OutputExistsError, match="b is there already"):
        outbox.put(files)
    assert listed(tmp_path) == {"b"}
    with Outbox(tmp_path, overwrite=True) as outbox:
        assert outbox.put(files)
    assert (tmp_path / "b").read_text() == "b"


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with Outbox(tmp_path, overwrite=False) as outbox, pytest.raises(OSError, match="No space"):
        outbox.put({"a": text_file("a"), "b": fail})
    assert listed(tmp_path) == set()


def test_folders_are_compared_and_replaced_whole(tmp_path: Path) -> None:
    def tree(**files: str) -> dict[str, object]:
        def write(path: Path) -> None:
            path.mkdir()
            for name, text in files.items():
                (path / name).write_text(text)

        return {"x.zarr": write}

    with Outbox(tmp_path, overwrite=True) as outbox:
        assert outbox.put(tree(a="1", b="2"))  # type: ignore[arg-type]
        assert not outbox.put(tree(a="1", b="2"))  # type: ignore[arg-type]
        assert outbox.put(tree(a="1"))  # type: ignore[arg-type]
    assert listed(tmp_path) == {"x.zarr/a"}
    with Outbox(tmp_path, overwrite=False) as outbox, pytest.raises(OutputExistsError):
        outbox.put(tree(a="3"))  # type: ignore[arg-type]
    with Outbox(tmp_path, overwrite=False) as outbox, pytest.raises(OutputExistsError):
        outbox.put({"x.zarr": text_file("a file where a folder lies")})
    assert (tmp_path / "x.zarr" / "a").read_text() == "1"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write there"), Outbox(tmp_path / "file" / "out", overwrite=False):
        pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("slide_id", "name"),
    [
        ("A%2Fb.svs", "b"),
        ("A%2Fb.SVS", "b"),
        ("b.ome.tif", "b"),
        ("b.OME.tiff", "b"),
        ("TCGA-01.2B", "TCGA-01.2B"),
        ("a.b.ndpi", "a.b"),
        ("s-0123abcd", "s-0123abcd"),
        ("H%26E 1.svs", "H&E 1"),
    ],
)
def test_names_as_the_tools_make_them(slide_id: str, name: str) -> None:
    assert stem_of(slide_id).name == name
    assert name_slides([slide_id], "stem")[slide_id] == stem_of(slide_id)
    assert name_slides([slide_id], "id")[slide_id] == Named(slide_id, stem_of(slide_id).file)
