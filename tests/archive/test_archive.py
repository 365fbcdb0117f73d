"""Ids, identities, manifests and tables, as labs have them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathotune_pipeline.archive import IdentityCache, Pseudonymiser, content_hash, discover, read_manifest, slide_id_of
from pathotune_pipeline.archive.identity import MAX_KEY, decode_id, encode_id, key_of, redact
from pathotune_pipeline.archive.table import read_table
from pathotune_pipeline.errors import ManifestError, SlideNotFoundError, UsageError

KEY = b"0123456789abcdef0123456789abcdef"


def archive(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_same_names_in_different_folders_are_different_slides(tmp_path: Path) -> None:
    archive(tmp_path, "a/1.svs", "b/1.svs", "1.svs")
    ids = [item.slide_id for item in read_manifest(tmp_path).items]
    assert ids == ["1.svs", "a%2F1.svs", "b%2F1.svs"]


def test_ids_are_the_same_for_composed_and_decomposed_names(tmp_path: Path) -> None:
    assert slide_id_of(tmp_path / "M\u00fcller.svs", tmp_path) == slide_id_of(tmp_path / "Mu\u0308ller.svs", tmp_path)


@given(st.text(min_size=1, max_size=60))
def test_an_id_is_a_safe_file_name_and_leads_back(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    encoded = encode_id(name)
    assert "/" not in encoded
    assert "@" not in encoded
    assert not encoded.startswith(".")
    assert encoded.isascii()
    import unicodedata

    assert decode_id(encoded) == unicodedata.normalize("NFC", name)


def test_a_long_id_gets_a_short_unique_key() -> None:
    one, two = "x" * 300 + "1", "x" * 300 + "2"
    assert len(key_of(one)) <= MAX_KEY
    assert key_of(one) != key_of(two)
    assert key_of("short.svs") == "short.svs"


def test_what_is_no_slide_is_passed_over_with_a_reason(tmp_path: Path) -> None:
    archive(
        tmp_path, "a.svs", "notes.txt", ".hidden.svs", "m.mrxs", "m/Data0001.dat", "m/preview.jpg", "deep/er/b.ndpi"
    )
    (tmp_path / "dangling.svs").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = discover(tmp_path)
    assert [path.name for path in found.slides] == ["a.svs", "m.mrxs", "b.ndpi"]
    assert {path.name for path, _ in found.passed_over} == {"notes.txt", ".hidden.svs", "dangling.svs"}
    assert all(reason for _, reason in found.passed_over)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing was found"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(ManifestError, match="no slide was found"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="--slides"):
        read_manifest(None)


def test_identity_is_what_sha256sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(b"pixels")
    assert content_hash(path) == hashlib.sha256(b"pixels").hexdigest()
    moved = tmp_path / "elsewhere" / "b.svs"
    moved.parent.mkdir()
    moved.write_bytes(b"pixels")
    assert content_hash(moved) == content_hash(path)
    with pytest.raises(SlideNotFoundError):
        content_hash(tmp_path / "absent.svs")


def test_companion_files_are_part_of_the_identity(tmp_path: Path) -> None:
    archive(tmp_path, "m.mrxs", "m/Data0001.dat", "s/1.dcm", "s/2.dcm")
    before = content_hash(tmp_path / "m.mrxs")
    (tmp_path / "m" / "Data0001.dat").write_bytes(b"other")
    assert content_hash(tmp_path / "m.mrxs") != before
    first, second = content_hash(tmp_path / "s/1.dcm"), content_hash(tmp_path / "s/2.dcm")
    assert first != second


def test_the_cache_knows_a_file_until_it_changes_and_holds_no_path(tmp_path: Path) -> None:
    slide = tmp_path / "DOE_JOHN.svs"
    slide.write_bytes(b"pixels")
    file = tmp_path / "cache.json"
    cache = IdentityCache(file)
    assert cache.get(slide) is None
    cache.put(slide, "abc")
    cache.save()
    assert IdentityCache(file).get(slide) == "abc"
    assert "DOE" not in file.read_text()
    os.utime(slide, ns=(1, 1))
    assert IdentityCache(file).get(slide) is None
    file.write_text("damaged {")
    assert IdentityCache(file).get(slide) is None


def test_two_caches_keep_each_others_entries(tmp_path: Path) -> None:
    archive(tmp_path, "a.svs", "b.svs")
    one, two = IdentityCache(tmp_path / "c.json"), IdentityCache(tmp_path / "c.json")
    one.put(tmp_path / "a.svs", "A")
    two.put(tmp_path / "b.svs", "B")
    one.save()
    two.save()
    both = IdentityCache(tmp_path / "c.json")
    assert (both.get(tmp_path / "a.svs"), both.get(tmp_path / "b.svs")) == ("A", "B")


def test_pseudonyms_are_stable_keyed_and_need_a_real_key(tmp_path: Path) -> None:
    one = Pseudonymiser(KEY)
    assert one.slide("a.svs") == Pseudonymiser(KEY).slide("a.svs")
    assert one.slide("a.svs") != Pseudonymiser(KEY[::-1]).slide("a.svs")
    assert one.slide("a")[2:] != one.case("a")[2:]
    with pytest.raises(UsageError, match="at least 16"):
        Pseudonymiser(b"short")
    with pytest.raises(UsageError, match="No such file"):
        Pseudonymiser.from_file(tmp_path / "absent.key")


def test_a_pseudonymised_manifest_shows_no_name(tmp_path: Path) -> None:
    archive(tmp_path, "DOE_JOHN.svs", "DOE.txt")
    manifest = read_manifest(tmp_path).pseudonymised(Pseudonymiser(KEY))
    assert "DOE" not in repr(manifest)
    assert manifest.items[0].path.name == "DOE_JOHN.svs"


def test_messages_lose_every_trace_of_a_path() -> None:
    path = Path("/data/in/DOE JOHN.svs")
    text = "cannot open /data/in/DOE JOHN.svs: 'DOE JOHN.svs' or DOE%20JOHN.svs or DOE JOHN"
    assert "DOE" not in redact(text, path, "s-1")
    assert "data/in" not in redact("cannot stat /data/in/Data0001.dat", path, "s-1")
    assert redact("level 1 of a", Path("a"), "s-1") == "level 1 of s-1"


def test_manifest_tables_as_people_write_them(tmp_path: Path) -> None:
    archive(tmp_path, "x/a.svs", "b.svs")
    table = tmp_path / "t.csv"
    table.write_bytes("\ufeffPath;Slide_ID;case_id;mpp\r\nx\\a.svs;007;0012;0,25\r\nb.svs;;;\r\n\r\n".encode())
    first, second = read_manifest(tmp_path, table).items
    assert (first.slide_id, first.case_id, first.mpp) == ("007", "0012", 0.25)
    assert first.path == tmp_path / "x/a.svs"
    assert (second.slide_id, second.case_id, second.mpp) == ("b.svs", None, None)


def test_tridents_list_is_a_manifest(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("wsi,mpp\nsub/a.svs,0.5\n")
    (item,) = read_manifest(None, table).items
    assert (item.slide_id, item.mpp, item.path) == ("sub%2Fa.svs", 0.5, tmp_path / "sub/a.svs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,mpp\na,1\n", "no column says where"),
        ("path\na.svs\na.svs\n", "second time"),
        ("path,mpp\na.svs,thick\n", "no number"),
        ("path,mpp\na.svs,-1\n", "not above 0"),
        ("path,path\na,b\n", "twice"),
        ("path,mpp\na.svs,1,2,3\n", "4 cells"),
        ("path,mpp\n", "no slide"),
        ("path,mpp\n,1\n", "line 2 has no path"),
        ("", "empty"),
    ],
)
def test_a_wrong_table_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path, table)


def test_tables_of_any_encoding_keep_their_text(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        table.write_bytes("slide\tname\n01\tMüller\n".encode(encoding))
        assert read_table(table).rows == ({"slide": "01", "name": "Müller"},)
