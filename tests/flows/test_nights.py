"""Nights over an archive that grows, changes, and holds a corrupt slide and a re-scan: each one tells exactly that.

All of them run in one process of their own, on one temporary Prefect server, with a webhook on loopback.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.store import open_store
from pathotune_pipeline.store.ledger import ledger_faults, read_ledger
from pathotune_pipeline.store.verify import verify_store
from tests.flows.hooked import Hook, hook
from tests.flows.nights import brief, run_nights, shown, told_of, write_archive

SCRIPT = """
night(['a.tif', 'b.tif', 'bad.svs'], ['a.tif', 'b.tif', 'bad.svs'], export_to='pt')
night(['a.tif', 'b.tif', 'bad.svs', 'b-again.tif', 'c.tif'], ['a.tif+changed', 'b-again.tif', 'c.tif'],
    '2020-01-01T06:00', export_to='pt')
night(['a.tif', 'b.tif', 'bad.svs', 'b-again.tif', 'c.tif'], export_to='pt')
assert main(['review', '--store', str(place / 's'), '--slide', 'c.tif', '--reject', '--by', 'A. Reader']) == 0
(place / 'in' / 'a.tif').unlink()
night(['b.tif', 'bad.svs', 'b-again.tif', 'c.tif'], ['bad.svs+mended'], export_to='pt')
night(['b.tif', 'bad.svs', 'b-again.tif', 'c.tif'], export_to='pt')
try:
    nightly_flow(store=str(place / 's'), out=str(place / 'out'), slides=str(place / 'absent'))
except Exception as error:
    print('FAILED', type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Hook, Path, str]:
    """What the nights told, the webhook, the place, and everything that was printed."""
    place, new = tmp_path_factory.mktemp("nights"), tmp_path_factory.mktemp("new")
    write_archive(place, new)
    with hook() as server:
        done = run_nights(
            SCRIPT, place, new, execution={"executor": "serial"}, PATHOTUNE_WEBHOOK_URL=server.address,
            PATHOTUNE_WEBHOOK_TOKEN="SECRETTOKEN", PREFECT_LOGGING_LEVEL="DEBUG",
        )  # fmt: skip
    assert "FAILED" in done.printed
    return done.nights, server, place, done.printed


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
        assert shown(night) == told_of(night)
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
    assert [night["exported"]["rejected"] for night in nights] == [0, 0, 0, 1, 1]
