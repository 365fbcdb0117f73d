"""What a night is said to have been: each slide of one kind, and none forgotten."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports.nights import night as night_module
from pathotune_pipeline.reports.nights.night import collect_night


def kinds(archive: SimpleNamespace, **more: str) -> dict[str, str]:
    """Kind by slide, without what was unchanged."""
    found = collect_night(archive.store, **more).slides
    return {slide.row.slide_id: slide.kind for slide in found if slide.kind != "unchanged"}


def test_a_night_tells_exactly_what_happened(archive: SimpleNamespace, fake: SimpleNamespace) -> None:
    changed = archive.fresh("old-01.svs", identity="another file")
    bad = fake.FakeSlide("bad.svs", "failed", "no reader can open it")
    refused = fake.FakeSlide("refused.svs", "failed", "refused by the audit: no mpp")
    late = fake.FakeSlide("late.svs", "failed", "the run ended before its turn. Run again.")
    later = fake.FakeSlide("later.svs", "left", "the time was over before its turn.")
    archive.night([archive.fresh("new.svs"), changed, bad, refused, late, later], gone=("old-03.svs",))
    found = collect_night(archive.store)
    assert kinds(archive) == {
        "new.svs": "new",
        "old-01.svs": "changed",
        "bad.svs": "failed",
        "refused.svs": "quarantined",
        "late.svs": "left",
        "later.svs": "left",
    }
    assert found.counts()["unchanged"] == 20
    assert found.removed == (["old-03.svs"], [])
    assert [slide.kind for slide in found.slides[:3]] == ["failed", "quarantined", "changed"]
    assert found.stage_seconds() == [("encode_s", 16.0), ("read_s", 8.0)]


def test_the_same_file_computed_anew_is_no_change(archive: SimpleNamespace, fake: SimpleNamespace) -> None:
    corrected = archive.fresh("old-04.svs", identity="i")
    for path in (archive.store.root / "commits").glob("*/old-04.svs@*.json"):
        path.rename(path.with_name(path.name.replace("@", "@f", 1)[:-6] + ".json"))  # under an earlier mask
    archive.night([corrected])
    assert kinds(archive) == {"old-04.svs": "again"}


def test_how_long_a_slide_has_failed(archive: SimpleNamespace, fake: SimpleNamespace) -> None:
    bad = fake.FakeSlide("bad.svs", "failed", "no reader can open it")
    late = fake.FakeSlide("bad.svs", "left", "the time was over before its turn.")
    for hours, slide in ((-1.0, bad), (-0.8, late), (-0.6, bad), (-0.4, bad)):
        archive.night([slide], at=archive.stamp(hours))
    (slide,) = collect_night(archive.store).of("failed")
    assert slide.nights == 3  # the night without a turn does not count, and does not begin anew


def test_what_a_killed_run_committed_is_told_by_the_next(archive: SimpleNamespace, fake: SimpleNamespace) -> None:
    early, late = archive.fresh("early.svs"), archive.fresh("late.svs")
    archive.night([early], at=archive.stamp(-0.01), finished=False, planned_slides=["early.svs", "late.svs"])
    fake.commit_slide(archive.store, late)
    outcomes = [fake.outcome_of(early, 5, new=False), fake.outcome_of(late, 5)]
    fake.write_run(archive.store, archive.stamp(0), outcomes)
    found = collect_night(archive.store)
    assert found.broken_off == 1
    assert {slide.row.slide_id for slide in found.of("new")} == {"early.svs", "late.svs"}


def test_a_run_that_was_killed_says_what_is_left(archive: SimpleNamespace) -> None:
    archive.night([archive.fresh("done.svs")], finished=False, planned_slides=["done.svs", "not-begun.svs"])
    found = collect_night(archive.store)
    assert not found.finished
    assert kinds(archive) == {"done.svs": "new", "not-begun.svs": "left"}


def test_slides_that_a_reviewer_rejected_are_kept_away(archive: SimpleNamespace) -> None:
    newer = "older scan of the same block: old-07.svs"
    passed = [["old-05.svs", "rejected in review"], ["notes.txt", "no slide"], ["old-06.svs", newer]]
    archive.night([], gone=("old-05.svs", "old-06.svs"), passed_over=passed)
    found = collect_night(archive.store)
    (slide,) = found.of("quarantined")
    assert (slide.row.slide_id, slide.row.reason) == ("old-05.svs", "rejected in review")
    assert found.passed_over == [("no slide", 1), ("older scan of the same block", 1)]
    assert found.rescans == [("old-06.svs", "old-07.svs")]


def test_runs_are_named_by_their_beginning(archive: SimpleNamespace, fake: SimpleNamespace) -> None:
    first = sorted(path.name for path in (archive.store.root / "runs").iterdir())[0]
    archive.night([archive.fresh("new.svs")])
    assert collect_night(archive.store, run_id=first[:15]).run_id == first
    assert collect_night(archive.store).run_id != first
    with pytest.raises(UsageError, match="runs begin so"):
        collect_night(archive.store, run_id="20")
    with pytest.raises(UsageError, match="no run of an extraction"):
        collect_night(archive.store, run_id="1999")
    assert str(collect_night(archive.store, features="stain-texture").features) == str(fake.FEATURES)


def test_the_words_of_quarantine_are_those_that_are_written() -> None:
    package = Path(night_module.__file__).parents[2]
    sources = {
        "refused by the audit": "features/planning.py",
        "its worker process died": "execution/dask.py",
        "the run ended before its turn": "features/extract.py",
        "the run has not come to it": "reports/history.py",
    }
    for words, file in sources.items():
        assert words in (package / file).read_text()
    assert {*sources} <= {*night_module.QUARANTINE, *night_module.LEFT}
