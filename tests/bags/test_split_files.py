from __future__ import annotations

import json
from pathlib import Path

import pytest

from pathotune_pipeline.bags.split_files import SplitFile, read_splits
from pathotune_pipeline.bags.split_matching import match_splits
from pathotune_pipeline.errors import ManifestError, PathotuneError

GROUPS = {f"a%2Fs{n}{part}.svs": f"P{n}" for n in range(6) for part in ("", "b")}
"""Six patients with two slides each."""
ONE_FOLD = {"train": ("s0", "s0b", "s1"), "val": ("s2",), "test": ("s3",)}
MEANT = {"train": ("a%2Fs0.svs", "a%2Fs0b.svs", "a%2Fs1.svs"), "val": ("a%2Fs2.svs",), "test": ("a%2Fs3.svs",)}
BY_PATIENT = {"train": ("P0", "P1"), "val": ("P2",), "test": ("P3",)}

PARTS_AS_COLUMNS = ",train,val,test\n0,s0,s2,s3\n1,s0b,,\n2,s1,,\n"
LAYOUTS = {
    "CLAM": ("splits_0.csv", PARTS_AS_COLUMNS),
    "CLAM's bools": (
        "splits_0_bool.csv",
        ",train,val,test\ns0,True,False,False\ns0b,True,False,False\ns1,True,False,False\n"
        "s2,False,True,False\ns3,False,False,True\n",
    ),
    "TransMIL": (
        "fold0.csv",
        ",train,train_label,val,val_label,test,test_label\n0,s0,1.0,s2,0.0,s3,1.0\n1,s0b,0.0,,,,\n2,s1,0,,,,\n",
    ),
    "Patho-Bench": (
        "k=all.tsv",
        "case_id\tslide_id\tgrade\tfold_0\nP0\ts0\tx\ttrain\nP0\ts0b\tx\ttrain\nP1\ts1\tx\ttrain\nP2\ts2\tx\tval\n"
        "P3\ts3\tx\ttest\nP4\ts4\tx\t\n",
    ),
    "a row each": ("mine.csv", "id;split\ns0;Training\ns0b;train\ns1;train\ns2;validation\ns3.svs;TEST\n"),
    "our own": (
        "splits.csv",
        "seed,fold,part,slide_id\n0,0,train,a%2Fs0.svs\n0,0,train,a%2Fs0b.svs\n0,0,train,a%2Fs1.svs\n"
        "0,0,val,a%2Fs2.svs\n0,0,test,a%2Fs3.svs\n",
    ),
}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def read(folder: Path, text: str, name: str = "mine.csv") -> SplitFile:
    return read_splits(write(folder, name, text))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_means_the_same_slides(layout, tmp_path):
    file = write(tmp_path, *LAYOUTS[layout])
    for path in (file, tmp_path) if layout not in ("a row each",) else (file,):
        (fold,), notes = match_splits(read_splits(path), GROUPS)
        assert fold.parts == MEANT
        assert (fold.seed, fold.fold) == (0 if layout == "our own" else None, 0)
        assert any("7 slides of the cohort are in no part" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("splits_0.csv", ",train,val,test\n0,P0,P2,P3\n1,P1,,\n"),
        ("mine.csv", "case_id,split\nP0,train\nP1,train\nP2,val\nP3,test\n"),
        ("splits.json", json.dumps({"splits": [{f"{part}_patients": ids for part, ids in BY_PATIENT.items()}]})),
        ("x.csv", "case_id,slide_id,fold_0\nP0,old0,train\nP1,old1,train\nP2,old2,val\nP3,old3,test\n"),
    ],
)
def test_patients_stand_for_all_of_their_slides(name, text, tmp_path):
    (fold,), _ = match_splits(read(tmp_path, text, name), GROUPS)
    assert fold.parts["train"] == ("a%2Fs0.svs", "a%2Fs0b.svs", "a%2Fs1.svs", "a%2Fs1b.svs")
    assert fold.parts["test"] == ("a%2Fs3.svs", "a%2Fs3b.svs")


def test_a_slide_called_like_its_patient_does_not_hide_the_patients_other_slides(tmp_path):
    groups = {"P0.svs": "P0", "P0-2.svs": "P0", "P1.svs": "P1", "P2.svs": "P2"}
    (fold,), _ = match_splits(read(tmp_path, ",train,val,test\n0,P0,P1,P2\n", "splits_0.csv"), groups)
    assert fold.parts["train"] == ("P0-2.svs", "P0.svs")


def test_a_folder_of_folds_is_read_in_order_and_summaries_are_not_read(tmp_path):
    for fold in (0, 1, 10, 2):
        write(tmp_path, f"splits_{fold}.csv", f",train,val,test\n0,s{(fold + 1) % 6},s{(fold + 2) % 6},s{fold % 6}\n")
        write(tmp_path, f"splits_{fold}_bool.csv", "nonsense\n")
        write(tmp_path, f"splits_{fold}_descriptor.csv", ",train,val,test\nx,1,1,1\n")
    folds, _ = match_splits(read_splits(tmp_path), GROUPS)
    assert [fold.fold for fold in folds] == [0, 1, 2, 10]
    assert [fold.parts["test"][0] for fold in folds] == [f"a%2Fs{n}.svs" for n in (0, 1, 2, 4)]


