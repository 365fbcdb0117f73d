"""Case tables: rows of a case are put together, and what does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.tuning.cases.parts import part_cases
from pathotune_pipeline.tuning.cases.spec import CaseSpec
from pathotune_pipeline.tuning.cases.table import CaseTable, read_cases
from tests.tuning.cases.conftest import write

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cohort"


def small(tmp_path: Path, *rows: str, header: str = "case_id,slide_id,cohort,subtype,months,event,split") -> CaseTable:
    return read_cases(write(tmp_path / "cases.csv", header, *rows), CaseSpec(time="months"))


def test_rows_of_a_case_become_one_case_with_its_slides_in_order(tmp_path: Path) -> None:
    table = small(tmp_path, "b,s2,x,A,3,1,train", "b,s1,x,A,3,1,train", "a,,y,-1,4,0,", "c,s3;s4,y,,,,test")
    assert table.ids == ("a", "b", "c")
    assert [case.slides for case in table.cases] == [(), ("s1", "s2"), ("s3", "s4")]
    assert [case.label for case in table.cases] == [None, "A", None]
    assert [case.survival for case in table.cases] == [(4.0, False), (3.0, True), None]
    assert [case.part for case in table.cases] == ["", "train", "test"]
    assert any("1 cases are in no part" in note for note in table.notes)


def test_a_column_of_censoring_is_read_the_other_way_round(tmp_path: Path) -> None:
    table = small(
        tmp_path, "a,s,x,A,3,1,", "b,t,x,A,5,0,", header="case_id,slide_id,cohort,subtype,months,censorship,split"
    )
    assert [case.survival for case in table.cases] == [(3.0, False), (5.0, True)]
    assert any("1 = censored" in note for note in table.notes)


def test_a_wanted_column_that_contradicts_itself_is_refused_and_an_unwanted_one_is_no_field(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "case_id,slide_id,scanner,age", "a,s1,one,50", "a,s2,two,51")
    table = read_cases(path)
    assert table.cases[0].field("scanner") is None
    with pytest.raises(ManifestError, match="'age' contradicts itself: case 'a' has '50' and '51'"):
        read_cases(path, CaseSpec(clinical=("age",)))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a,s,x,A,3,2,"], "event's cell says '2'"),
        (["a,s,x,A,-3,1,"], "times are 0 or more"),
        (["a,s,x,A,soon,1,"], "'soon' is no number"),
        (["a,s,x,A,3,1,both"], "its part is 'both'"),
    ],
)
def test_cells_that_say_nonsense_are_refused_with_their_case(tmp_path: Path, rows: list[str], told: str) -> None:
    with pytest.raises(ManifestError, match="case 'a'") as error:
        small(tmp_path, *rows)
    assert told in str(error.value)


def test_wrong_columns_are_told_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", "case_id,subtype,os_months", "a,A,3")
    with pytest.raises(ManifestError, match=r"no column 'subtyp'.*subtype"):
        read_cases(path, CaseSpec(label="subtyp"))
    with pytest.raises(ManifestError, match=r"no column of events.*--event"):
        read_cases(path)
    with pytest.raises(ManifestError, match=r"no column names the case"):
        read_cases(write(tmp_path / "d.csv", "who,age", "a,3"))


def test_several_tables_are_joined_by_case(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", "case_id,cohort,age", "a,x,50")
    two = write(tmp_path / "b.csv", "case_id,cohort,age", "b,y,60")
    more = write(tmp_path / "c.csv", ",case_id,stage", "0,b,II", "1,a,III")
    table = read_cases([one, two, more])
    assert [(case.cohort, case.field("age"), case.field("STAGE")) for case in table.cases] == [
        ("x", "50", "III"),
        ("y", "60", "II"),
    ]


def test_an_unknown_case_is_named(tmp_path: Path) -> None:
    table = small(tmp_path, "a1,s,x,A,3,1,")
    with pytest.raises(ManifestError, match="no case 'a2'"):
        table.only(["a2"])


def draw_table(tmp_path: Path, parts: str = "") -> CaseTable:
    rows = [f"c{n:03d},s{n},{'xyz'[n % 3]},{'AB'[n // 3 % 2]},{n + 1},{n // 6 % 2},{parts}" for n in range(120)]
    return small(tmp_path, *rows)


def test_drawn_parts_are_disjoint_even_and_do_not_hang_on_the_order(tmp_path: Path) -> None:
    table = draw_table(tmp_path)
    parts = part_cases(table, CaseSpec())
    assert parts.drawn
    assert len(parts.train) + len(parts.val) + len(parts.test) == 120
    assert not set(parts.train) & set(parts.test) | set(parts.val) & set(parts.test) | set(parts.train) & set(parts.val)
    of = {case.case_id: (case.cohort, case.label, case.survival and case.survival[1]) for case in table.cases}
    for part in (parts.train, parts.val, parts.test):
        assert {of[case] for case in part} == set(of.values())
    turned = CaseTable(table.cases[::-1], table.columns, table.name)
    assert part_cases(turned, CaseSpec()) == parts
    assert part_cases(table, CaseSpec(split_seed=1)).test != parts.test


def test_a_cohort_held_out_is_in_no_part_of_the_network(tmp_path: Path) -> None:
    table = draw_table(tmp_path)
    parts = part_cases(table, CaseSpec(hold_out=("z",)))
    seen = {case for part in (parts.train, parts.val, parts.test) for case in part}
    outside = {case.case_id for case in table.cases if case.cohort == "z"}
    assert not seen & outside
    assert {case for part in parts.unseen.values() for case in part} == outside
    assert set(parts.of_case()) == set(table.ids)
    with pytest.raises(UsageError, match=r"no such cohort.*Known: x, y, z"):
        part_cases(table, CaseSpec(hold_out=("w",)))


def test_given_parts_are_taken_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="none to choose the epoch with"):
        part_cases(draw_table(tmp_path, "train"), CaseSpec())


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/cohort is not here")
def test_published_tables_are_read_as_they_are() -> None:
    tables = [SHARED / "metadata" / "tcga_blca.csv", SHARED / "clinical_data" / "tcga_blca_clinical.csv"]
    table = read_cases(tables, CaseSpec(clinical=("age", "stage", "is_female"), cohort="oncotree_code"))
    assert sum(case.survival is not None for case in table.cases) == 359
    first = table.cases[0]
    assert (first.case_id, first.cohort, first.field("stage")) == ("TCGA-2F-A9KO", "BLCA", "III")
    assert first.survival == pytest.approx((24.4667, True), abs=1e-3)
    assert sum(len(case.slides) for case in table.cases) == 423
