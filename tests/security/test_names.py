"""Names of slides that are paths, markup or commands: in a manifest they name slides, and nothing is written anywhere else.

That ids are plain names: tests/archive/test_archive.py. Ids in imported files: tests/exchange/test_import_refused.py. Addresses
of the viewer: tests/viewer/test_app.py.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pathotune_pipeline.archive.identity import is_id, key_of
from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.store import open_store
from pathotune_pipeline.testing.slides import write_slide

HOSTILE = (
    "../../evil1", "..", "/tmp/evil2", "a/../../../evil3", "..\\..\\evil4", "%2e%2e%2fevil5", "-rf ~/evil6", "$(touch evil7)",
    "x" * 300 + "/../../evil8", "<img src=x>.tif",
)  # fmt: skip


@pytest.mark.parametrize("name", ["../../evil", "..", ".", "/evil", "a/b", ""])
def test_what_is_no_id_reaches_no_file(name: str) -> None:
    assert not is_id(name)
    with pytest.raises(UsageError, match="is no slide's id"):
        key_of(name)


def test_a_manifests_names_stay_in_the_store_and_in_exports(tmp_path: Path) -> None:
    """Extracted, reviewed, exported, and forgotten: only what was named as output is written."""
    place = tmp_path / "a" / "b" / "c"
    truth = write_slide(place / "in" / "slide.tif", size_px=(512, 512), seed=2)
    table = place / "slides.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("slide_id", "path"), *((name, truth.path) for name in HOSTILE)])
    store, allowed = place / "s", ("s", "out")
    before = listed(tmp_path, place, allowed)
    words = ("extract", "--manifest", table, "--store", store, "--tile-px", 256, "--executor", "serial")
    assert main([str(word) for word in words]) == 0
    opened = open_store(store)
    (name,) = opened.sets("features")
    ids = [*opened.records(name)]
    assert len(ids) == len(HOSTILE)
    assert (
        main(["review", "--store", str(store), *(f"--slide={each}" for each in ids), "--accept", "--by", "A. Reader"])
        == 0
    )
    for layout in ("trident", "pt"):
        words = (
            "export",
            "--store",
            store,
            "--features",
            "stain",
            "--to",
            layout,
            "--out",
            place / "out" / layout,
            "--names",
            "id",
        )
        assert main([str(word) for word in words]) == 0, layout
    assert main(["tissue", "export", "--store", str(store), "--out", str(place / "out" / "tissue")]) == 0
    assert len([*(place / "out" / "tissue").iterdir()]) == len(HOSTILE)
    assert (
        main(
            [
                "forget",
                "--store",
                str(store),
                *(f"--slide={each}" for each in ids),
                "--output",
                str(place / "out"),
                "--yes",
            ]
        )
        == 0
    )
    assert listed(tmp_path, place, allowed) == before
    assert truth.path.exists()


def listed(root: Path, place: Path, besides: tuple[str, ...]) -> list[Path]:
    """Everything that lies there, but in those folders."""
    outputs = [place / name for name in besides]
    return sorted(path for path in root.rglob("*") if not any(path.is_relative_to(each) for each in outputs))
