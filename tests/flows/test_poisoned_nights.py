"""Nights on real worker processes, over an archive that grows, changes, and holds a corrupt slide, a poison one and a re-scan.

The poison slide passes the audit and ends every worker process that begins it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pathotune_pipeline.features.quarantine import quarantined
from pathotune_pipeline.store import open_store
from pathotune_pipeline.store.verify import verify_store
from tests.flows.nights import Told, brief, run_nights, shown, told_of, write_archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SCRIPT = """
night(['a.tif', 'b.tif', 'bad.svs', 'poison.tif'], ['a.tif', 'b.tif', 'bad.svs', 'poison.tif'])
every = ['a.tif', 'b.tif', 'bad.svs', 'poison.tif', 'b-again.tif', 'c.tif']
night(every, ['a.tif+changed', 'b-again.tif', 'c.tif'])
night(every)
del os.environ['PATHOTUNE_FAILPOINT']
(place / 'in' / 'a.tif').unlink()
night(every[1:], ['bad.svs+mended', 'poison.tif+mended'])
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place, new = tmp_path_factory.mktemp("poisoned"), tmp_path_factory.mktemp("new")
    write_archive(place, new)
    execution = {"executor": "local", "workers": 2}
    return run_nights(SCRIPT, place, new, execution=execution, PATHOTUNE_FAILPOINT="slide.begun@poison.tif")


def test_each_night_tells_exactly_what_happened(told: Told) -> None:
    rescan, bad = {"b.tif": "b-again.tif"}, ["bad.svs", "poison.tif"]
    assert [brief(night) for night in told.nights] == [
        {"new": ["a.tif", "b.tif"], "quarantined": bad},
        {"new": ["b-again.tif", "c.tif"], "changed": ["a.tif"], "quarantined": bad, "superseded": rescan},
        {"quarantined": bad, "superseded": rescan},
        {"new": ["bad.svs", "poison.tif"], "superseded": rescan, "removed": ["a.tif"]},
    ]


def test_the_poison_slide_is_tried_in_two_nights_and_again_when_its_file_changes(told: Told) -> None:
    reasons = [night["night"]["quarantined"].get("poison.tif", "") for night in told.nights]
    first, second, third, last = reasons
    assert first.startswith("its worker process died 3 times under it")
    assert first.endswith("The next run tries it once more.")
    assert second.startswith("its worker process died 3 times under it")
    assert "No further run tries it." in second
    assert re.match(
        r"its worker process died in each of 2 runs, last on \d{4}-\d\d-\d\d, and it was not tried\.", third
    )
    assert last == ""
    store = open_store(told.place / "s")
    assert len(quarantined(store)["poison.tif"]) == 2, "the file that came later harmed nobody"
    assert [found for found in verify_store(store, fast=True) if found.kind == "fault"] == []


def test_the_pages_show_it(told: Told) -> None:
    kinds = ("new", "changed", "quarantined", "failed", "left", "unchanged")
    assert [[night["beside"]["counts"][kind] for kind in kinds] for night in told.nights] == [
        [2, 0, 2, 0, 0, 0],
        [2, 1, 2, 0, 0, 0],
        [0, 0, 2, 0, 0, 3],
        [2, 0, 0, 0, 0, 2],
    ]
    for night in told.nights:
        page = night["night_html"]
        assert shown(night) == told_of(night)
        assert ("its worker process died" in page) == ("poison.tif" in night["night"]["quarantined"])
        assert ("refused by the audit: " in page) == ("bad.svs" in night["night"]["quarantined"])
        assert ("Replaced by newer scans" in page) == bool(night["night"]["superseded"])
        rescans = night["night"]["superseded"]
        assert all(name in page for name in (*rescans, *rescans.values(), *night["night"]["removed"]))
    index = (told.place / "out" / "index.html").read_text()
    assert all(Path(night["page"]).name in index for night in told.nights)
