"""Patches as a table: a line for each image, or for each point on a slide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pathotune_pipeline.archive.table import Table, read_table
from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.tuning.patches.files import NamedFiles
from pathotune_pipeline.tuning.patches.ref import Listing, PatchRef, known_split, listed
from pathotune_pipeline.tuning.patches.spec import PatchSpec

_PATHS = ("path", "filename", "file", "image", "slide")
_LABELS = ("label", "class", "target")
_GROUPS = ("group", "patient", "case", "slide")
_DOMAINS = ("domain", "tumortype", "tumor", "scanner")
_SPLITS = ("split", "dataset")


def list_table(path: Path, spec: PatchSpec) -> Listing:
    """The patches of a CSV: columns of path and label, perhaps x and y, group, domain and split.

    Paths are relative to `spec.images`, else to the table's folder. With x and y (level-0 pixels of the patch's middle)
    the path is a slide's, which may also be named without its ending.

    Args:
        path: the table.
        spec: names of the columns.

    Raises:
        ManifestError: a column is absent, a number is none, or a path is empty.
    """
    table = read_table(path)
    columns = Columns.of(table, spec)
    root = spec.images or path.parent
    files = NamedFiles(root)
    x, y = table.first_of(("x",)), table.first_of(("y",))
    if (x is None) != (y is None):
        raise ManifestError(f"{table.name}: it has a column {x or y!r} and no other for a point. Give both x and y.")
    refs = []
    for row, line in zip(table.rows, table.lines, strict=True):
        where = f"{table.name}: line {line}"
        name = row[columns.path]
        if not name:
            raise ManifestError(f"{where}: column {columns.path!r} is empty. Name the file there.")
        centre = None
        if x is not None and y is not None:
            centre = (_number(row[x], x, where), _number(row[y], y, where))
        place = f"@{centre[0]:.10g},{centre[1]:.10g}" if centre else ""
        refs.append(
            PatchRef(
                name + place,
                files.find(name, where, slide=centre is not None),
                row[columns.label],
                **columns.rest(row),
                centre=centre,
            )
        )
    return Listing(tuple(refs), table.name, columns.notes(table))


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table of patches, by their exact names; "" where there is none."""

    path: str
    label: str
    group: str
    domain: str
    split: str

    @classmethod
    def of(cls, table: Table, spec: PatchSpec) -> Columns:
        """Find them.

        Raises:
            ManifestError: one that is named, or that of path or label, is absent.
        """
        path = _column(table, spec.path_column, _PATHS)
        if path is None:
            raise ManifestError(
                f"{table.name}: none of the columns {', '.join(_PATHS)} is there; found {', '.join(table.columns)}. "
                "Name the file's with patches.path_column."
            )
        label = _column(table, spec.label_column, _LABELS)
        if label is None:
            raise ManifestError(
                f"{table.name}: none of the columns {', '.join(_LABELS)} is there; found {', '.join(table.columns)}. "
                "Name the class's with patches.label_column."
            )
        group = _column(table, spec.group_column, _GROUPS)
        domain, split = _column(table, spec.domain_column, _DOMAINS), _column(table, spec.split_column, _SPLITS)
        return cls(path, label, group or "", domain or "", split or "")

    def rest(self, row: Mapping[str, str]) -> dict[str, str]:
        """Group, domain and split of a row."""
        split = row.get(self.split, "")
        return {
            "group": row.get(self.group, ""),
            "domain": row.get(self.domain, ""),
            "split": known_split(split) or split,
        }

    def notes(self, table: Table) -> tuple[str, ...]:
        """Which columns were taken."""
        taken = [
            f"{what} from {name!r}"
            for what, name in (("group", self.group), ("domain", self.domain), ("split", self.split))
            if name
        ]
        return (f"{table.name}: {', '.join(taken)}.",) if taken else ()


def _column(table: Table, wanted: str | None, names: Sequence[str]) -> str | None:
    return table.column(wanted) if wanted else table.first_of(names)


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"{where}: column {column!r} holds {text!r}. A number of level-0 pixels is needed.")
    return value


def join_slides(listing: Listing, spec: PatchSpec) -> Listing:
    """Complete patches of slides by a table with a line for each slide.

    A line is of the slide whose file it names, with the last folders or without, with the ending or without, or whose
    number, where both are numbers: 1 for 001.tiff, as MIDOG++ writes it. Groups are the table's where it has some;
    what the source says of domain and split goes before the table.

    Args:
        listing: patches.
        spec: the table, and names of its columns.

    Raises:
        ManifestError: the table lacks a slide, has one twice, has one line for two, or has no column of use.
    """
    if spec.slide_table is None:
        return listing
    table = read_table(spec.slide_table)
    path = _column(table, spec.path_column, _PATHS)
    if path is None:
        raise ManifestError(
            f"{table.name}: none of the columns {', '.join(_PATHS)} names the slide. Rename the column."
        )
    group = _column(table, spec.group_column, [name for name in _GROUPS if name != path.lower()])
    domain, split = _column(table, spec.domain_column, _DOMAINS), _column(table, spec.split_column, _SPLITS)
    columns = Columns(path, "", group or "", domain or "", split or "")
    if not (group or domain or split):
        raise ManifestError(
            f"{table.name}: no column of group, domain or split is there; found {', '.join(table.columns)}."
        )
    rows = {_plain(row[path]): row for row in table.rows}
    if len(rows) < len(table.rows):
        raise ManifestError(f"{table.name}: a slide is there twice. Keep one line for each.")
    keys = {
        each: next((key for key in _slide_keys(each) if key in rows), "")
        for each in dict.fromkeys(ref.path for ref in listing.refs)
    }
    absent = sorted(each.name for each, key in keys.items() if not key)
    if absent:
        raise ManifestError(f"{table.name}: there is no line for {len(absent)} slides: {listed(absent)}. Add them.")
    shared = sorted(key for key, count in Counter(keys.values()).items() if count > 1)
    if shared:
        raise ManifestError(
            f"{table.name}: one line fits several slides: {listed(shared)}. Name them with their folders."
        )
    refs = []
    for ref in listing.refs:
        told = columns.rest(rows[keys[ref.path]])
        refs.append(
            replace(
                ref,
                group=told["group"] or ref.group,
                domain=ref.domain or told["domain"],
                split=ref.split or told["split"],
            )
        )
    return replace(listing, refs=tuple(refs), notes=(*listing.notes, *columns.notes(table)))


def _slide_keys(path: Path) -> Iterator[str]:
    """What a table may call a slide's file, the most exact name first."""
    for file in (path, path.with_suffix("")):
        for first in range(len(file.parts)):
            yield "/".join(file.parts[first:])
    yield _plain(path.stem)


def _plain(name: str) -> str:
    """A table's name of a slide; of a number, without zeros before it."""
    name = name.replace("\\", "/").removeprefix("./")
    return str(int(name)) if name.isascii() and name.isdigit() else name
