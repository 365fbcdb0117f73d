"""What a store says of its slides, runs and settings, as plain values to be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pathotune_pipeline.errors import StoreError
from pathotune_pipeline.reports.history import History, RunRow, histories, nanoseconds, run_row
from pathotune_pipeline.reports.settings import flatten
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.runs import Run, read_runs
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

_NOT_MADE = ("failed", "left")


@dataclass(slots=True)
class SlideRow:
    """One slide as the page shows it. What is not known is None or empty.

    Attributes:
        slide_id, case_id: whose.
        status: committed, empty, failed, or left: the time was over before its turn.
        reason: why it is not committed.
        tiles, invalid_tiles: how many there are, and how many of them could not be read.
        seconds: wall time of the job that made, or failed to make, its features.
        mpp: um/px of level 0.
        mpp_source: where that came from.
        size_px: (width, height) of level 0.
        levels: of the pyramid.
        area_mm2: of the tissue.
        enlargement: share by which tiles were enlarged.
        vendor: the format's maker, as the reader names it.
        reader: which reader opened it.
        problem: what of its committed data cannot be read.
        flags: remarks on its quality.
        features, tissue, grid: commits its pictures are made from.
        extent_level0: (width, height) of a tile in level-0 pixels.
        share: of the slide that is tissue.
        quality: what was measured on its overview, as `Quality.as_dict` gives it.
    """

    slide_id: str
    status: str = "failed"
    reason: str = ""
    case_id: str = ""
    tiles: int | None = None
    invalid_tiles: int | None = None
    seconds: float | None = None
    mpp: float | None = None
    mpp_source: str = ""
    size_px: tuple[int, int] | None = None
    levels: int | None = None
    area_mm2: float | None = None
    enlargement: float | None = None
    vendor: str = ""
    reader: str = ""
    problem: str = ""
    flags: list[str] = field(default_factory=list)
    features: CommitRecord | None = None
    tissue: CommitRecord | None = None
    grid: CommitRecord | None = None
    extent_level0: tuple[float, float] | None = None
    share: float | None = None
    quality: dict[str, Any] | None = None


@dataclass(slots=True)
class StoreView:
    """What a store holds of one feature set.

    Attributes:
        name: of the store's folder.
        features: the set's name as `--features` takes it; empty where the store has none.
        other_features: names of the store's other sets.
        slides: every slide with an outcome or a commit, in the order of ids.
        runs: newest first.
        passed_over: why files were no slides, and how many, in the newest run.
        settings: name and value of everything the set was made with.
        encoder: name and value of the encoder's card.
        versions: of the libraries it was made with.
        warnings: what a reader should know, one sentence each.
    """

    name: str
    features: str = ""
    other_features: list[str] = field(default_factory=list)
    slides: list[SlideRow] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    passed_over: list[tuple[str, int]] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    encoder: list[tuple[str, str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def of_status(self, status: str) -> list[SlideRow]:
        return [row for row in self.slides if row.status == status]


def choose_set(
    store: FeatureStore, runs: Iterable[Run], *, asked: str | None, of_models: Iterable[str]
) -> SetName | None:
    """The set to show: the one asked for, else the only one, else the models', else the newest.

    A set of which nothing is committed yet counts too where a run names it: its failures are to be seen.

    Args:
        store: where to look.
        runs: of the store, oldest first.
        asked: `--features`, in full or its beginning.
        of_models: names of the sets that the models given were trained on.

    Raises:
        UsageError: no set is meant by `asked`, or several are.
    """
    named = {str(found): found for found in map(_set_of_run, runs) if found}
    if asked is not None:
        full = asked if asked.startswith("features-") else f"features-{asked}"
        return named.get(full) or store.find_set(asked)
    known = {**named, **{str(found): found for found in store.sets("features")}}
    if len(known) <= 1:
        return next(iter(known.values()), None)
    for name in of_models:
        if f"features-{name}" in known:
            return known[f"features-{name}"]
    return max(known.values(), key=lambda found: (_newest_commit(store, found), str(found)))


def collect(store: FeatureStore, features_set: SetName | None) -> StoreView:
    """Read what is to be shown of one feature set; no pictures yet."""
    view = StoreView(store.name)
    runs = read_runs(store.runs)
    view.runs = [run_row(run) for run in reversed(runs)]
    if features_set is None:
        return view
    view.features = _short(features_set)
    view.other_features = [_short(found) for found in store.sets("features") if found != features_set]
    own = [run for run in runs if run.record.get("features") == str(features_set)]
    records = store.records(features_set)
    view.slides = _slides(store, own, records)
    if own:
        passed = Counter(str(pair[-1]).partition(": ")[0] for pair in own[-1].record.get("passed_over") or [] if pair)
        view.passed_over = passed.most_common()
        removed = [str(slide_id) for slide_id in own[-1].record.get("removed") or []]
        if removed:
            shown = ", ".join(removed[:5]) + (", ..." if len(removed) > 5 else "")
            view.warnings.append(f"{len(removed)} slide(s) are in the store and no longer in the archive: {shown}")
    _settings(view, store, own, records)
    damaged = [row for row in view.slides if row.problem]
    if damaged:
        view.warnings.append(f"Data of {len(damaged)} slide(s) are committed and cannot be read; see the slide table.")
    return view


def _short(features_set: SetName) -> str:
    return str(features_set).removeprefix("features-")


def _set_of_run(run: Run) -> SetName | None:
    try:
        return SetName.parse(str(run.record.get("features", "")))
    except StoreError:
        return None


def _newest_commit(store: FeatureStore, features_set: SetName) -> int:
    return max((int(record.facts["committed_ns"]) for record in store.records(features_set).values()), default=0)


# --- slides --------------------------------------------------------------------------------------------------------


def _slides(store: FeatureStore, runs: list[Run], records: dict[str, CommitRecord]) -> list[SlideRow]:
    known = histories(runs)
    rows = [slide_row(slide_id, known.get(slide_id), records.get(slide_id)) for slide_id in sorted({*known, *records})]
    unlinked = [row for row in rows if row.tissue is None]
    tissue = newest_tissue(store) if unlinked else {}
    for row in unlinked:
        row.tissue = tissue.get(row.slide_id)
    add_facts(store, rows)
    return rows


def slide_row(slide_id: str, history: History | None, record: CommitRecord | None) -> SlideRow:
    """A slide by what runs said of it and by its newest commit, of which the later counts."""
    row = SlideRow(slide_id)
    if history:
        row.status, row.reason = str(history.newest.get("status")), str(history.newest.get("reason") or "")
        if history.worked is not None:
            row.seconds = history.worked.get("seconds")
            _add_slide(row, (history.worked.get("facts") or {}).get("slide"))
    if record is None:
        if row.status not in _NOT_MADE:
            row.status, row.reason = "failed", "said to be done and not found in the store. Run again."
        return row
    newer = history is None or int(record.facts["committed_ns"]) > nanoseconds(history.ended)
    if row.status in _NOT_MADE and not newer:
        row.reason += " (Features of an earlier run are in the store.)"
        row.case_id = str(record.facts.get("case_id") or "")
        return row
    # The store is the truth: what is committed is done, whatever a run came to say of it.
    row.status = "committed" if record.facts["tiles"] else "empty"
    row.reason = str(record.facts.get("reason") or "")
    row.case_id = str(record.facts.get("case_id") or "")
    row.tiles, row.invalid_tiles = int(record.facts["tiles"]), int(record.facts["invalid_tiles"])
    row.features = record
    row.flags = [str(flag) for flag in record.facts.get("flags") or []]
    row.tissue, row.grid = record.made_from("tissue"), record.made_from("tiles")
    return row


def newest_tissue(store: FeatureStore) -> dict[str, CommitRecord]:
    """The newest tissue commit of each slide, of any recipe: a failed slide may have come so far."""
    newest: dict[str, CommitRecord] = {}
    for tissue_set in store.sets("tissue"):
        for slide_id, record in store.records(tissue_set).items():
            other = newest.get(slide_id)
            if other is None or other.facts["committed_ns"] < record.facts["committed_ns"]:
                newest[slide_id] = record
    return newest


def _add_slide(row: SlideRow, slide: Any) -> None:
    """Facts of a slide as its reader told them."""
    if not isinstance(slide, dict):
        return
    mpp, levels = slide.get("mpp"), slide.get("levels") or []
    if mpp:
        row.mpp = float((mpp["x"] * mpp["y"]) ** 0.5)
    row.mpp_source, row.reader = str(slide.get("mpp_source") or ""), str(slide.get("reader") or "")
    row.vendor = str(slide.get("vendor") or "")
    if levels:
        row.levels, row.size_px = len(levels), (int(levels[0]["width"]), int(levels[0]["height"]))


def add_facts(store: FeatureStore, rows: Sequence[SlideRow]) -> None:
    """Add what tissue and tiles groups say of slides."""
    told = store.attributes(record for row in rows for record in (row.tissue, row.grid) if record is not None)
    for row in rows:
        try:
            if row.tissue is not None:
                attrs = told[row.tissue.group]
                _add_slide(row, attrs.get("slide"))
                row.size_px = int(attrs["level0_width"]), int(attrs["level0_height"])
                row.area_mm2 = float(attrs["area_um2"]) / 1e6
                row.share, row.quality = attrs.get("share"), attrs.get("quality")
                row.case_id = row.case_id or str(attrs.get("case_id") or "")
            if row.grid is not None:
                geometry = told[row.grid.group]["geometry"]
                row.enlargement = float(geometry["enlargement"])
                width, height = geometry["extent_level0"]
                row.extent_level0 = float(width), float(height)
        except (LookupError, ValueError, TypeError) as error:
            row.problem = f"its tissue or tiles cannot be read ({type(error).__name__})"


# --- settings ------------------------------------------------------------------------------------------------------


def _settings(view: StoreView, store: FeatureStore, runs: list[Run], records: dict[str, CommitRecord]) -> None:
    attrs: Any = {}
    if records:
        newest = max(records.values(), key=lambda record: int(record.facts["committed_ns"]))
        try:
            attrs = dict(store.group(newest).attrs)
        except (OSError, LookupError, ValueError):
            view.warnings.append("The newest features group cannot be read; settings are those of the newest run.")
    record = runs[-1].record if runs else {}
    view.settings = flatten(attrs.get("settings") or record.get("settings") or {})
    view.encoder = flatten(attrs.get("encoder") or {})
    view.versions = {
        str(name): str(text) for name, text in (attrs.get("versions") or record.get("versions") or {}).items()
    }
