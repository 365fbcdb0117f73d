"""The night's page and the index over nights: files that load nothing from anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.provenance import now
from pathotune_pipeline.reports.html import render_page
from pathotune_pipeline.reports.nights.answers import ModelPanel, NightModel, panel_of
from pathotune_pipeline.reports.nights.drift import DriftSpec, Group, Sample, compare, measure, unlike_past
from pathotune_pipeline.reports.nights.means import FeatureMeans, stable_sample
from pathotune_pipeline.reports.nights.night import KINDS, Night, NightSlide, collect_night
from pathotune_pipeline.reports.nights.strip import shift_strip, stage_bar
from pathotune_pipeline.reports.nights.thumbnails import thumbnails
from pathotune_pipeline.reports.report import cannot_write, writable
from pathotune_pipeline.store.files import replace_file
from pathotune_pipeline.store.store import FeatureStore, open_store

INDEX = "index.html"
FEATURE_SLIDES = 100
"""Slides of the past, and of the night, whose features are compared in each group."""
PICTURES_A_BLOCK = 100
LISTED = 200
"""Failed and quarantined slides that stand in the page itself; the table names them all."""
TITLES = {
    "new": "new", "changed": "changed", "again": "computed again", "failed": "failed", "quarantined": "quarantined",
    "left": "left for the next night", "unchanged": "unchanged",
}  # fmt: skip
STAGES = {
    "identity_s": "content hashes", "open_s": "opening", "tissue_s": "tissue", "grid_s": "tile grids", "stain_s": "stain",
    "load_encoder_s": "loading encoders", "read_s": "reading tiles", "encode_s": "encoding", "commit_s": "committing",
    "read_wait_s": "readers waiting", "encode_wait_s": "encoders waiting",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NightSummary:
    """What the index says of a night; it lies beside the page as JSON."""

    run_id: str
    store: str
    features: str
    started: str
    finished: str
    counts: dict[str, int]
    removed: int
    alerts: int
    tiles: int
    tiles_per_s: float | None
    page: str

    @property
    def state(self) -> str:
        """Whether somebody has to look: alerts, failures, or quiet."""
        if self.alerts:
            return "alerts"
        return "failures" if self.counts["failed"] or self.counts["quarantined"] or not self.finished else "quiet"


def write_night(
    store: str | Path,
    out: str | Path,
    *,
    run_id: str | None = None,
    features: str | None = None,
    spec: DriftSpec | None = None,
    model: NightModel | None = None,
) -> Path:
    """Write a night's page and the index over all nights in the same folder.

    Args:
        store: the store.
        out: folder for `night-<run>.html`, `night-<run>.json` and `index.html`; made if it is new.
        run_id: of the night's last run, or its beginning; the newest extraction's where None.
        features: the feature set, in full or its beginning; that of the newest extraction where None.
        spec: from where on drift is an alert.
        model: that the night predicted with, and what it said.

    Returns:
        Path of the night's page.

    Raises:
        UsageError: no such run, a model of other features, or `out` cannot be written.
    """
    folder, opened, spec = writable(Path(out)), open_store(store), spec or DriftSpec()
    night = collect_night(opened, run_id=run_id, features=features)
    panel = None if model is None else panel_of(opened, night, model)
    groups = find_drift(opened, night, spec)
    pictures = thumbnails(opened, night.slides)
    summary = summarise(night, groups)
    page = render_night(night, groups, pictures, spec, panel=panel)
    try:
        replace_file(folder / summary.page, page.encode("utf-8", errors="replace"))
        replace_file(folder / f"{Path(summary.page).stem}.json", json.dumps(asdict(summary), indent=1).encode())
        replace_file(folder / INDEX, render_index(folder).encode("utf-8", errors="replace"))
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder / summary.page


def find_drift(store: FeatureStore, night: Night, spec: DriftSpec) -> list[Group]:
    """Hold what the night computed against what was there; single slides far outside are marked on the way."""
    past: list[Sample] = []
    fresh: list[Sample] = []
    for slide in night.slides:
        if slide.record is not None:
            sample = Sample(
                slide.row.slide_id, (slide.stain, slide.scanner), measure(slide.row.share, slide.row.quality)
            )
            (fresh if slide.computed else past).append(sample)
    if not fresh:
        return []
    told = unlike_past(past, fresh, min_past=spec.min_past)
    for slide in night.slides:
        slide.unlike = told.get(slide.row.slide_id, [])
    means = FeatureMeans(
        store, night.features, {slide.row.slide_id: slide.record for slide in night.slides if slide.record is not None}
    )
    with_tiles = {slide.row.slide_id for slide in night.slides if slide.row.tiles}
    groups = compare(
        past, fresh, spec,
        means=lambda names: means.of(stable_sample([each for each in names if each in with_tiles], FEATURE_SLIDES)),
    )  # fmt: skip
    means.save()
    return groups


def summarise(night: Night, groups: Sequence[Group]) -> NightSummary:
    """What the index will say."""
    return NightSummary(
        run_id=night.run_id,
        store=night.store,
        features=str(night.features).removeprefix("features-"),
        started=night.started,
        finished=night.finished,
        counts=night.counts(),
        removed=len(night.removed[0]),
        alerts=sum(len(group.alerts) for group in groups),
        tiles=sum(slide.row.tiles or 0 for slide in night.slides if slide.computed),
        tiles_per_s=night.stream.get("tiles_per_s"),
        page=f"night-{night.run_id}.html",
    )


def render_night(
    night: Night, groups: Sequence[Group], pictures: dict[str, str], spec: DriftSpec, *, panel: ModelPanel | None = None
) -> str:
    """The page of a night.

    Args:
        night: what happened.
        groups: its drift.
        pictures: base64 of JPEGs by slide id.
        spec: what counted as an alert.
        panel: of the model that predicted; None where none did.
    """
    counts = night.counts()
    shown = list(pictures)
    place = {slide_id: index for index, slide_id in enumerate(shown)}
    blocks = [
        [pictures[slide_id] for slide_id in shown[begin : begin + PICTURES_A_BLOCK]]
        for begin in range(0, len(shown), PICTURES_A_BLOCK)
    ]
    flags = Counter(_kind_of_flag(flag) for slide in night.slides for flag in slide.row.flags)
    fresh_flags = Counter(_kind_of_flag(flag) for slide in night.slides if slide.computed for flag in slide.row.flags)
    stages = [(STAGES.get(name, name.removesuffix("_s")), seconds) for name, seconds in night.stage_seconds()]
    return render_page(
        "night.html.j2",
        script="night.js",
        night=night,
        features=str(night.features).removeprefix("features-"),
        counts=counts,
        kinds=[(kind, TITLES[kind], counts[kind]) for kind in KINDS],
        titles=TITLES,
        facts=_facts(night, counts),
        alerts=[(group, test) for group in groups for test in group.alerts],
        groups=groups,
        strips={id(test): shift_strip(test.past, test.night) for group in groups for test in group.shifts},
        spec=spec,
        troubled=night.of("failed", "quarantined")[:LISTED],
        troubles=counts["failed"] + counts["quarantined"],
        unlike=[slide for slide in night.slides if slide.unlike][:LISTED],
        flags=[(flag, count, fresh_flags[flag]) for flag, count in flags.most_common()],
        stages=stages,
        stage_bar=stage_bar(stages),
        panel=panel,
        slowest=sorted(
            (slide for slide in night.slides if slide.computed and slide.row.seconds),
            key=lambda slide: -(slide.row.seconds or 0),
        )[:5],
        rows=[_values(slide, place.get(slide.row.slide_id, -1)) for slide in night.slides],
        blocks=blocks,
        block_size=PICTURES_A_BLOCK,
        made=now(),
    )


def read_summaries(folder: Path) -> list[NightSummary]:
    """The nights whose pages lie in a folder, newest first; what is no summary is left out."""
    found = []
    for path in folder.glob("night-*.json"):
        try:
            summary = NightSummary(**json.loads(path.read_text(encoding="utf-8")))
            summary = NightSummary(**{**asdict(summary), "counts": {kind: int(summary.counts[kind]) for kind in KINDS}})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if summary.page == f"{path.stem}.html" and (folder / summary.page).is_file():
            found.append(summary)
    return sorted(found, key=lambda summary: summary.run_id, reverse=True)


def render_index(folder: Path) -> str:
    """The index over the nights of a folder."""
    nights = read_summaries(folder)
    return render_page("nights.html.j2", script="script.js", nights=nights, made=now(), titles=TITLES)


def _facts(night: Night, counts: dict[str, int]) -> list[tuple[str, int, bool]]:
    """Title, number, and whether it is bad, of what stands at the top."""
    told = [("slides in the archive", len(night.slides), False)]
    told += [(TITLES[kind], counts[kind], kind in ("failed", "quarantined") and counts[kind] > 0) for kind in (
        "new", "changed", "failed", "quarantined",
    )]  # fmt: skip
    told += [(TITLES[kind], counts[kind], False) for kind in ("again", "left") if counts[kind]]
    return [*told, ("left the archive", len(night.removed[0]), False)]


def _kind_of_flag(flag: str) -> str:
    """A quality remark without its numbers, so that like ones count together."""
    words = [word for word in flag.split() if not word.strip("(),%").replace(".", "", 1).isdigit() and word != "%"]
    return " ".join(words)


def _values(slide: NightSlide, picture: int) -> list[Any]:
    """A slide as the page's script takes it; night.js names the columns."""
    row = slide.row
    quality = row.quality or {}
    return [
        row.slide_id, row.case_id, slide.kind, _reason(slide), [*row.flags], slide.unlike, slide.stain, slide.scanner,
        row.tiles, row.invalid_tiles, _rounded(row.area_mm2), _rounded(row.share), _rounded(quality.get("blur_share")),
        _rounded(row.seconds) if slide.computed or row.status == "failed" else None, picture,
    ]  # fmt: skip


def _reason(slide: NightSlide) -> str:
    told = slide.row.reason
    if slide.nights > 1:
        told += f" (for {slide.nights} runs in a row)"
    return f"{told} {slide.row.problem}".strip()


def _rounded(value: Any) -> float | None:
    return None if value is None else float(f"{float(value):.4g}")
