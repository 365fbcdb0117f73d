"""Label tables: read them as people write them, and join them to slides without guessing.

A slide's id is its percent-encoded path below the archive's root. Tables made for TRIDENT, CLAM or STAMP name
slides by path or by file name, with or without the extension, or by the feature file's name.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pathotune_pipeline.archive.table import read_table as read_any_table
from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.registry import nearest

SLIDE_COLUMNS = ("slide_id", "slide", "wsi", "filename", "image")
"""Columns that may name the slide, best first; capitals do not matter."""
CASE_COLUMNS = ("case_id", "patient_id", "patient", "case")
"""Columns that may name the patient, best first; capitals do not matter."""
MISSING_LABELS = frozenset({"", "na", "n/a", "nan"})
"""What stands for "no label", in small letters."""
_SLIDE_ENDINGS = (
    ".ome.tiff", ".ome.tif", ".svs", ".tiff", ".tif", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide",
    ".czi", ".dcm", ".isyntax", ".png", ".jpeg", ".jpg",
)  # fmt: skip
_FEATURE_ENDINGS = (".h5", ".pt", ".npy", ".npz")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What the table says of one slide.

    Attributes:
        case_id: the patient.
        label: the class, as the table writes it.
    """

    case_id: str
    label: str


@dataclass(frozen=True, slots=True)
class LabelJoin:
    """A table joined to slides.

    Attributes:
        labels: slide id -> its row.
        slides_without_row: slide ids the table does not label.
        rows_without_slide: the table's names of slides that are not there.
        notes: what a reader of the results should know.
        patients_without_slide: of the table, none of whose slides is there.
    """

    labels: dict[str, LabelRow]
    slides_without_row: tuple[str, ...]
    rows_without_slide: tuple[str, ...]
    notes: tuple[str, ...]
    patients_without_slide: tuple[str, ...] = ()


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a label table as `archive.table` does: any common separator and encoding, every cell kept as text.

    Raises:
        ManifestError: it cannot be read, is empty, has a column twice, or a row longer than its header.
    """
    rows = list(read_any_table(path).rows)
    if not rows:
        raise ManifestError(f"{path}: the table has a header and no rows. It needs one line a slide.")
    return rows


def join_labels(slide_ids: Iterable[str], rows: Sequence[Mapping[str, str]], *, target: str) -> LabelJoin:
    """Give each slide its row of a label table.

    A row's name is compared with each slide's id, then its path, its path without extension, its file name and its
    file name without extension; the first kind with a match counts. Feature files' endings (.h5) are left off, and
    an absolute path is tried from its longest tail to its shortest.

    Args:
        slide_ids: as in the store.
        rows: of `read_table`.
        target: the column that holds the class.

    Raises:
        ManifestError: a column is missing, a row fits several slides, two rows disagree about a slide, or nothing
            joins.
    """
    ids = sorted(set(slide_ids))
    columns = list(rows[0]) if rows else []
    if target not in columns:
        known = ", ".join(columns) or "none"
        raise ManifestError(f"The table has no column {target!r}.{nearest(target, columns)} Columns: {known}.")
    name_column = _column(columns, SLIDE_COLUMNS)
    if name_column is None:
        raise ManifestError(
            f"The table has no column that names the slide. Columns: {', '.join(columns)}. "
            f"Call it one of: {', '.join(SLIDE_COLUMNS)}."
        )
    case_column = _column(columns, CASE_COLUMNS)
    index = SlideIndex(ids)
    labels: dict[str, LabelRow] = {}
    named: dict[str, str] = {}
    strangers: list[str] = []
    torn: dict[str, str] = {}
    patients: dict[str, bool] = {}  # whether one of the patient's slides is there
    unlabelled = 0
    for row in rows:
        name, label = row[name_column], row[target]
        slide = index.find(name)
        if case_column and row[case_column]:
            patients[row[case_column]] = patients.get(row[case_column], False) or slide is not None
        if slide is None:
            strangers.append(name)
            continue
        if label.lower() in MISSING_LABELS:
            unlabelled += 1
            continue
        found = LabelRow((row[case_column] if case_column else "") or slide, label)
        if slide in labels and labels[slide] != found:
            torn[slide] = f"{named[slide]!r} says {_say(labels[slide])} and {name!r} says {_say(found)}"
        labels[slide], named[slide] = found, name
    if torn:
        slide, told = next(iter(torn.items()))
        more = f" {len(torn)} slides have two labels so." if len(torn) > 1 else ""
        raise ManifestError(f"Two rows disagree about slide {slide}: {told}.{more} Keep one row for each.")
    if not labels:
        raise ManifestError(_nothing_joined(ids, rows, name_column, target=target, unlabelled=unlabelled))
    notes = _notes(labels, case_column, unlabelled)
    return LabelJoin(
        labels,
        slides_without_row=tuple(s for s in ids if s not in labels),
        rows_without_slide=tuple(dict.fromkeys(strangers)),
        notes=notes,
        patients_without_slide=tuple(patient for patient, there in patients.items() if not there),
    )


class SlideIndex:
    """Finds the slide that a table means, as `join_labels` says."""

    def __init__(self, slide_ids: Sequence[str]) -> None:
        self._kinds: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(5)]
        for slide in slide_ids:
            path = _tidy(unquote(slide))
            bare = _without(path, _SLIDE_ENDINGS)
            forms = (slide, path, bare, path.rpartition("/")[2], bare.rpartition("/")[2])
            for kind, form in zip(self._kinds, forms, strict=True):
                kind[form].append(slide)

    def find(self, name: str) -> str | None:
        """The slide's id, or None where there is none.

        Raises:
            ManifestError: the name fits several slides.
        """
        if not name:
            return None
        if name in self._kinds[0]:
            return name
        for form in _tails(_tidy(name)):
            for kind in self._kinds:
                for candidate in dict.fromkeys((form, _without(form, _FEATURE_ENDINGS))):
                    slides = kind.get(candidate, [])
                    if len(slides) > 1:
                        raise ManifestError(
                            f"The table's {name!r} fits several slides: {slides[0]} and {slides[1]}. Write the path."
                        )
                    if slides:
                        return slides[0]
        return None


def _tidy(path: str) -> str:
    return unicodedata.normalize("NFC", path).replace("\\", "/").removeprefix("./")


def _without(path: str, endings: Sequence[str]) -> str:
    for ending in endings:
        if path.lower().endswith(ending) and len(path) > len(ending):
            return path[: -len(ending)]
    return path


def _tails(path: str) -> list[str]:
    if not (path.startswith("/") or path[1:3] == ":/"):
        return [path]
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]


def _column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    by_small = {name.lower(): name for name in reversed(columns)}
    return next((by_small[name] for name in known if name in by_small), None)


def _say(row: LabelRow) -> str:
    return f"label {row.label!r}, patient {row.case_id!r}"


def _nothing_joined(
    ids: Sequence[str], rows: Sequence[Mapping[str, str]], column: str, *, target: str, unlabelled: int
) -> str:
    if unlabelled:
        return f"None of the {unlabelled} slides found in the table has a value in column {target!r}."
    slide = repr(ids[0]) if ids else "none at all"
    return (
        f"No row of the table fits a slide. A slide is called {slide}; column {column!r} says {rows[0][column]!r}. "
        "Write ids, paths or file names of the slides there."
    )


def _notes(labels: Mapping[str, LabelRow], case_column: str | None, unlabelled: int) -> tuple[str, ...]:
    notes = []
    if case_column is None:
        notes.append("The table has no patient column: each slide counts as a patient of its own.")
    if unlabelled:
        notes.append(f"{unlabelled} rows have no label and were left out.")
    classes: dict[str, set[str]] = defaultdict(set)
    for row in labels.values():
        classes[row.case_id].add(row.label)
    mixed = sorted(case for case, found in classes.items() if len(found) > 1)
    if mixed:
        notes.append(f"{len(mixed)} patients have slides of different classes, {mixed[0]!r} for one.")
    return tuple(notes)
