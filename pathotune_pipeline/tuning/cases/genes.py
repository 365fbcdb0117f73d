"""Gene expression tables: cases by genes or genes by cases, CSV or Parquet, put together over cohorts."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.archive.table import DELIMITERS
from pathotune_pipeline.bags.labels import MISSING_LABELS
from pathotune_pipeline.errors import ManifestError, MissingExtraError

_COUNTS_BEGIN = 1000.0
"""Above this a value is no logarithm of an expression."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneTable:
    """Expression of genes in cases.

    Attributes:
        cases: N ids, as the case table writes them, sorted.
        genes: G names, in the order of the columns.
        values: float32 [N, G]; NaN where nothing was measured.
        notes: what a reader of results should know.
    """

    cases: tuple[str, ...]
    genes: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...] = ()


def read_genes(paths: Path | Sequence[Path], cases: Iterable[str]) -> GeneTable:
    """Read the expression of these cases.

    Which way round a table lies is seen from where the cases stand. A TCGA sample's barcode stands for its case: tumour
    samples (01 to 09) alone, of several the first in order. Of several tables the genes that all have are taken.

    Args:
        paths: one table or several; the first column, or a Parquet file's column of text, names the rows.
        cases: ids of the case table.

    Raises:
        ManifestError: a table cannot be read, holds what is no number, names none of the cases, or names a gene or case twice.
        MissingExtraError: it is Parquet, and pyarrow is absent.
    """
    wanted = sorted(set(cases))
    tables = [_read(path, wanted) for path in ([paths] if isinstance(paths, Path) else paths)]
    genes = [gene for gene in tables[0].genes if all(gene in set(table.genes) for table in tables[1:])]
    if not genes:
        raise ManifestError(f"The gene tables have no gene in common: {', '.join(map(str, _as_paths(paths)))}.")
    rows: dict[str, np.ndarray] = {}
    notes = [note for table in tables for note in table.notes]
    for table in tables:
        place = {gene: index for index, gene in enumerate(table.genes)}
        columns = [place[gene] for gene in genes]
        for case, row in zip(table.cases, table.values[:, columns], strict=True):
            if case in rows:
                raise ManifestError(f"case {case!r} stands in two gene tables. Keep one of them.")
            rows[case] = row
    dropped = max(len(table.genes) for table in tables) - len(genes)
    if dropped:
        notes.append(f"{len(genes)} genes are in all gene tables; up to {dropped} of a table are not used.")
    names = tuple(sorted(rows))
    values = np.stack([rows[name] for name in names])
    if len(values) and np.nanmax(values, initial=0.0) > _COUNTS_BEGIN:
        notes.append(
            f"Expression reaches {np.nanmax(values):.4g}, as counts do. Scaling is linear: give log2(x + 1) where it is so."
        )
    absent = len(wanted) - len(names)
    if absent:
        notes.append(f"{absent} of {len(wanted)} cases are in no gene table; they count as without genes.")
    return GeneTable(names, tuple(genes), values, tuple(notes))


def _as_paths(paths: Path | Sequence[Path]) -> Sequence[Path]:
    return [paths] if isinstance(paths, Path) else paths


def _read(path: Path, cases: Sequence[str]) -> GeneTable:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ManifestError(f"Cannot read the gene table {path}: {error.strerror or error}. Check the path.") from None
    rows, columns, values = _read_parquet(path) if head == b"PAR1" else _read_text(path)
    down, across = _find_cases(rows, cases), _find_cases(columns, cases)
    if not down and not across:
        told = f"Rows are called {_some(rows)}, columns {_some(columns)}; a case is called {cases[0]!r}."
        raise ManifestError(f"{path.name}: neither rows nor columns are cases of the case table. {told}")
    if len(across) > len(down):
        rows, columns, values, down = columns, rows, values.T, across
    repeated = _repeated(columns)
    if repeated:
        raise ManifestError(f"{path.name}: gene {repeated!r} stands twice. Keep one, or take their mean.")
    others = len(rows) - len(down)
    notes = [f"{path.name}: {others} of its {len(rows)} samples are not taken."] if others else []
    names = sorted(down)
    return GeneTable(
        tuple(names), tuple(columns), np.ascontiguousarray(values[[down[each] for each in names]]), tuple(notes)
    )


def _find_cases(ids: Sequence[str], cases: Sequence[str]) -> dict[str, int]:
    """Case -> place of its sample."""
    known = set(cases)
    found: dict[str, int] = {}
    for place, name in sorted(enumerate(ids), key=lambda each: each[1]):
        if name in known:
            if name in found and ids[found[name]] == name:
                raise ManifestError(f"the gene table names case {name!r} twice. Keep one of them.")
            found[name] = place
    for place, name in sorted(enumerate(ids), key=lambda each: each[1]):
        parts = name.replace(".", "-").split("-")
        if len(parts) > 3 and parts[0].upper() == "TCGA" and "01" <= parts[3][:2] <= "09":
            case = "-".join(parts[:3])
            if case in known:
                found.setdefault(case, place)
    return found


def _read_parquet(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    try:
        from pyarrow import ArrowException, types
        from pyarrow.parquet import read_table as read
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Reading a Parquet gene table") from None
    try:
        table = read(path)
    except (ArrowException, OSError) as error:
        raise ManifestError(f"{path.name}: is no sound Parquet file ({' '.join(str(error).split())[:200]}).") from None
    words = [each.name for each in table.schema if types.is_string(each.type) or types.is_large_string(each.type)]
    if len(words) != 1:
        raise ManifestError(
            f"{path.name}: one column of text has to name the rows; found {', '.join(words) or 'none'}. "
            "Write the table with its index as a column."
        )
    numbers = [name for name in table.column_names if name != words[0]]
    try:
        columns = [table.column(name).to_numpy(zero_copy_only=False).astype(np.float32) for name in numbers]
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{path.name}: a column is no number ({error}).") from None
    rows = [str(each) for each in table.column(words[0]).to_pylist()]
    return rows, numbers, np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), np.float32)


def _read_text(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        mark = max(DELIMITERS, key=first.count)
        head = [each.strip() for each in next(csv.reader([first], delimiter=mark), [])]
        reader = csv.reader(file, delimiter=mark)
        rows: list[str] = []
        values: list[np.ndarray] = []
        for cells in reader:
            if not any(cells):
                continue
            columns = head[1:] if len(cells) == len(head) else head  # R leaves the corner out
            if len(cells) != len(columns) + 1:
                raise ManifestError(
                    f"{path.name}: line {reader.line_num + 1} has {len(cells)} cells, the header {len(head)}. Mend the table."
                )
            rows.append(cells[0].strip())
            values.append(_numbers(cells[1:], f"{path.name}: line {reader.line_num + 1}"))
    if not rows or len(values[0]) == 0:
        raise ManifestError(
            f"{path.name}: the gene table is empty. It needs a header and a line for each case or gene."
        )
    return rows, columns, np.stack(values)


def _numbers(cells: Sequence[str], where: str) -> np.ndarray:
    try:
        return np.array(cells, np.float32)
    except ValueError:
        pass
    found = np.empty(len(cells), np.float32)
    for place, cell in enumerate(cells):
        said = cell.strip()
        try:
            found[place] = np.nan if said.lower() in MISSING_LABELS else float(said)
        except ValueError:
            raise ManifestError(f"{where}: {said!r} is no expression. Mend it, or leave the cell empty.") from None
    return found


def _repeated(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:2])) + (", ..." if len(names) > 2 else "")
