"""Slides of several files: one byte of any of them is another slide, and no other file is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pathotune_pipeline.archive.companions import companion_files, state_of
from pathotune_pipeline.archive.identity import IdentityCache, content_hash

sys.path.insert(0, str(Path(__file__).parent))
from dicom_files import write_dicom  # type: ignore[import-not-found]

VMS = b"""[Virtual Microscope Specimen]\r
NoLayers=1\r
ImageFile=s-0.jpg\r
ImageFile(1,0)= s-1.jpg\r
MapFile=s-map.jpg\r
OptimisationFile=s.opt\r
MacroImage=s-macro.jpg\r
AuthCode=../../etc/passwd\r
SourceLens=40\r
"""
UID = "1.2.826.0.1.3680043.8.498.1"


def mirax(root: Path) -> Path:
    path = root / "m.mrxs"
    (root / "m" / "deep").mkdir(parents=True)
    path.write_bytes(b"index")
    for name in ("Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat", "deep/Data0002.dat"):
        (root / "m" / name).write_bytes(name.encode())
    return path


def hamamatsu(root: Path, ending: str = ".vms") -> Path:
    path = root / f"s{ending}"
    path.write_bytes(VMS)
    for name in ("s-0.jpg", "s-1.jpg", "s-map.jpg", "s.opt", "s-macro.jpg"):
        (root / name).write_bytes(name.encode())
    return path


def dicom(root: Path) -> Path:
    for number, kind in enumerate(("VOLUME", "VOLUME", "LABEL")):
        write_dicom(root / f"{number}.dcm", UID, kind, (4096 >> number, 4096 >> number))
    return root / "0.dcm"


FORMATS = {"mirax": (mirax, 6), "vms": (hamamatsu, 6), "dicom": (dicom, 3)}


@pytest.mark.parametrize("name", FORMATS)
def test_one_byte_of_any_companion_is_another_slide(tmp_path: Path, name: str) -> None:
    write, count = FORMATS[name]
    slide = write(tmp_path)
    files = companion_files(slide)
    assert files[0] == slide
    assert len(files) == len(set(files)) == count
    cache = IdentityCache(tmp_path / "cache.json")
    cache.put(slide, content_hash(slide))
    cache.save()
    identities = {content_hash(slide)}
    for file in files:
        data = bytearray(file.read_bytes())
        assert cache.get(slide) is not None
        data[-1] ^= 1
        before = file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert cache.get(slide) is None, f"{file.name}: the change is not seen"
        identities.add(content_hash(slide))
        data[-1] ^= 1
        file.write_bytes(data)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(identities) == count + 1
    assert content_hash(slide) in identities


@pytest.mark.parametrize("name", FORMATS)
def test_a_companion_that_goes_is_seen(tmp_path: Path, name: str) -> None:
    slide = FORMATS[name][0](tmp_path)
    before, identity = state_of(slide), content_hash(slide)
    companion_files(slide)[-1].unlink()
    assert state_of(slide) != before
    assert content_hash(slide) != identity


def test_a_stranger_beside_a_hamamatsu_slide_is_no_part_of_it(tmp_path: Path) -> None:
    slide = hamamatsu(tmp_path)
    before = content_hash(slide)
    (tmp_path / "other.vms").write_bytes(b"[Virtual Microscope Specimen]\n")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert content_hash(slide) == before
    assert len(companion_files(hamamatsu(tmp_path, ".vmu"))) == 6


def test_a_hash_is_entered_only_for_the_files_that_were_hashed(tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"pixels")
    state, identity = state_of(slide), content_hash(slide)
    slide.write_bytes(b"others")
    os.utime(slide, ns=(1, 1))
    cache = IdentityCache(tmp_path / "cache.json")
    cache.put(slide, identity, state=state)
    assert cache.get(slide) is None
    cache.put(slide, content_hash(slide), state=state_of(slide))
    assert cache.get(slide) == content_hash(slide)
