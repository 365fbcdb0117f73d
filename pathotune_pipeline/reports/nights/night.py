"""One night: what a run, with those broken off before it, made of every slide of an archive.

A night is the newest finished or unfinished run of a feature set, together with the runs directly before it that never
ended: what they committed was told by no page yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pathotune_pipeline.errors import StoreError, UsageError
from pathotune_pipeline.reports.collect import SlideRow, add_facts, newest_tissue, slide_row
from pathotune_pipeline.reports.history import RunRow, histories, nanoseconds, outcomes_of, run_row
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.runs import Run, read_runs
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

Kind = Literal["failed", "quarantined", "changed", "again", "new", "left", "unchanged"]
KINDS: tuple[Kind, ...] = ("failed", "quarantined", "changed", "again", "new", "left", "unchanged")
"""In the order in which people want to see them."""
REJECTED = "rejected in review"
"""How reasons begin of slides that a reviewer rejected; a run passes them over."""
QUARANTINE = ("refused by the audit", "its worker process died", REJECTED)
"""How reasons begin of slides that are kept away, rather than tried and failed."""
LEFT = ("the run ended before its turn", "the run has not come to it")
"""How reasons begin of slides whose turn did not come."""
RECENT_RUNS = 60
"""Runs that are looked at: for how long a slide has failed, and for speeds of earlier nights."""


@dataclass(slots=True)
class NightSlide:
    """One slide in one night.

    Attributes:
        row: what is known of it.
        kind: new (never in this set before), changed (its file is another), again (the file is the same; a mask, an
            annotation or a loss made it be computed anew), failed, quarantined, left (its turn did not come), unchanged.
        nights: how many runs in a row, this one included, it failed.
        stain, scanner: as the manifest says; where it does not, the scanner is the file's maker.
        stages: seconds by stage, of what this night computed.
        record: its features' newest commit.
        unlike: how it differs from the archive's past, a sentence each.
    """

    row: SlideRow
    kind: Kind
    nights: int = 0
    stain: str = ""
    scanner: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    record: CommitRecord | None = None
    unlike: list[str] = field(default_factory=list)

    @property
    def computed(self) -> bool:
        """Whether this night made its features."""
        return self.kind in ("new", "changed", "again")


@dataclass(slots=True)
class Night:
    """What a night came to.

    Attributes:
        store: the store's name.
        features: the feature set.
        run_id: of the night's last run.
        started: of its first run.
        finished: of its last; empty where that was killed or still runs.
        broken_off: runs of this night that never ended, but for the last.
        stopped: why the run stopped early; empty where it did not.
        slides: every slide of the archive, what happened first.
        removed: ids of slides that left the archive: since the last night, and before.
        passed_over: why files were no slides, and how many.
        rescans: slides that newer scans replace, with those.
        seconds: of wall time, of the runs that ended.
        stream: tiles, seconds, tiles_per_s, device_busy, bytes_read.
        recent: the set's last runs, newest first.
    """

    store: str
    features: SetName
    run_id: str
    started: str
    finished: str
    broken_off: int = 0
    stopped: str = ""
    slides: list[NightSlide] = field(default_factory=list)
    removed: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    passed_over: list[tuple[str, int]] = field(default_factory=list)
    rescans: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    stream: Mapping[str, float] = field(default_factory=dict)
    recent: list[RunRow] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many slides of each kind."""
        found = Counter(slide.kind for slide in self.slides)
        return {kind: found[kind] for kind in KINDS}

    def of(self, *kinds: Kind) -> list[NightSlide]:
        return [slide for slide in self.slides if slide.kind in kinds]

    def stage_seconds(self) -> list[tuple[str, float]]:
        """Seconds by stage, summed over the slides that this night computed, most first."""
        total: Counter[str] = Counter()
        for slide in self.slides:
            total.update({name: float(seconds) for name, seconds in slide.stages.items()})
        return [(name, seconds) for name, seconds in total.most_common() if seconds > 0]


