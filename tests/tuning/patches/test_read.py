"""Patches from folders and tables: what is listed is what is read, and what is wrong is told before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline import config
from pathotune_pipeline.cli.flags import Parser, add_settings, given
from pathotune_pipeline.errors import ManifestError, SpecError, UsageError
from pathotune_pipeline.tuning.patches import PatchSet, PatchSpec, read_patches

Write = Callable[..., Path]


def read(source: Path, **settings: object) -> PatchSet:
    return read_patches(PatchSpec.parse({"source": source, **settings}))


def reds(patches: PatchSet) -> list[int]:
    return patches.images[:, 0, 0, 0].tolist()


@pytest.fixture
def folders(tmp_path: Path, write_image: Write) -> Path:
    """Two classes, in one of them a folder more; a hidden file and a text."""
    for number, name in enumerate(["b/one.png", "b/two.jpg", "a/deep/three.png", "a/four.tif"]):
        write_image(tmp_path / "set" / name, 10 * number)
    (tmp_path / "set" / "a" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "set" / "a" / "notes.txt").write_text("x")
    return tmp_path / "set"


def test_class_folders(folders: Path) -> None:
    patches = read(folders)
    assert patches.classes == ("a", "b")
    assert patches.names == ("a/deep/three.png", "a/four.tif", "b/one.png", "b/two.jpg")
    assert patches.labels.tolist() == [0, 0, 1, 1]
    assert reds(patches)[:3] == [20, 30, 0]
    assert patches.images.shape == (4, 8, 8, 3)
    assert patches.splits == patches.groups == ("",) * 4
    assert any("1 .txt" in note for note in patches.notes)
    assert any("No patch has a group" in note for note in patches.notes)


def test_split_folders_and_groups_from_names(tmp_path: Path, write_image: Write) -> None:
    for number, name in enumerate(
        ["training/a/s1_0.png", "training/b/s1_1.png", "valid/a/s2_0.png", "test/b/s3_0.png"]
    ):
        write_image(tmp_path / name, number)
    patches = read(tmp_path, group_pattern=r"/(s\d+)_")
    assert sorted(zip(patches.groups, patches.splits, strict=True)) == [
        ("s1", "train"), ("s1", "train"), ("s2", "val"), ("s3", "test"),
    ]  # fmt: skip
    assert patches.where(split="val").tolist() == [patches.names.index("valid/a/s2_0.png")]
    write_image(tmp_path / "test/a/s1_9.png", 9)
    with pytest.raises(ManifestError, match=r"Leakage: 1 groups .*s1 \(test, train\)"):
        read(tmp_path, group_pattern=r"/(s\d+)_")
    with pytest.raises(ManifestError, match="not found in 5 names"):
        read(tmp_path, group_pattern=r"/(x\d+)_")
    with pytest.raises(SpecError, match="no \\(group\\)"):
        read(tmp_path, group_pattern=r"s\d+")
    with pytest.raises(SpecError, match="no regular expression"):
        read(tmp_path, group_pattern="(")


def test_folders_that_cannot_be_a_set(tmp_path: Path, write_image: Write) -> None:
    with pytest.raises(ManifestError, match="no class folders"):
        read(tmp_path)
    write_image(tmp_path / "a/1.png", 1)
    with pytest.raises(ManifestError, match="all labels are 'a'"):
        read(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(ManifestError, match="'b' holds no image"):
        read(tmp_path)
    with pytest.raises(ManifestError, match="no such file"):
        read(tmp_path / "absent")
    with pytest.raises(ManifestError, match=r"a folder, and patches\.kind is 'table'"):
        read(tmp_path, kind="table")
    with pytest.raises(SpecError, match="--patches"):
        read_patches(PatchSpec())


def test_images_of_other_sizes(tmp_path: Path, write_image: Write) -> None:
    write_image(tmp_path / "a/1.png", 1, (8, 8))
    write_image(tmp_path / "b/2.png", 2, (20, 12))
    with pytest.raises(SpecError, match=r"8 px \(1\), 12 px \(1\)"):
        read(tmp_path)
    patches = read(tmp_path, side_px=10)
    assert patches.images.shape == (2, 10, 10, 3)
    assert reds(patches) == [1, 2]
    assert read_patches(PatchSpec(source=tmp_path), side_px=6).side_px == 6
    assert patches.load(10) is patches
    assert patches.load(5).images.shape == (2, 5, 5, 3)


@pytest.fixture
def table_of(tmp_path: Path, write_image: Write, table: Write) -> Callable[..., Path]:
    """A CSV of images: rows are (number, label, group, domain, split)."""

    def make(*rows: tuple[object, ...], header: str = "Path,Label,Group,Domain,Split") -> Path:
        names = header.split(",")
        listed = []
        for row in rows:
            write_image(tmp_path / f"images/{row[0]}.png", int(str(row[0])))
            listed.append(dict(zip(names, (f"images/{row[0]}.png", *row[1:]), strict=True)))
        return table(tmp_path / "patches.csv", listed)

    return make


ROWS = ((3, "late", "s1", "x", "training"), (1, "early", "s1", "x", "training"), (2, "", "s2", "y", "test"))


def test_a_table_of_images(table_of: Callable[..., Path]) -> None:
    patches = read(table_of(*ROWS))
    assert reds(patches) == [3, 1, 2]
    assert patches.classes == ("early", "late")
    assert patches.labels.tolist() == [1, 0, -1]
    assert patches.groups == ("s1", "s1", "s2")
    assert patches.where(domain="y").tolist() == patches.where(split="test").tolist() == [2]
    assert patches.where(labelled=True).tolist() == [0, 1]
    assert any("1 of 3 patches have no label" in note for note in patches.notes)


def test_columns_may_have_other_names(table_of: Callable[..., Path]) -> None:
    source = table_of(*ROWS, header="image,what,who,tumortype,part")
    with pytest.raises(ManifestError, match="label_column"):
        read(source)
    patches = read(source, label_column="what", group_column="who")
    assert patches.groups == ("s1", "s1", "s2")
    assert patches.domains == ("x", "x", "y")
    assert patches.splits == ("", "", "")
    with pytest.raises(ManifestError, match="Did you mean 'part'"):
        read(source, label_column="what", split_column="prt")


def test_labels_are_renamed_ordered_and_checked(table_of: Callable[..., Path]) -> None:
    source = table_of((1, "1", "a", "", ""), (2, "2", "b", "", ""), (3, "7", "c", "", ""))
    names = {"1": "mitosis", "2": "other"}
    with pytest.raises(ManifestError, match=r"none of the classes mitosis, other: '7' \(1\)"):
        read(source, rename=names, classes=["mitosis", "other"])
    skipped = read(source, rename=names, classes=["other", "mitosis"], other_labels="skip")
    assert skipped.classes == ("other", "mitosis")
    assert skipped.labels.tolist() == [1, 0]
    assert any("skipped: '7' (1)" in note for note in skipped.notes)
    kept = read(source, rename=names, classes=["other", "mitosis"], other_labels="unlabelled")
    assert kept.labels.tolist() == [1, 0, -1]
    with pytest.raises(SpecError, match=r"no patch of patches\.csv has the label 'mitosi'"):
        read(source, rename={"mitosi": "x"})
    with pytest.raises(SpecError, match="'x' is given twice"):
        read(source, classes=["x", "x"])
    assert any("No patch is of class rare" in note for note in read(source, classes=["1", "2", "7", "rare"]).notes)


def test_a_group_in_two_splits_is_refused(table_of: Callable[..., Path]) -> None:
    with pytest.raises(ManifestError, match=r"Leakage: 1 groups are in more than one split: s1 \(test, train\)"):
        read(table_of((1, "a", "s1", "", "train"), (2, "b", "s1", "", "test")))


def test_missing_and_unreadable_files_are_listed_or_skipped(table_of: Callable[..., Path], tmp_path: Path) -> None:
    source = table_of(*((number, "ab"[number % 2], "", "", "") for number in range(9)))
    (tmp_path / "images/4.png").write_bytes(b"no image")
    with pytest.raises(ManifestError, match=r"1 of 9 patches cannot be read: images/4\.png: .*neither PNG"):
        read(source)
    for number in (2, 3):
        (tmp_path / f"images/{number}.png").unlink()
    with pytest.raises(ManifestError, match=r"2 of 9 files are missing: images/2\.png, images/3\.png"):
        read(source)
    patches = read(source, unreadable="skip")
    assert reds(patches) == [0, 1, 5, 6, 7, 8]
    assert patches.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert any("3 of 9 patches could not be read" in note for note in patches.notes)
    for number in range(9):
        (tmp_path / f"images/{number}.png").unlink(missing_ok=True)
    with pytest.raises((ManifestError, SpecError), match="none"):
        read(source, unreadable="skip")
    with pytest.raises(ManifestError, match="none of 9 patches can be read"):
        read(source, unreadable="skip", side_px=8)


def test_tables_that_cannot_be_used(table_of: Callable[..., Path], tmp_path: Path, table: Write) -> None:
    source = table_of((1, "a", "", "", ""), (1, "b", "", "", ""))
    with pytest.raises(ManifestError, match=r"1 patches are listed more than once: images/1\.png"):
        read(source)
    with pytest.raises(ManifestError, match="line 3: column 'path' is empty"):
        read(table(tmp_path / "t.csv", [{"path": "images/1.png", "label": "a"}, {"path": "", "label": "b"}]))
    with pytest.raises(ManifestError, match="Give both x and y"):
        read(table(tmp_path / "t.csv", [{"path": "images/1.png", "label": "a", "x": 3}]))
    with pytest.raises(ManifestError, match="line 2: column 'y' holds 'far'"):
        read(table(tmp_path / "t.csv", [{"path": "images/1.png", "label": "a", "x": 3, "y": "far"}]))
    with pytest.raises(ManifestError, match="none of the columns path"):
        read(table(tmp_path / "t.csv", [{"where": "images/1.png", "label": "a"}]))


def test_patches_without_any_label(table_of: Callable[..., Path]) -> None:
    patches = read(table_of((1, "", "", "", ""), (2, "", "", "", "")))
    assert patches.classes == ()
    assert patches.labels.tolist() == [-1, -1]


def test_settings_come_from_flags_and_files(tmp_path: Path) -> None:
    parser = Parser()
    add_settings(parser, ["patches"])
    flags = parser.parse_args(
        ["--patches", "a.csv", "--patch-classes", "x", "y", "--patch-px", "64", "--mpp-override", "1"]
    )
    (tmp_path / "c.yaml").write_text("patches:\n  rename: {1: x, two: y}\n  side_px: 32\n")
    spec = config.load(["patches"], tmp_path / "c.yaml", ["patches.edge=refuse"], given(flags))["patches"]
    assert isinstance(spec, PatchSpec)
    assert (spec.source, spec.classes, spec.side_px) == (Path("a.csv"), ("x", "y"), 64)
    assert spec.slide.mpp_override == 1
    assert (spec.rename, spec.edge) == ({"1": "x", "two": "y"}, "refuse")


def test_what_does_not_fit_into_memory_is_refused(table_of: Callable[..., Path], tmp_path: Path) -> None:
    source = table_of((1, "a", "", "", ""), (2, "b", "", "", ""))
    with pytest.raises(UsageError, match=r"2 patches of 8 px take 0\.0 GB, and patches\.max_gb is 1e-07"):
        read(source, max_gb=1e-7)
    patches = read(source, max_gb=1e-7, cache=tmp_path / "cache")
    assert isinstance(patches.images, np.memmap)
    assert reds(patches) == [1, 2]
