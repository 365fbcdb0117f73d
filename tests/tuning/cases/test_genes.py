"""Gene tables lie either way round; their scale is that of the training cases alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.tuning.cases.genes import GeneTable, read_genes
from pathotune_pipeline.tuning.cases.scale import ClinicalScale, GeneScale, gene_rows
from pathotune_pipeline.tuning.cases.table import Case
from tests.tuning.cases.conftest import write

VALUES = np.array([[1.5, -2.0, 3.0], [0.25, 4.0, 7.0]], np.float32)


def test_cases_by_genes_genes_by_cases_and_parquet_are_one_table(tmp_path: Path) -> None:
    down = write(tmp_path / "down.csv", ",X,Y,Z", "b,0.25,4,7", "a,1.5,-2,3")
    across = write(tmp_path / "across.tsv", "gene\tb\ta", "X\t0.25\t1.5", "Y\t4\t-2", "Z\t7\t3")
    bare = write(tmp_path / "r.tsv", "b\ta", "X\t0.25\t1.5", "Y\t4\t-2", "Z\t7\t3")  # as R writes it
    paths = [down, across, bare]
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    columns = {"X": [0.25, 1.5], "case": ["b", "a"], "Y": [4, -2], "Z": [7.0, 3.0]}
    write_table(pyarrow.table(columns), tmp_path / "genes.parquet")
    for path in [*paths, tmp_path / "genes.parquet"]:
        table = read_genes(path, ["a", "b"])
        assert (table.cases, table.genes) == (("a", "b"), ("X", "Y", "Z"))
        np.testing.assert_array_equal(table.values, VALUES)


def test_empty_cells_are_unknown_and_other_words_are_refused(tmp_path: Path) -> None:
    table = read_genes(write(tmp_path / "g.csv", "id,X,Y", "a,1,NA", "b,,2"), ["a", "b", "c"])
    np.testing.assert_array_equal(table.values, [[1, np.nan], [np.nan, 2]])
    assert any("1 of 3 cases are in no gene table" in note for note in table.notes)
    with pytest.raises(ManifestError, match=r"line 3: 'high' is no expression"):
        read_genes(write(tmp_path / "h.csv", "id,X,Y", "a,1,2", "b,high,2"), ["a", "b"])


def test_a_tumour_sample_stands_for_its_case(tmp_path: Path) -> None:
    samples = ["TCGA-AA-0001-11A", "TCGA-AA-0001-02A", "TCGA-AA-0001-01B", "TCGA-AA-0002-11A"]
    path = write(tmp_path / "x.tsv", "gene\t" + "\t".join(samples), "X\t1\t2\t3\t4")
    table = read_genes(path, ["TCGA-AA-0001", "TCGA-AA-0002"])
    assert table.cases == ("TCGA-AA-0001",)
    assert table.values.tolist() == [[3.0]]


def test_tables_of_cohorts_share_their_genes(tmp_path: Path) -> None:
    one = write(tmp_path / "1.csv", "id,X,Y", "a,1,2")
    two = write(tmp_path / "2.csv", "id,Y,Z,X", "b,3,4,5")
    table = read_genes([one, two], ["a", "b"])
    assert table.genes == ("X", "Y")
    np.testing.assert_array_equal(table.values, [[1, 2], [5, 3]])
    with pytest.raises(ManifestError, match="stands in two gene tables"):
        read_genes([one, one], ["a"])


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["id,X", "q,1"], "neither rows nor columns are cases"),
        (["id,X,X", "a,1,2"], "gene 'X' stands twice"),
        (["id,X", "a,1", "a,2"], "names case 'a' twice"),
        (["id,X,Y", "a,1"], "line 2 has 2 cells"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    with pytest.raises(ManifestError, match=told):
        read_genes(write(tmp_path / "g.csv", *lines), ["a", "b"])


def table_of(values: np.ndarray) -> GeneTable:
    return GeneTable(tuple(f"c{n}" for n in range(len(values))), tuple("XYZ"), values.astype(np.float32))


def test_the_scale_is_that_of_the_training_cases_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, (20, 3))
    values[:12, 2] = 4.0  # constant among those that train
    train = [f"c{n}" for n in range(12)]
    scale = GeneScale.fit(table_of(values), train)
    assert (scale.genes, scale.constant, scale.cases) == (("X", "Y"), 1, 12)
    np.testing.assert_allclose(scale.mean, values[:12, :2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scale.std, values[:12, :2].std(axis=0), rtol=1e-6)
    changed = values.copy()
    changed[12:] = rng.normal(-100, 50, (8, 3))
    other = GeneScale.fit(table_of(changed), train)
    np.testing.assert_array_equal(other.mean, scale.mean)
    np.testing.assert_array_equal(other.std, scale.std)
    changed[0] += 1
    assert not np.array_equal(GeneScale.fit(table_of(changed), train).mean, scale.mean)
    mean, std = scale.of(["Y", "X"])
    np.testing.assert_array_equal([mean, std], [scale.mean[::-1], scale.std[::-1]])
    with pytest.raises(UsageError, match="None of the 1 training cases"):
        GeneScale.fit(table_of(values), ["nobody"])


def test_unknown_values_do_not_count_in_the_scale() -> None:
    values = np.array([[1.0, 2, 0], [np.nan, 4, 1], [3, 6, 2]])
    scale = GeneScale.fit(table_of(values), ["c0", "c1", "c2"])
    np.testing.assert_allclose(scale.mean, [2, 4, 1])
    np.testing.assert_allclose(scale.std, [1, np.sqrt(8 / 3), np.sqrt(2 / 3)])


def test_a_later_table_may_lie_otherwise_and_lacks_no_gene_unless_that_is_allowed() -> None:
    table = table_of(np.arange(6).reshape(2, 3))
    rows = gene_rows(table, ["Z", "X"])
    np.testing.assert_array_equal(rows["c1"], [5, 3])
    with pytest.raises(ManifestError, match=r"lacks 1 of the 4 genes.*'W'.*--max-missing-genes"):
        gene_rows(table, ["X", "W", "Y", "Z"])
    np.testing.assert_array_equal(gene_rows(table, ["X", "W", "Y", "Z"], max_missing=0.25)["c0"], [0, np.nan, 1, 2])


def clinical(**fields: str) -> Case:
    return Case("c", "all", fields=fields)


def test_clinical_columns_are_numbers_or_levels_and_missing_is_told() -> None:
    train = [clinical(age="40", stage="I"), clinical(age="60", stage="II"), clinical(stage="NA")]
    scale = ClinicalScale.fit(train, ("age", "stage"))
    assert scale.names == ("age", "stage=I", "stage=II")
    np.testing.assert_array_equal(scale.scale, [[50, 0, 0], [10, 1, 1]])
    np.testing.assert_array_equal(scale.values(clinical(age="70", stage="II")), [70, 0, 1])
    np.testing.assert_array_equal(scale.values(clinical(stage="IV")), [np.nan, 0, 0])
    np.testing.assert_array_equal(scale.values(clinical()), [np.nan] * 3)
    assert ClinicalScale.of(scale.told()) == scale
    with pytest.raises(ManifestError, match="'age' holds 'old'"):
        scale.values(clinical(age="old"))
    with pytest.raises(ManifestError, match="no training case has a value"):
        ClinicalScale.fit(train, ("sex",))