def collect_night(store: FeatureStore, *, run_id: str | None = None, features: str | None = None) -> Night:
    """Read a night out of a store; no pictures yet.

    Args:
        store: the store.
        run_id: of the night's last run, or its beginning; the newest extraction's where None.
        features: the feature set, in full or its beginning; that of the newest extraction where None.

    Raises:
        UsageError: no run of an extraction is recorded, or none of that name or set.
    """
    every = [run for run in read_runs(store.runs, newest=None if run_id else RECENT_RUNS) if _set_of(run)]
    runs, last = _runs_of(store, every, run_id=run_id, features=features)
    features_set = _set_of(last)
    if features_set is None:  # _runs_of has looked; said again for the type checker
        raise UsageError(f"run {last.run_id} names no feature set.")
    night_runs = _with_broken_off(runs)
    before = runs[: len(runs) - len(night_runs)]
    first = night_runs[0]
    night = Night(
        store.name, features_set, last.run_id,
        started=str(first.record.get("started") or ""),
        finished=str(last.record.get("finished") or ""),
        broken_off=len(night_runs) - 1,
        stopped=str(last.record.get("stopped") or ""),
    )  # fmt: skip
    night.slides = _slides(store, night, night_runs, before)
    night.removed = _removed(last, before)
    pairs = [(str(pair[0]), str(pair[-1])) for pair in last.record.get("passed_over") or [] if pair]
    here = {slide.row.slide_id for slide in night.slides}
    night.rescans = [(name, newer) for name, reason in pairs if (newer := reason.rpartition(": ")[2]) in here]
    told = Counter(reason.partition(": ")[0] for _, reason in pairs if not reason.startswith(REJECTED))
    night.passed_over = told.most_common()
    night.seconds = sum(float((run.record.get("work") or {}).get("seconds") or 0) for run in night_runs)
    night.stream = last.record.get("stream") or {}
    night.recent = [run_row(run) for run in reversed(runs)]
    return night


def _set_of(run: Run) -> SetName | None:
    try:
        return SetName.parse(str(run.record.get("features", "")))
    except StoreError:
        return None


def _runs_of(
    store: FeatureStore, every: Sequence[Run], *, run_id: str | None, features: str | None
) -> tuple[list[Run], Run]:
    """The set's runs up to the night's last one, and that one."""
    fitting = [run for run in every if run_id is None or run.run_id.startswith(run_id)]
    if features is not None:
        wanted = features.removeprefix("features-")
        names = {str(run.record["features"]) for run in every}
        full = f"features-{wanted}" if f"features-{wanted}" in names else str(store.find_set(features))
        fitting = [run for run in fitting if str(run.record["features"]) == full]
    if not fitting:
        asked = f"--night {run_id}" if run_id else f"--features {features}" if features else f"--store {store.address}"
        raise UsageError(f"{asked}: no run of an extraction is recorded. `pathotune status` lists runs.")
    last = fitting[-1]
    if run_id is not None and len({run.run_id for run in fitting}) > 1:
        raise UsageError(f"--night {run_id}: {len(fitting)} runs begin so. Give one in full, such as {last.run_id}.")
    own = [run for run in every if run.record["features"] == last.record["features"]]
    return own[: own.index(last) + 1], last


def _with_broken_off(runs: Sequence[Run]) -> list[Run]:
    """The last run, and those directly before it that never ended."""
    begin = len(runs) - 1
    while begin > 0 and not runs[begin - 1].record.get("finished"):
        begin -= 1
    return list(runs[begin:])


def _removed(last: Run, before: Sequence[Run]) -> tuple[list[str], list[str]]:
    gone = [str(slide_id) for slide_id in last.record.get("removed") or []]
    known = {str(slide_id) for slide_id in (before[-1].record.get("removed") or [])} if before else set()
    return [each for each in gone if each not in known], [each for each in gone if each in known]


# --- slides --------------------------------------------------------------------------------------------------------


