"""Which file goes with which slide, and when that cannot be said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.archive.match import match_files
from pathotune_pipeline.errors import UsageError


def matched(folder: Path, *names: str, slides: dict[str, str | None]) -> dict[str, str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    paths = {slide_id: Path(path) if path else None for slide_id, path in slides.items()}
    found = match_files(folder, paths, (".geojson", ".xml"), flag="--annotations")
    return {
        slide: match.problem or (match.path.relative_to(folder).as_posix() if match.path else "")
        for slide, match in found.items()
    }


@pytest.mark.parametrize(
    "name",
    ["c-1%2Fa.svs.geojson", "c-1%2Fa.xml", "c-1/a.svs.XML", "c-1/a.geojson", "a.svs.geojson", "a.geojson"],
)
def test_every_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    assert matched(tmp_path, name, "other.geojson", ".a.geojson", "a.txt", slides={"c-1%2Fa.svs": "/x/c-1/a.svs"}) == {
        "c-1%2Fa.svs": name
    }
    assert matched(tmp_path, slides={"c-1%2Fa.svs": None})["c-1%2Fa.svs"] == name


def test_the_longer_name_goes_first(tmp_path: Path) -> None:
    slides = {"a.svs": "/x/a.svs", "a.tif": "/x/a.tif"}
    assert matched(tmp_path, "a.svs.geojson", "a.geojson", slides=slides) == {
        "a.svs": "a.svs.geojson",
        "a.tif": "a.geojson",
    }


def test_two_files_for_a_slide_and_two_slides_for_a_file_are_problems(tmp_path: Path) -> None:
    found = matched(
        tmp_path, "a.geojson", "a.xml", "b.xml", slides={"a.svs": None, "b.svs": None, "b.tif": None, "c": None}
    )
    assert "2 files fit it: a.geojson, a.xml" in found["a.svs"]
    assert "fits 2 slides" in found["b.svs"]
    assert found["b.svs"] == found["b.tif"]
    assert found["c"] == ""


def test_a_pseudonymised_slide_is_found_by_its_path(tmp_path: Path) -> None:
    assert matched(tmp_path, "doe.geojson", slides={"s-0123": "/x/doe.svs"}) == {"s-0123": "doe.geojson"}


def test_an_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--annotations .*no such folder"):
        match_files(tmp_path / "absent", {}, (), flag="--annotations")
