from __future__ import annotations

import pytest

from pathotune_pipeline.bags.labels import join_labels, read_table
from pathotune_pipeline.errors import ManifestError

SLIDES = ["sub%2FA-01.svs", "sub%2FB-02.svs", "C.ome.tif"]


def rows(*names: str, column: str = "slide_id", **more: str) -> list[dict[str, str]]:
    return [{column: name, "label": f"l{i}", **more} for i, name in enumerate(names)]


@pytest.mark.parametrize(
    "text",
    [
        "slide_id,case_id,label\nA,007,x\n",
        "\ufeffslide_id;case_id;label\r\nA;007;x\r\n\r\n",
        "slide_id\tcase_id\tlabel\nA\t007\tx\n",
    ],
)
def test_tables_as_people_write_them(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    assert read_table(path) == [{"slide_id": "A", "case_id": "007", "label": "x"}]


@pytest.mark.parametrize(("text", "said"), [("a,b,a\n1,2,3\n", "twice"), ("", "empty"), ("a,b\n", "no rows")])
def test_tables_that_cannot_be_used(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ManifestError, match=said):
        read_table(path)


@pytest.mark.parametrize(
    "names",
    [
        ["sub%2FA-01.svs", "sub%2FB-02.svs", "C.ome.tif"],
        ["sub/A-01.svs", "./sub/B-02.svs", "C.ome.tif"],
        ["sub\\A-01.svs", "sub/B-02", "C"],
        ["A-01.svs", "B-02", "C"],
        ["A-01.h5", "sub/B-02.h5", "C.h5"],
        ["/data/slides/sub/A-01.svs", "D:\\x\\sub\\B-02.svs", "/C.ome.tif"],
    ],
)
def test_every_way_to_name_a_slide(names):
    joined = join_labels(SLIDES, rows(*names), target="label")
    assert {slide: row.label for slide, row in joined.labels.items()} == dict(
        zip(SLIDES, ["l0", "l1", "l2"], strict=True)
    )
    assert not joined.slides_without_row
    assert not joined.rows_without_slide


def test_stamp_columns_and_patients():
    table = [{"PATIENT": "007", "FILENAME": "A-01.h5", "label": "x"}]
    joined = join_labels(SLIDES, table, target="label")
    assert joined.labels["sub%2FA-01.svs"].case_id == "007"
    assert joined.slides_without_row == ("C.ome.tif", "sub%2FB-02.svs")
    assert joined.notes == ()


def test_without_a_patient_column_each_slide_is_its_own_and_that_is_said():
    joined = join_labels(SLIDES, rows("A-01", "other"), target="label")
    assert joined.labels["sub%2FA-01.svs"].case_id == "sub%2FA-01.svs"
    assert joined.rows_without_slide == ("other",)
    assert "patient of its own" in joined.notes[0]


def test_missing_labels_and_mixed_patients_are_noted():
    table = [
        {"slide": "A-01", "patient": "p", "label": "x"},
        {"slide": "B-02", "patient": "p", "label": "y"},
        {"slide": "C", "patient": "q", "label": "NA"},
    ]
    joined = join_labels(SLIDES, table, target="label")
    assert joined.slides_without_row == ("C.ome.tif",)
    assert len(joined.notes) == 2


def test_one_name_for_two_slides_is_refused():
    with pytest.raises(ManifestError, match=r"a%2FX.svs and b%2FX.svs"):
        join_labels(["a%2FX.svs", "b%2FX.svs"], rows("X"), target="label")


def test_two_rows_that_disagree_are_refused_and_equal_ones_are_not():
    with pytest.raises(ManifestError, match=r"'A-01.svs'.*'l0'.*'A-01.h5'.*'l1'"):
        join_labels(SLIDES, rows("A-01.svs", "A-01.h5"), target="label")
    same = [{"slide": "A-01", "label": "x"}, {"slide": "A-01.svs", "label": "x"}]
    assert len(join_labels(SLIDES, same, target="label").labels) == 1


def test_nothing_joins_shows_both_sides():
    with pytest.raises(ManifestError, match=r"'C.ome.tif'.*'zzz'"):
        join_labels(SLIDES, rows("zzz"), target="label")


def test_missing_columns():
    with pytest.raises(ManifestError, match="Did you mean 'label'"):
        join_labels(SLIDES, rows("A-01"), target="lable")
    with pytest.raises(ManifestError, match="names the slide"):
        join_labels(SLIDES, rows("A-01", column="thing"), target="label")
