"""Gene sets: which genes belong to which pathway, from GMT files, 0/1 matrices and lists in columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathotune_pipeline.errors import ManifestError


@dataclass(frozen=True, eq=False)
class PathwayTable:
    """Genes, and the pathways they belong to.

    Attributes:
        genes: names, each once; those of at least one pathway. A network's genes stand in this order.
        pathways: names, each once.
        members: for each pathway int64 [k], the numbers of its genes, rising; none is empty.
    """

    genes: tuple[str, ...]
    pathways: tuple[str, ...]
    members: tuple[np.ndarray, ...]

    @classmethod
    def of_sets(cls, sets: Mapping[str, Sequence[str]], where: str = "pathways") -> PathwayTable:
        """The table of named gene sets; a gene named twice in a set counts once, and empty sets are left out.

        Args:
            sets: pathway -> its genes.
            where: what the sets come from, for the message.

        Raises:
            ManifestError: no set has a gene.
        """
        filled = {name: list(dict.fromkeys(genes)) for name, genes in sets.items() if genes}
        if not filled:
            raise ManifestError(f"{where}: no pathway with a gene in it was found. Give gene sets.")
        genes = tuple(dict.fromkeys(gene for held in filled.values() for gene in held))
        number = {gene: index for index, gene in enumerate(genes)}
        members = tuple(np.sort(np.array([number[gene] for gene in held], np.int64)) for held in filled.values())
        return cls(genes, tuple(filled), members)

    def restricted_to(self, genes: Sequence[str], *, min_genes: int = 1) -> PathwayTable:
        """The table with the genes that an expression table has; a pathway with fewer than `min_genes` of them is left out.

        Raises:
            ManifestError: nothing is left.
        """
        known = set(genes)
        kept = {}
        for name, held in zip(self.pathways, self.members, strict=True):
            there = [self.genes[number] for number in held if self.genes[number] in known]
            if len(there) >= max(1, min_genes):
                kept[name] = there
        if not kept:
            raise ManifestError(
                f"pathways: none of the {len(self.pathways)} pathways has {max(1, min_genes)} or more of the expression "
                f"table's {len(known)} genes: the pathways name {_some(self.genes)}, the table {_some(genes)}. Give both "
                "in the same nomenclature, such as HGNC symbols."
            )
        return PathwayTable.of_sets(kept)

    def columns_in(self, genes: Sequence[str]) -> np.ndarray:
        """Where this table's genes stand among an expression table's: int64 [G].

        Raises:
            ManifestError: a gene is not among them, or stands there twice.
        """
        number: dict[str, int] = {}
        for index, gene in enumerate(genes):
            if number.setdefault(gene, index) != index:
                raise ManifestError(f"gene table: {gene} stands there twice. Keep one of them.")
        absent = [gene for gene in self.genes if gene not in number]
        if absent:
            raise ManifestError(
                f"gene table: {len(absent)} of the {len(self.genes)} genes are absent, such as {_some(absent)}. Give a "
                "table with all genes of the pathways, with empty cells where a value is not known."
            )
        return np.array([number[gene] for gene in self.genes], np.int64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PathwayTable):
            return NotImplemented
        return (self.genes, self.pathways) == (other.genes, other.pathways) and all(
            np.array_equal(one, two) for one, two in zip(self.members, other.members, strict=True)
        )


def read_pathways(path: Path) -> PathwayTable:
    """Gene sets from a file.

    Args:
        path: `.gmt` (a line a pathway: name, description, genes, apart by tabs); or `.csv` / `.tsv`, either a matrix (a
            row a gene, its name first; a column a pathway; cells 0 or 1) or lists (a column a pathway, its genes below).

    Raises:
        ManifestError: it cannot be read, or names a pathway or a matrix's gene twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(
            f"pathways {path}: cannot be read ({error.strerror or error}). Give a .gmt, .csv or .tsv file."
        ) from None
    except UnicodeDecodeError:
        raise ManifestError(f"pathways {path}: is no text. Give a .gmt, .csv or .tsv file.") from None
    where = f"pathways {path.name}"
    if path.suffix.lower() == ".gmt":
        return PathwayTable.of_sets(_gmt(text, where), where)
    rows = [
        row for row in csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",") if row
    ]
    if len(rows) < 2:
        raise ManifestError(f"{where}: a header and at least one row are needed; {len(rows)} lines were found.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise ManifestError(
                f"{where}: line {number} has {len(row)} cells and the header {len(rows[0])}. Mend the table."
            )
    first = [cell for cell in rows[1][1:] if cell.strip()]
    is_matrix = bool(first) and all(_is_number(cell) for cell in first)
    return PathwayTable.of_sets(_matrix(rows, where) if is_matrix else _lists(rows, where), where)


def _gmt(text: str, where: str) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = (cell.strip() for cell in line.split("\t"))
        if not name or not rest:
            raise ManifestError(
                f"{where}: line {number} is not a name, a description and genes with tabs between. Mend it."
            )
        _put(sets, name, [gene for gene in rest[1:] if gene], where)
    return sets


def _matrix(rows: list[list[str]], where: str) -> dict[str, list[str]]:
    genes = [row[0].strip() for row in rows[1:]]
    if len(set(genes)) != len(genes) or "" in genes:
        twice = next(gene or "an empty name" for gene in genes if not gene or genes.count(gene) > 1)
        raise ManifestError(f"{where}: {twice} stands in more than one row, or names none. Give each gene one row.")
    try:
        cells = np.array([row[1:] for row in rows[1:]]).astype(float)
    except ValueError as error:
        raise ManifestError(f"{where}: a cell is no number ({error}). Write 1 for a member, else 0.") from None
    if not np.isin(cells, (0, 1)).all():
        odd = float(cells[~np.isin(cells, (0, 1))][0])
        raise ManifestError(
            f"{where}: a cell is {odd:g}; a gene is a member (1) or not (0), and weights have no use here."
        )
    sets: dict[str, list[str]] = {}
    for column, name in enumerate(rows[0][1:]):
        _put(sets, name.strip(), [genes[index] for index in np.flatnonzero(cells[:, column])], where)
    return sets


def _lists(rows: list[list[str]], where: str) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for column, name in enumerate(rows[0]):
        _put(sets, name.strip(), [row[column].strip() for row in rows[1:] if row[column].strip()], where)
    return sets


def _put(sets: dict[str, list[str]], name: str, genes: list[str], where: str) -> None:
    if not name:
        raise ManifestError(f"{where}: a pathway has no name. Give each one.")
    if name in sets:
        raise ManifestError(f"{where}: pathway {name} stands there twice. Give each one name of its own.")
    sets[name] = genes


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
