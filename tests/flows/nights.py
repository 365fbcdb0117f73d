"""Simulated nights over an archive, in a process of their own on one temporary Prefect server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.testing.slides import write_slide

ROOT = Path(__file__).resolve().parents[2]
HEADER = "path,case_id,block,stain,scan_date"
ROWS = {
    "a.tif": "P1,B1,HE,2026-01-01",
    "b.tif": "P2,B1,HE,2026-01-01",
    "c.tif": "P3,B1,HE,2026-01-01",
    "bad.svs": "P4,B1,HE,2026-01-01",
    "b-again.tif": "P2,B1,HE,2026-02-01",
    "poison.tif": "P5,B1,HE,2026-01-01",
}
_BEGIN = """
import json, os, pathlib, shutil, sys
place, new = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
from flows.nightly import nightly_flow
from pathotune_pipeline.cli import main

HEADER, ROWS, EXECUTION = json.loads(sys.argv[3])
def night(names, bring=(), until=None, **more):
    for name in bring:
        shutil.copy(new / name, place / 'in' / name.partition('+')[0])
    (place / 'slides.csv').write_text('\\n'.join([HEADER, *(f'{name},{ROWS[name]}' for name in names)]) + '\\n')
    told = nightly_flow(store=str(place / 's'), out=str(place / 'out'), slides=str(place / 'in'),
        manifest=str(place / 'slides.csv'), settings={'tiles': {'tile_px': 128},
        'audit': {'samples': 4, 'jobs': 1}, 'execution': {**EXECUTION, 'until': until}}, **more)
    told['html'] = (place / 'out' / 'report.html').read_text()
    told['night_html'] = pathlib.Path(told['page']).read_text()
    told['beside'] = json.loads(pathlib.Path(told['page']).with_suffix('.json').read_text())
    print('NIGHT', json.dumps(told), flush=True)
"""


@dataclass(frozen=True)
class Told:
    """What some nights said.

    Attributes:
        nights: the flow's result of each, with its pages and what lies beside them.
        place: where archive, store and pages lie.
        printed: everything that was printed.
    """

    nights: list[dict[str, Any]]
    place: Path
    printed: str


def write_archive(place: Path, new: Path) -> None:
    """An empty archive in `place`, and in `new` what nights bring; a name after + is a file's later state."""
    (place / "in").mkdir()
    for seed, name in enumerate(
        ("a.tif", "a.tif+changed", "b.tif", "b-again.tif", "c.tif", "bad.svs+mended", "poison.tif", "poison.tif+mended")
    ):
        write_slide(new / f"{name}.tif", size_px=(1024, 1024), seed=seed)
        (new / f"{name}.tif").rename(new / name)
    (new / "bad.svs").write_bytes(b"this is no slide")


def run_nights(script: str, place: Path, new: Path, *, execution: dict[str, Any], **environment: str) -> Told:
    """Run a script of `night(names, bring, until)` calls, with `place` and `new` as in `write_archive`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    quiet = {
        **kept, "PREFECT_HOME": str(place / "prefect"), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180", **environment,
    }  # fmt: skip
    words = [sys.executable, "-c", _BEGIN + script, str(place), str(new), json.dumps([HEADER, ROWS, execution])]
    done = subprocess.run(words, env=quiet, cwd=place, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    nights = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("NIGHT ")]
    return Told(nights, place, done.stdout + done.stderr)


def brief(night: dict[str, Any]) -> dict[str, Any]:
    """What a night tells, without what is empty and without reasons."""
    return {
        name: sorted(value) if name != "superseded" else value
        for name, value in night["night"].items()
        if value and name not in ("features", "run")
    }


def shown(night: dict[str, Any]) -> dict[str, list[str]]:
    """Slides by kind as the data of a night's page have them, but for unchanged ones."""
    (rows,) = re.findall(
        r'<script type="application/json" id="rows"[^>]*>(.*?)</script>', night["night_html"], re.DOTALL
    )
    found: dict[str, list[str]] = {}
    for row in json.loads(rows):
        if row[2] != "unchanged":
            found.setdefault(row[2], []).append(row[0])
            reason = night["night"]["quarantined"].get(row[0], "")
            assert row[3].startswith(reason), row
    return {kind: sorted(ids) for kind, ids in found.items()}


def told_of(night: dict[str, Any]) -> dict[str, list[str]]:
    """Slides by kind as a page has to show them: it counts what a reviewer rejected as quarantined."""
    told = {kind: list(night["night"][kind]) for kind in ("new", "changed", "failed", "quarantined", "left")}
    told["quarantined"] += night["night"]["rejected"]
    return {kind: sorted(ids) for kind, ids in told.items() if ids}
