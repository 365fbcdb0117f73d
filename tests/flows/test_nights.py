"""Nights over an archive that grows, changes, and holds a corrupt slide and a re-scan: each one tells exactly that.

All of them run in one process of their own, on one temporary Prefect server, with a webhook on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.store import open_store
from pathotune_pipeline.store.ledger import ledger_faults, read_ledger
from pathotune_pipeline.store.verify import verify_store
from pathotune_pipeline.testing.slides import write_slide
from tests.flows.hooked import Hook, hook

ROOT = Path(__file__).resolve().parents[2]
HEADER = "path,case_id,block,stain,scan_date"
ROWS = {
    "a.tif": "P1,B1,HE,2026-01-01",
    "b.tif": "P2,B1,HE,2026-01-01",
    "c.tif": "P3,B1,HE,2026-01-01",
    "bad.svs": "P4,B1,HE,2026-01-01",
    "b-again.tif": "P2,B1,HE,2026-02-01",
}

SCRIPT = """
import json, os, pathlib, shutil, sys
place, new = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
from flows.nightly import nightly_flow
from pathotune_pipeline.cli import main

HEADER, ROWS = json.loads(sys.argv[3])
def night(names, bring=(), until=None):
    for name in bring:
        shutil.copy(new / name, place / 'in' / name.partition('+')[0])
    (place / 'slides.csv').write_text('\\n'.join([HEADER, *(f'{name},{ROWS[name]}' for name in names)]) + '\\n')
    told = nightly_flow(store=str(place / 's'), out=str(place / 'out'), slides=str(place / 'in'),
        manifest=str(place / 'slides.csv'), export_to='pt', settings={'tiles': {'tile_px': 128},
        'audit': {'samples': 4, 'jobs': 1}, 'execution': {'executor': 'serial', 'until': until}})
    told['html'] = (place / 'out' / 'report.html').read_text()
    told['night_html'] = pathlib.Path(told['page']).read_text()
    told['beside'] = json.loads(pathlib.Path(told['page']).with_suffix('.json').read_text())
    print('NIGHT', json.dumps(told), flush=True)

night(['a.tif', 'b.tif', 'bad.svs'], ['a.tif', 'b.tif', 'bad.svs'])
night(['a.tif', 'b.tif', 'bad.svs', 'b-again.tif', 'c.tif'], ['a.tif+changed', 'b-again.tif', 'c.tif'],
    '2020-01-01T06:00')
night(['a.tif', 'b.tif', 'bad.svs', 'b-again.tif', 'c.tif'])
assert main(['review', '--store', str(place / 's'), '--slide', 'c.tif', '--reject', '--by', 'A. Reader']) == 0
(place / 'in' / 'a.tif').unlink()
night(['b.tif', 'bad.svs', 'b-again.tif', 'c.tif'], ['bad.svs+mended'])
night(['b.tif', 'bad.svs', 'b-again.tif', 'c.tif'])
try:
    nightly_flow(store=str(place / 's'), out=str(place / 'out'), slides=str(place / 'absent'))
except Exception as error:
    print('FAILED', type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Hook, Path, str]:
    """What the nights told, the webhook, the place, and everything that was printed."""
    place = tmp_path_factory.mktemp("nights")
    new = tmp_path_factory.mktemp("new")
    (place / "in").mkdir()
    for seed, name in enumerate(("a.tif", "a.tif+changed", "b.tif", "b-again.tif", "c.tif", "bad.svs+mended")):
        write_slide(new / f"{name}.tif", size_px=(1024, 1024), seed=seed)
        (new / f"{name}.tif").rename(new / name)
    (new / "bad.svs").write_bytes(b"this is no slide")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with hook() as server:
        quiet = {
            **kept, "PREFECT_HOME": str(place / "prefect"), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore",
            "PATHOTUNE_WEBHOOK_URL": server.address, "PATHOTUNE_WEBHOOK_TOKEN": "SECRETTOKEN", "PREFECT_LOGGING_LEVEL": "DEBUG",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        }  # fmt: skip
        words = [sys.executable, "-c", SCRIPT, str(place), str(new), json.dumps([HEADER, ROWS])]
        done = subprocess.run(words, env=quiet, cwd=place, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    nights = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("NIGHT ")]
    assert "FAILED" in done.stdout
    return nights, server, place, done.stdout + done.stderr