def _slides(store: FeatureStore, night: Night, runs: Sequence[Run], before: Sequence[Run]) -> list[NightSlide]:
    told: dict[str, Mapping[str, Any]] = {}
    made: dict[str, Mapping[str, Any]] = {}  # by this night, whichever of its runs it was
    for run in runs:
        for slide_id, outcome in outcomes_of(run).items():
            told[slide_id] = outcome
            if outcome.get("new", True) and outcome.get("status") in ("committed", "empty"):
                made[slide_id] = outcome
    in_archive = outcomes_of(runs[-1])
    records = store.records(night.features)
    known = histories([*before, *runs])
    earlier = _earlier_identities(store, night)
    failing = _failing(before)
    slides = []
    for slide_id in sorted(in_archive):
        record = records.get(slide_id)
        row = slide_row(slide_id, known.get(slide_id), record)
        slide = NightSlide(row, "unchanged", record=record)
        slide.kind = _kind(row, told[slide_id], made.get(slide_id), earlier.get(slide_id))
        if slide.kind in ("failed", "quarantined"):
            slide.nights = failing.get(slide_id, 0) + 1
        if slide.computed:
            slide.stages = dict(made[slide_id].get("stages") or {})
        slides.append(slide)
    for slide_id, reason in _rejected(runs[-1]):
        row = slide_row(slide_id, known.get(slide_id), records.get(slide_id))
        row.reason = reason
        slides.append(NightSlide(row, "quarantined", record=records.get(slide_id)))
    _add_facts(store, slides)
    return sorted(slides, key=lambda slide: KINDS.index(slide.kind))


def _kind(row: SlideRow, told: Mapping[str, Any], made: Mapping[str, Any] | None, earlier: set[str] | None) -> Kind:
    if row.status in ("failed", "left"):
        if row.status == "left" or told.get("unreached") or row.reason.startswith(LEFT):
            return "left"
        return "quarantined" if row.reason.startswith(QUARANTINE) else "failed"
    if made is None:
        return "unchanged"
    if not earlier:
        return "new"
    return "again" if str(made.get("identity")) in earlier else "changed"


def _rejected(run: Run) -> list[tuple[str, str]]:
    """Slides that the run passed over because a reviewer had rejected them, with the reason."""
    pairs = [(str(pair[0]), str(pair[-1])) for pair in run.record.get("passed_over") or [] if len(pair) == 2]
    return [(slide_id, reason) for slide_id, reason in pairs if reason.startswith(REJECTED)]


def _earlier_identities(store: FeatureStore, night: Night) -> dict[str, set[str]]:
    """Content hashes of the files that slides had when they were committed before this night."""
    began = nanoseconds(night.started) - 10**9
    found: dict[str, set[str]] = {}
    for key, short in store.committed(night.features):
        facts = store.record(night.features, key, short).facts
        if int(facts["committed_ns"]) < began:
            found.setdefault(str(facts["slide_id"]), set()).add(str(facts.get("identity")))
    return found


def _failing(before: Iterable[Run]) -> dict[str, int]:
    """In how many runs in a row, the last one included, slides failed; those whose turn did not come keep theirs."""
    found: dict[str, int] = {}
    for run in before:
        for slide_id, outcome in outcomes_of(run).items():
            reason = str(outcome.get("reason") or "")
            if outcome.get("status") == "left" or outcome.get("unreached") or reason.startswith(LEFT):
                continue
            found[slide_id] = found.get(slide_id, 0) + 1 if outcome.get("status") == "failed" else 0
    return found


def _add_facts(store: FeatureStore, slides: Sequence[NightSlide]) -> None:
    unlinked = [slide.row for slide in slides if slide.row.tissue is None]
    tissue = newest_tissue(store) if unlinked else {}
    for row in unlinked:
        row.tissue = tissue.get(row.slide_id)
    add_facts(store, [slide.row for slide in slides])
    for slide in slides:
        context = (slide.record.facts.get("context") or {}) if slide.record else {}
        slide.stain = str(context.get("stain") or "")
        slide.scanner = str(context.get("scanner") or slide.row.vendor or "")
