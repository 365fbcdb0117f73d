"""The list of slides to work on: from a folder, or from a table with ids, cases and scales."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pathotune_pipeline.archive.discover import discover
from pathotune_pipeline.archive.identity import Pseudonymiser, encode_id, slide_id_of
from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.errors import ManifestError

PATH_COLUMNS = ("path", "wsi", "image_path", "slide_path", "filename", "file", "slide")
ID_COLUMNS = ("slide_id", "sample_id")
CASE_COLUMNS = ("case_id", "patient_id", "patient", "case")


@dataclass(frozen=True, slots=True)
class SlideItem:
    """One slide to work on.

    Attributes:
        slide_id: its name everywhere after this point.
        path: where its file lies; never leaves the worker.
        case_id: the patient, or None where it is not known.
        mpp: um/px from the manifest, or None.
    """

    slide_id: str
    path: Path = field(repr=False)
    case_id: str | None = None
    mpp: float | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The slides of one run, each id once.

    Attributes:
        items: in the order of the table or of the file names.
        passed_over: (file name, reason) of files in the folder that are no slides.
    """

    items: tuple[SlideItem, ...]
    passed_over: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def pseudonymised(self, pseudonymiser: Pseudonymiser) -> Manifest:
        """The same slides under keyed hashes; names of files passed over are dropped, their number stays."""
        items = tuple(
            replace(
                item,
                slide_id=pseudonymiser.slide(item.slide_id),
                case_id=pseudonymiser.case(item.case_id) if item.case_id else None,
            )
            for item in self.items
        )
        return Manifest(items, tuple(("(name withheld)", reason) for _, reason in self.passed_over))


def read_manifest(slides: Path | None, table: Path | None = None) -> Manifest:
    """The slides below a folder, or those a table lists.

    Args:
        slides: the archive's folder; ids are relative to it, and so are relative paths in the table.
        table: a CSV with a path column (path, wsi, image_path, ...) and optionally slide_id, case_id, mpp. Without
            `slides`, relative paths are relative to the table's folder.

    Raises:
        ManifestError: the table lacks a path column, names one id twice, or holds an mpp that is no number.
        UsageError: neither was given, or the folder is none.
    """
    if table is None:
        if slides is None:
            raise ManifestError("No slides were named. Give --slides DIR, or --manifest CSV, or both.")
        found = discover(slides)
        if not found.slides:
            seen = f"{len(found.passed_over)} other files" if found.passed_over else "nothing"
            raise ManifestError(f"--slides {slides}: no slide was found there, only {seen}. Check the folder.")
        items = tuple(SlideItem(found.id_of(path, slides), path) for path in found.slides)
        passed = tuple((slide_id_of(path, slides), reason) for path, reason in found.passed_over)
        return Manifest(items, passed)
    return _from_table(read_table(table), slides if slides is not None else table.parent)


def _from_table(table: Table, root: Path) -> Manifest:
    path_column = table.first_of(PATH_COLUMNS)
    if path_column is None:
        raise ManifestError(
            f"{table.name}: no column says where the slides lie. Name one {PATH_COLUMNS[0]!r}. "
            f"Columns found: {', '.join(table.columns)}."
        )
    id_column, case_column, mpp_column = (
        table.first_of(ID_COLUMNS), table.first_of(CASE_COLUMNS), table.first_of(("mpp", "spacing_at_level_0"))
    )  # fmt: skip
    items: dict[str, SlideItem] = {}
    for number, row in enumerate(table.rows, start=2):
        if not row[path_column]:
            raise ManifestError(f"{table.name}: line {number} has no {path_column}. Fill it or delete the line.")
        path = Path(row[path_column].replace("\\", "/"))
        path = path if path.is_absolute() else root / path
        own_id = row[id_column] if id_column else ""
        slide_id = encode_id(own_id) if own_id else slide_id_of(path, root)
        if slide_id in items:
            raise ManifestError(f"{table.name}: line {number} names the slide {slide_id!r} a second time. Keep one.")
        case = row[case_column] if case_column else ""
        mpp = _number(row[mpp_column], f"{table.name}: line {number}") if mpp_column else None
        items[slide_id] = SlideItem(slide_id, path, case or None, mpp)
    if not items:
        raise ManifestError(f"{table.name}: it has a header and no slide. Add one line a slide.")
    return Manifest(tuple(items.values()))


def _number(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        raise ManifestError(f"{where}: mpp {text!r} is no number. Give um per pixel, such as 0.25.") from None
    if not 0 < value < float("inf"):
        raise ManifestError(f"{where}: mpp {text!r} is not above 0. Give um per pixel, such as 0.25.")
    return value