def test_a_table_of_test_folds_and_repetitions_by_seed(tmp_path):
    rows = "".join(f"P{n},{n % 3}\n" for n in range(6))
    folds, notes = match_splits(read(tmp_path, "case_id,fold\n" + rows), GROUPS)
    assert [len(fold.parts["test"]) for fold in folds] == [4, 4, 4]
    assert [len(fold.parts["train"]) for fold in folds] == [8, 8, 8]
    assert notes == []
    told = "".join(f"{seed},{fold},{part},s{n}\n" for seed in (4, 3) for fold in (0, 1) for n, part in enumerate(
        ("train", "val", "test")
    ))  # fmt: skip
    folds, _ = match_splits(read(tmp_path, "seed,fold,split,slide\n" + told), GROUPS)
    assert [(fold.seed, fold.fold) for fold in folds] == [(3, 0), (3, 1), (4, 0), (4, 1)]


def test_without_a_test_part_val_is_tested(tmp_path):
    (fold,), notes = match_splits(read(tmp_path, ",train,val\n0,P0,P3\n1,P1,\n", "splits_0.csv"), GROUPS)
    assert fold.parts["val"] == ()
    assert fold.parts["test"] == ("a%2Fs3.svs", "a%2Fs3b.svs")
    assert "its val part is tested" in notes[0]


def test_published_survpath_splits(shared):
    folder = shared / "data" / "cohort" / "splits_blca"
    splits = read_splits(folder)
    assert len(splits.folds) == 5
    cases = sorted({name for fold in splits.folds for part in fold.parts.values() for name in part})
    folds, _ = match_splits(splits, {f"{case}-01Z-00-DX1.svs": case for case in cases})
    tested = [slide for fold in folds for slide in fold.parts["test"]]
    assert len(tested) == len(set(tested)) == len(cases)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("splits_0.csv", ",train,val,test\n0,s1,s2,s3\n1,s0,,s0\n", "fold 0.*patient 's0' is in both train and test"),
        ("splits_0.csv", ",train,val,test\n0,s0,s1,s0b\n", "patient 'P0' is in both train and test"),
        ("a.csv", "case_id,slide_id,fold_3\nQ,x,train\nQ,y,test\nP1,s1,train\n", "fold 3.*'Q' is in both train and te"),
        ("splits.csv", "seed,fold,part,slide_id\n1,2,val,s0\n1,2,test,s0b\n1,2,train,s1\n", "fold 2.*'P0' is in both"),
        ("splits.json", '{"splits": [{"train_patients": ["P0", "P1"], "test_patients": ["P1"]}]}', "patient 'P1'"),
    ],
)
def test_a_patient_in_two_parts_is_refused_by_name(name, text, message, tmp_path):
    with pytest.raises(PathotuneError, match=message):
        match_splits(read(tmp_path, text, name), GROUPS)


def test_ids_that_fit_nothing_are_counted(tmp_path):
    text = PARTS_AS_COLUMNS + "3,x1,x2,x3\n4,x4,,\n"
    _, notes = match_splits(read(tmp_path, text, "splits_0.csv"), GROUPS)
    assert notes[0] == "4 ids of splits_0.csv are not in the cohort (x1, x4, x2, ...)."


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "slide,grade\ns0,x\n", "no split file of a known layout. Columns found: slide, grade.*CLAM"),
        ("a.csv", "split,fold\ntrain,0\n", "Columns found: split, fold"),
        ("a.csv", "slide,split\ns0,trian\n", "a part is called 'trian'"),
        ("a.csv", "slide,split,fold\ns0,train,one\n", "a fold or seed is 'one'"),
        ("a.csv", "slide,split\ns0,test\n", "no fold has anything to train with"),
        ("a.csv", "slide,fold\ns0,1\n", "names 1 test folds"),
        ("a.json", "[]", "no splits.json as STAMP writes it"),
        ("a.csv", "slide,split\nq0,train\nq1,test\n", "none of its 2 ids is in the cohort.*called 'a%2Fs0.svs'"),
        ("a.csv", "slide,split\ns0,train\nq1,test\n", "no slide of the cohort is in its test part .the file names 1"),
    ],
)
def test_what_is_no_split_says_what_was_found(name, text, message, tmp_path):
    with pytest.raises(ManifestError, match=message):
        match_splits(read(tmp_path, text, name), GROUPS)


def test_a_folder_or_path_without_splits(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        read_splits(tmp_path / "absent")
    write(tmp_path, "notes.txt", "")
    with pytest.raises(ManifestError, match=r"it holds notes\.txt; expected splits_0\.csv"):
        read_splits(tmp_path)
