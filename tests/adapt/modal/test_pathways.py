"""Gene sets read from every form they come in, and what becomes of genes that a table lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.adapt.modal.pathways import PathwayTable, read_pathways
from pathotune_pipeline.errors import ManifestError

SETS = {"growth": ["B", "A", "C"], "repair": ["C", "D"]}
FORMS = {
    "sets.gmt": "growth\thttp://x\tB\tA\tC\tA\t\n\nrepair\tna\tC\tD\r\n",
    "sets.csv": ",growth,repair\nB,1,0\nA,1.0,0\nC,1,1\nD,0,1\nE,0,0\n",
    "sets.tsv": "gene\tgrowth\trepair\nB\t1\t0\nA\t1\t0\nC\t1\t1\nD\t0\t1\n",
    "lists.csv": "growth,repair\nB,C\nA,D\nC,\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name])
    table = read_pathways(tmp_path / name)
    assert table == PathwayTable.of_sets(SETS)
    assert table.genes == ("B", "A", "C", "D")
    assert [held.tolist() for held in table.members] == [[0, 1, 2], [2, 3]]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.gmt").write_bytes(b"\xef\xbb\xbfgrowth\tx\tA\n")
    assert read_pathways(tmp_path / "a.gmt").pathways == ("growth",)


def test_a_set_without_genes_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.gmt").write_text("growth\tx\tA\nempty\tx\n")
    assert read_pathways(tmp_path / "a.gmt").pathways == ("growth",)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.gmt", "growth\n", "line 1 is not a name"),
        ("a.gmt", "growth\tx\tA\ngrowth\tx\tB\n", "pathway growth stands there twice"),
        ("a.gmt", "\n", "no pathway with a gene"),
        ("a.csv", ",growth,repair\nA,1,0\nA,0,1\n", "A stands in more than one row"),
        ("a.csv", ",growth\nA,1\nB,0.5\n", "a cell is 0.5"),
        ("a.csv", ",growth\nA,1\nB,yes\n", "a cell is no number"),
        ("a.csv", ",growth,repair\nA,1\n", "line 2 has 2 cells and the header 3"),
        ("a.csv", ",growth,\nA,1,1\n", "a pathway has no name"),
        ("a.csv", ",growth\n", "a header and at least one row"),
        ("a.csv", ",growth\nA,0\n", "no pathway with a gene"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=said):
        read_pathways(tmp_path / name)


def test_what_is_no_text_or_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="is no text"):
        read_pathways(tmp_path / "a.csv")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_pathways(tmp_path / "b.csv")


def test_genes_that_the_expression_lacks_and_pathways_left_without_go() -> None:
    table = PathwayTable.of_sets(SETS)
    left = table.restricted_to(["D", "X", "A"])
    assert left == PathwayTable.of_sets({"growth": ["A"], "repair": ["D"]})
    assert table.restricted_to(["A", "B", "C"], min_genes=2).pathways == ("growth",)
    with pytest.raises(
        ManifestError, match=r"none of the 2 pathways has 1 or more .* name B, A, C, ..., the table b, c"
    ):
        table.restricted_to(["b", "c"])


def test_columns_are_found_in_the_tables_own_order() -> None:
    table = PathwayTable.of_sets(SETS)
    assert np.array_equal(table.columns_in(["X", "D", "C", "B", "A"]), [3, 4, 2, 1])
    with pytest.raises(ManifestError, match=r"2 of the 4 genes are absent, such as C, D"):
        table.columns_in(["A", "B"])
    with pytest.raises(ManifestError, match="A stands there twice"):
        table.columns_in(["A", "B", "C", "D", "A"])


def test_published_tables_are_read_as_they_are(shared: Path) -> None:
    cohort = shared / "data" / "cohort"
    if not cohort.is_dir():
        pytest.skip("../shared/data/cohort is absent")
    matrix = read_pathways(cohort / "pathway_compositions" / "hallmarks_comps.csv")
    lists = read_pathways(cohort / "metadata" / "hallmarks_signatures.csv")
    assert (len(matrix.pathways), len(matrix.genes)) == (50, 4241)
    by_name = [
        {name: {table.genes[gene] for gene in held} for name, held in zip(table.pathways, table.members, strict=True)}
        for table in (matrix, lists)
    ]
    assert by_name[0] == by_name[1]
