"""Tables as labs write them: CSV from any tool, Excel's included, or Parquet; every cell kept as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pathotune_pipeline.errors import ManifestError, MissingExtraError
from pathotune_pipeline.registry import nearest

DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        columns: names from the header, white space stripped.
        rows: one mapping a line; an empty cell is "".
        name: the file's name, for messages.
        lines: number of each row's line in the file, for messages.
    """

    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    name: str
    lines: tuple[int, ...] = field(default=(), compare=False)

    def column(self, wanted: str) -> str:
        """The column's exact name, matched without regard to case.

        Raises:
            ManifestError: there is none; the nearest is offered.
        """
        for name in self.columns:
            if name.lower() == wanted.lower():
                return name
        raise ManifestError(
            f"{self.name}: there is no column {wanted!r}.{nearest(wanted, self.columns)} "
            f"Columns found: {', '.join(self.columns)}."
        )

    def first_of(self, names: Sequence[str]) -> str | None:
        """The first of these columns that the table has, matched without regard to case."""
        by_lower = {name.lower(): name for name in reversed(self.columns)}
        return next((by_lower[name.lower()] for name in names if name.lower() in by_lower), None)


def read_table(path: Path) -> Table:
    """Read a CSV: UTF-8 (with or without BOM), UTF-16 or Windows-1252; comma, semicolon, tab or bar. Or Parquet.

    Raises:
        ManifestError: the file is absent, empty, has a repeated column, or a row of another length.
        MissingExtraError: it is Parquet, and pyarrow is absent.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"Cannot read the table {path}: {error.strerror or error}. Check the path.") from None
    if raw[:4] == b"PAR1":
        return _read_parquet(path)
    if raw[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise ManifestError(f"{path.name}: this is an Excel workbook. Save it as CSV.")
    lines = _decode(raw).splitlines()
    body = [line for line in lines if line.strip()]
    if not body:
        raise ManifestError(f"{path.name}: the table is empty. It needs a header line and one line a slide.")
    delimiter = max(DELIMITERS, key=lambda mark: _fields(body[0], mark))
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    header: tuple[str, ...] = ()
    rows: list[dict[str, str]] = []
    numbers: list[int] = []
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        if not header:
            header = _header(stripped, path.name)
            continue
        extra = [cell for cell in stripped[len(header) :] if cell]
        if extra:
            raise ManifestError(
                f"{path.name}: line {reader.line_num} has {len(stripped)} cells, the header {len(header)}. "
                "Quote cells that hold the separator."
            )
        padded = stripped[: len(header)] + [""] * (len(header) - len(stripped))
        rows.append(dict(zip(header, padded, strict=True)))
        numbers.append(reader.line_num)
    return Table(columns=header, rows=tuple(rows), name=path.name, lines=tuple(numbers))


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table as read
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Reading a Parquet table") from None
    try:
        found = read(path)
    except (ArrowException, OSError) as error:
        raise ManifestError(f"{path.name}: is no sound Parquet file ({' '.join(str(error).split())[:200]}).") from None
    columns = _header([str(name).strip() for name in found.column_names], path.name)
    values = zip(*(column.to_pylist() for column in found.columns[: len(columns)]), strict=True)
    rows = tuple(dict(zip(columns, map(_as_text, row), strict=True)) for row in values)
    return Table(columns=columns, rows=rows, name=path.name, lines=tuple(range(1, len(rows) + 1)))


def _as_text(value: object) -> str:
    if value is None or value != value:  # not a number
        return ""
    return value.isoformat() if isinstance(value, date) else str(value).strip()


def _fields(line: str, delimiter: str) -> int:
    return len(next(csv.reader([line], delimiter=delimiter)))


def _header(cells: list[str], name: str) -> tuple[str, ...]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    repeated = {cell for cell in cells if cells.count(cell) > 1}
    if repeated:
        raise ManifestError(f"{name}: the column {sorted(repeated)[0]!r} stands twice in the header. Rename one.")
    return tuple(cells)


def _decode(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")
