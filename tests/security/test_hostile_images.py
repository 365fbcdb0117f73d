"""Images made to fill memory cost a reason: no crash, and a bounded amount of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pathotune_pipeline.cli import main
from tests.security.hostile_images import SLOW, write_hostile

LIMIT_MB = 700
"""Most that opening one and reading its first region and its overview may add."""
CHILD = """
import json, resource, sys
from pathlib import Path
import imagecodecs, openslide, simplejpeg, tifffile, tiffslide
from pathotune_pipeline.errors import SlideError
from pathotune_pipeline.slides import SlideSpec, open_slide, read_overview

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

idle = most()
for name in sys.argv[1:]:
    print(json.dumps({"begins": name}), flush=True)
    told = []
    try:
        slide = open_slide(Path(name), SlideSpec(), mpp=0.5)
        for read in (lambda: slide.read_region((0, 0), 0, (256, 256)), lambda: read_overview(slide, 8.0)):
            try:
                read()
                told.append("read")
            except SlideError as error:
                told.append(str(error))
        slide.close()
    except SlideError as error:
        told = [str(error)]
    print(json.dumps({"name": Path(name).name, "told": told, "mb": most() - idle}), flush=True)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


def test_readers_stay_small_and_alive(hostile: list[Path]) -> None:
    words = [sys.executable, "-c", CHILD, *(str(path) for path in hostile if path.name != SLOW)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (said[-1], done.stderr)
    found = {each["name"]: each for each in said if "name" in each}
    assert found.keys() == {path.name for path in hostile} - {SLOW}
    assert max(each["mb"] for each in found.values()) < LIMIT_MB, found
    for name, wanted in {
        "a million px in one tile.tif": "claims tiles of 1048576 x 1048576 px",
        "a million px in one deflated tile.tif": "claims tiles of 1048576 x 1048576 px",
        "tiles of 30,000 px.tif": "claims tiles of 30000 x 30000 px",
        "tiles of 30,000 px, jpeg.tif": "claims tiles of 30000 x 30000 px",
        "a jpeg bomb in its tiles.tif": "the block holds 65500 x 65500 px",
        "strips of 20,000 rows.tif": "one block of 3.6 GB",
        "bomb.jpg": "65500 x 65500 px in one JPEG must be decoded whole",
        "bomb.png": "30000 x 30000 px in one PNG must be decoded whole",
    }.items():
        assert wanted in found[name]["told"][0], found[name]
    for each in found.values():
        assert str(hostile[0].parent) not in "".join(each["told"])


def test_what_is_only_endless_is_told_by_the_audit(
    hostile: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "endless.tif").symlink_to(next(path for path in hostile if path.name == SLOW))
    words = ["audit", "--slides", tmp_path / "in", "--mpp-override", 0.5, "--memory-limit-gb", 1, "--jobs", 1, "--json"]
    assert main([str(word) for word in words]) == 0
    (row,) = json.loads(capsys.readouterr().out)["slides"]
    assert row["verdict"] == "warn"
    assert row["reasons"] == ["no pyramid: 1000000 x 1000000 px in one level, so tissue is found slowly"]
