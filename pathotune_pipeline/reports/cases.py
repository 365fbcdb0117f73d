"""One HTML page of a slide encoder joined with genes and clinical variables: scores, curves, pathways, tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.reports.collect import add_facts, slide_row
from pathotune_pipeline.reports.figures.bars import bars_figure
from pathotune_pipeline.reports.figures.canvas import Figure
from pathotune_pipeline.reports.figures.heat import colour_bar
from pathotune_pipeline.reports.figures.outcomes import survival_figure
from pathotune_pipeline.reports.figures.scores import ForestRow, forest_figure
from pathotune_pipeline.reports.html import Fact, render_page
from pathotune_pipeline.reports.pictures import HeatPicture, heat_picture
from pathotune_pipeline.reports.views import Score, SurvivalView, score_title
from pathotune_pipeline.store.files import replace_file
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

MOST_PATHWAYS = 15
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class TilePicture:
    """A slide of a case, and how much each of its tiles raises the predicted risk.

    Attributes:
        record: of the slide's features.
        case_id: whose.
        why: it is shown.
        risk: log relative hazard of the case.
        values: float [N] over its readable tiles.
    """

    record: CommitRecord
    case_id: str
    why: str
    risk: float
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class ShownTiles:
    """A picture as the page shows it."""

    slide_id: str
    case_id: str
    why: str
    risk: float
    map: HeatPicture


@dataclass(frozen=True, slots=True, eq=False)
class CasesPage:
    """What the page shows.

    Attributes:
        title: of the page.
        card: of the tuning: "written", "cohorts", "tasks", "parts", "scores", "notes", "settings", "text", ...
        survival: cohort -> Kaplan-Meier curves by predicted risk, as `curves_by_risk` gives them.
        time_unit: column of the times.
        pathways: rows with "cohort", "pathway", "size", "mean", "cases", the largest first.
        tiles: slides of a few cases.
        store: where their pictures come from; None where there are none.
    """

    title: str
    card: Row
    survival: Mapping[str, Row] = field(default_factory=dict)
    time_unit: str = ""
    pathways: Sequence[Row] = ()
    tiles: Sequence[TilePicture] = ()
    store: FeatureStore | None = None


def write_cases_page(path: Path, page: CasesPage) -> None:
    """Write the page, all or nothing; it loads nothing from anywhere.

    Raises:
        UsageError: it cannot be written.
    """
    shown, troubles = _shown(page)
    text = render_page(
        "cases.html.j2",
        title=page.title,
        card=page.card,
        facts=_facts(page.card),
        scores=_score_tables(page.card["scores"]),
        forests=_forests(page.card["scores"]),
        curves=_curves(page),
        pathways=_pathways(page.pathways),
        tiles=shown,
        bar=colour_bar("tiles", "the tile's share") if shown else Markup(""),
        notes=[*page.card["notes"], *troubles],
    )
    try:
        replace_file(path, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UsageError(f"{path}: cannot write there ({error.strerror or error}).") from None


def _facts(card: Row) -> list[Fact]:
    parts = card["parts"]
    trained = sum(parts[name]["cases"] for name in ("train", "val") if name in parts)
    judged = sum(each["cases"] for name, each in parts.items() if name.endswith("test"))
    return [
        Fact("cases trained with", f"{trained:,}"),
        Fact("cases judged", f"{judged:,}"),
        Fact("cohorts", str(len(card["cohorts"]))),
        Fact("of them never seen", str(len(card["unseen_cohorts"]))),
        Fact("pathways", str(card["pathways"])),
        Fact("numbers trained", f"{card['trained_parameters']:,}"),
    ]


def _score_tables(scores: Sequence[Row]) -> list[tuple[str, list[str], list[tuple[str, str, list[Row | None]]]]]:
    """For each score its title, cohorts, and rows of modalities, task and a cell for each cohort."""
    tables = []
    for name in dict.fromkeys(row["score"] for row in scores):
        own = [row for row in scores if row["score"] == name]
        cohorts = list(dict.fromkeys(row["cohort"] for row in own))
        lines = dict.fromkeys((row["modalities"], row["task"]) for row in own)
        found = {(row["modalities"], row["task"], row["cohort"]): row for row in own}
        rows = [(*who, [found.get((*who, cohort)) for cohort in cohorts]) for who in lines]
        tables.append(("Which cohort: balanced accuracy" if name == "cohort" else score_title(name), cohorts, rows))
    return tables


def _forests(scores: Sequence[Row]) -> list[Figure]:
    figures = []
    for name in ("c_index", "balanced_accuracy"):
        own = sorted((row for row in scores if row["score"] == name), key=lambda row: str(row["cohort"]))
        rows = [
            ForestRow(str(row["cohort"]), f"{row['task']}, {row['modalities']}", Score.of(name, row)) for row in own
        ]
        figure = forest_figure(rows) if rows else None
        if figure is not None:
            figures.append(Figure(f"{score_title(name)} by cohort", figure.svg, figure.told))
    return figures


def _curves(page: CasesPage) -> list[Figure]:
    figures = []
    for cohort, told in page.survival.items():
        figure = survival_figure(SurvivalView.of(told), page.time_unit, by_patient=True)
        figures.append(Figure(f"Survival by predicted risk: {cohort}", figure.svg, figure.told))
    return figures


def _pathways(rows: Sequence[Row]) -> list[Figure]:
    figures = []
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        own = [row for row in rows if row["cohort"] == cohort][:MOST_PATHWAYS]
        told = (
            f"The {len(own)} pathways with the largest mean absolute share in the log hazard over {own[0]['cases']} judged "
            "cases; a bar to the right: those whose expression is off the training mean have more risk for it, on the average."
        )
        bars = [(str(row["pathway"]), float(row["size"]) * (1 if row["mean"] >= 0 else -1)) for row in own]
        figures.append(
            bars_figure(bars, title=f"Pathways: {cohort}", unit="mean absolute share, with its sign", told=told)
        )
    return figures


def _shown(page: CasesPage) -> tuple[list[ShownTiles], list[str]]:
    if page.store is None or not page.tiles:
        return [], []
    rows = [slide_row(each.record.slide_id, None, each.record) for each in page.tiles]
    add_facts(page.store, rows)
    shown, troubles = [], []
    for each, row in zip(page.tiles, rows, strict=True):
        try:
            picture = heat_picture(page.store, row, each.values)
        except CorruptDataError as error:
            troubles.append(str(error))
            continue
        shown.append(ShownTiles(row.slide_id, each.case_id, each.why, each.risk, picture))
    return shown, troubles
