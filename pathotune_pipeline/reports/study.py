"""A study's tables as one HTML page: curves, methods by test sets, and what was not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports.figures.canvas import Figure
from pathotune_pipeline.reports.figures.curves import CurvePoint, StudyCurve, scaling_figure
from pathotune_pipeline.reports.html import Fact, render_page
from pathotune_pipeline.reports.views import percent_of
from pathotune_pipeline.store.files import parse_json, replace_file

STUDY, PAGE = "study.json", "study.html"
TITLES = {
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "kappa": "Cohen's kappa",
    "weighted_f1": "Weighted F1",
}
"""Scores as the page names them, in its order."""
DRAWN = ("balanced_accuracy", "auroc")
"""Scores whose curves are drawn."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TestColumn:
    """One test set, as the head of a column.

    Attributes:
        name: of the test set.
        told: images, groups, and what its intervals resample.
        in_domain: whether it was held out of what is trained on.
    """

    name: str
    told: str
    in_domain: bool


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Methods by fractions on one test set, or by test sets of one training domain.

    Attributes:
        title: what all cells of the table share.
        told: a sentence below the title.
        columns: heads.
        rows: encoder, method, and a summary row or None for each column.
    """

    title: str
    told: str
    columns: tuple[TestColumn, ...]
    rows: tuple[tuple[str, str, tuple[Row | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Cells that were not done, with their reason."""

    who: str
    where: str
    status: str
    reason: str
    count: int


def write_study_page(folder: str | Path) -> Path:
    """Write `<folder>/study.html` from `<folder>/study.json`: one page that loads nothing from anywhere.

    Raises:
        UsageError: there is no study, or it cannot be written.
    """
    folder = Path(folder)
    try:
        study = parse_json((folder / STUDY).read_bytes())
    except OSError as error:
        raise UsageError(f"{folder}: there is no {STUDY} ({error.strerror or error}). Run the study first.") from None
    if not isinstance(study, dict) or not {"summary", "cells", "kind"} <= study.keys():
        raise UsageError(f"{folder / STUDY}: is not a study's. Run the study again.")
    page = render_page(
        "study.html.j2",
        study=study,
        facts=_facts(study),
        sections=[(TITLES[score], _figures(study, score), _tables(study, score)) for score in TITLES],
        shortfalls=_shortfalls(study),
        told=_told(study),
    )
    try:
        replace_file(folder / PAGE, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UsageError(f"{folder}: cannot write there ({error.strerror or error}).") from None
    return folder / PAGE


def _facts(study: Row) -> list[Fact]:
    status = {_cell_key(row): row["status"] for row in study["cells"]}
    counts = Counter(status.values())
    return [
        Fact("cells", str(len(status))),
        Fact("done", str(counts["done"])),
        Fact("failed", str(counts["failed"]), bad=counts["failed"] > 0),
        Fact("not run", str(counts["not run"])),
        Fact("classes", str(len(study["classes"]))),
    ]


def _cell_key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("encoder", "method", "train_domain", "fraction", "fold", "seed"))


def _told(study: Row) -> str:
    levels = {row["level"] for row in study["summary"] if row["level"] is not None}
    level = percent_of(levels.pop()) if levels else "95 %"
    return (
        "Each number is the mean over runs (folds and seeds), ± the standard deviation between them. In brackets the "
        f"{level} percentile interval of that mean from resampled test groups (the slides or patients that the data name), "
        f"or from resampled {_item(study)}s where none are named, as each table says; it does not cover the choice of "
        f"training data. {_compared(study)}"
    )


def _compared(study: Row) -> str:
    if not study.get("baseline"):
        return "Rows are not compared with each other."
    return (
        f"Δ is how much higher a row is than {study['baseline']!r} in the same folds and seeds, with an interval from the same "
        "draws for both. These intervals are not corrected for how many there are; other rows are not compared: overlapping "
        "intervals do not show a difference, nor that there is none."
    )


def _tables(study: Row, score: str) -> list[ScoreTable]:
    rows = [row for row in study["summary"] if row["score"] == score and row["test"]]
    by_fraction, item = study["kind"] == "scaling", _item(study)
    shared = "test" if by_fraction else "train_domain"
    tables = []
    for value in dict.fromkeys(row[shared] for row in rows):
        own = [row for row in rows if row[shared] == value]
        across = sorted({row["fraction" if by_fraction else "test"] for row in own})
        lines = dict.fromkeys((row["encoder"], row["method"]) for row in own)
        found = {(row["encoder"], row["method"], row["fraction" if by_fraction else "test"]): row for row in own}
        columns = [_column(own, each, item, by_fraction=by_fraction) for each in across]
        title = f"Tested on {value}" if by_fraction else f"Trained on {value or 'all that train'}"
        tables.append(
            ScoreTable(
                title,
                f"{'In domain, held out' if own[0]['in_domain'] else 'Another domain'}: {_counts(own, item)}."
                if by_fraction
                else "",
                tuple(columns),
                tuple((*who, tuple(found.get((*who, each)) for each in across)) for who in lines),
            )
        )
    return tables


def _column(rows: Sequence[Row], value: Any, item: str, *, by_fraction: bool) -> TestColumn:
    if by_fraction:
        own = [row for row in rows if row["fraction"] == value]
        return TestColumn(f"{value:g}", "of the training groups", own[0]["in_domain"])
    own = [row for row in rows if row["test"] == value]
    return TestColumn(value, _counts(own, item), own[0]["in_domain"])


def _item(study: Row) -> str:
    return str(study.get("item", "image"))


def _counts(rows: Sequence[Row], item: str) -> str:
    """Images, or slides, and groups that were tested, and what intervals resample."""
    known = [row for row in rows if row["images"] is not None]
    if not known:
        return "not run"
    row = known[0]
    groups = f" of {row['groups']} groups" if row["resampled"] == "group" else ""
    return f"{row['images']} {item}s{groups}; intervals by {row['resampled'].replace('image', item)}"


def _figures(study: Row, score: str) -> list[Figure]:
    """Curves of the score on each test set, of a study of fractions."""
    if study["kind"] != "scaling" or score not in DRAWN:
        return []
    rows, item = [row for row in study["summary"] if row["score"] == score and row["test"]], _item(study)
    found = []
    for test in dict.fromkeys(row["test"] for row in rows):
        own = [row for row in rows if row["test"] == test]
        who = dict.fromkeys((row["encoder"], row["method"]) for row in own)
        curves = [
            StudyCurve(
                ", ".join(filter(None, each)), _points([row for row in own if (row["encoder"], row["method"]) == each])
            )
            for each in who
        ]
        told = f"{_counts(own, item)}. Whiskers: intervals of the mean over runs."
        found.append(scaling_figure(curves, title=f"Tested on {test}", score=TITLES[score], told=told))
    return [figure for figure in found if figure is not None]


def _points(rows: Sequence[Row]) -> tuple[CurvePoint, ...]:
    known = [row for row in rows if row["mean"] is not None]
    return tuple(
        CurvePoint(row["fraction"], row["mean"], row["low"], row["high"])
        for row in sorted(known, key=lambda row: row["fraction"])
    )


def _shortfalls(study: Row) -> list[Shortfall]:
    cells = {_cell_key(row): row for row in study["cells"] if row["status"] != "done"}
    counts = Counter(
        (
            ", ".join(filter(None, (row["encoder"], row["method"]))),
            f"{row['train_domain'] or 'all'}, fraction {row['fraction']:g}",
            row["status"],
            row["reason"],
        )
        for row in cells.values()
    )
    return [Shortfall(*what, count=count) for what, count in counts.items()]