def brief(night: dict[str, Any]) -> dict[str, Any]:
    """What a night tells, without what is empty and without reasons."""
    return {
        name: sorted(value) if name != "superseded" else value
        for name, value in night["night"].items()
        if value and name not in ("features", "run")
    }


def test_each_night_tells_exactly_what_happened(told: tuple[list[dict[str, Any]], Hook, Path, str]) -> None:
    first, over, second, third, fourth = told[0]
    assert brief(first) == {"new": ["a.tif", "b.tif"], "quarantined": ["bad.svs"]}
    assert "refused by the audit: " in first["night"]["quarantined"]["bad.svs"]
    rescan = {"b.tif": "b-again.tif"}
    assert brief(over) == {"left": ["a.tif", "b-again.tif", "bad.svs", "c.tif"], "superseded": rescan}
    assert brief(second) == {
        "new": ["b-again.tif", "c.tif"], "changed": ["a.tif"], "quarantined": ["bad.svs"], "superseded": rescan,
    }  # fmt: skip
    assert brief(third) == {"new": ["bad.svs"], "superseded": rescan, "rejected": ["c.tif"], "removed": ["a.tif"]}
    assert brief(fourth) == {"superseded": rescan, "rejected": ["c.tif"], "removed": ["a.tif"]}, "and there is no work"


def test_the_pages_show_it(told: tuple[list[dict[str, Any]], Hook, Path, str]) -> None:
    kinds = ("new", "changed", "quarantined", "failed", "left", "unchanged")
    assert [[night["beside"]["counts"][kind] for kind in kinds] for night in told[0]] == [
        [2, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 4, 0],
        [2, 1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0, 1],  # the page counts what a reviewer rejected as quarantined
        [0, 0, 1, 0, 0, 2],
    ]
    for night in told[0]:
        page = night["night_html"]
        for name in (*night["night"]["new"], *night["night"]["changed"], *night["night"]["quarantined"]):
            assert name in page
        assert ("refused by the audit: " in page) == bool(night["night"]["quarantined"])
    index = (told[2] / "out" / "index.html").read_text()
    assert all(Path(night["page"]).name in index for night in told[0])
    first, over, second, third, _ = (night["html"] for night in told[0])
    for page, failed in ((first, True), (second, True), (third, False)):
        assert ("refused by the audit: " in page) == failed
    assert "b-again.tif" not in first
    for name in ("b-again.tif", "c.tif"):
        assert name in over
        assert name in second
    assert "1 slide(s) are in the store and no longer in the archive: a.tif" in third


def test_the_webhook_heard_of_each(told: tuple[list[dict[str, Any]], Hook, Path, str]) -> None:
    _, server, _, _ = told
    events = [(each["event"], {name: ids["slide_ids"] for name, ids in each["slides"].items()}) for each in server.told]
    bad = ("slides", {"quarantined": ["bad.svs"]})
    assert events[0] == bad
    assert events[-2:] == [bad, ("failure", {})]
    assert {each["flow"] for each in server.told} == {"nightly"}
    assert "absent" not in json.dumps(server.told)


def test_no_secret_is_anywhere(told: tuple[list[dict[str, Any]], Hook, Path, str]) -> None:
    _, _, place, printed = told
    assert "SECRET" not in printed
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files)
    assert [path for path in files if b"SECRET" in path.read_bytes()] == []


def test_the_store_is_sound_and_says_who_did_what(told: tuple[list[dict[str, Any]], Hook, Path, str]) -> None:
    nights, _, place, _ = told
    store = open_store(place / "s")
    assert [found for found in verify_store(store, fast=True) if found.kind == "fault"] == []
    ended = [entry for entry in read_ledger(store) if entry.facts.get("state") == "ended"]
    assert [entry.facts["run"] for entry in ended] == [night["run"] for night in nights]
    assert [entry.facts["counts"]["computed"] for entry in ended] == [2, 0, 3, 1, 0]
    assert ledger_faults(store) == {}
    assert main(["status", "--store", str(place / "s"), "--verify"]) == 0
    assert [night["exported"]["failed"] for night in nights] == [[]] * 5
