"""Reasons tell neither the slide's name nor those of the files beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.slides.reason import reason_of


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("/archive/lab/smith.dcm: bad", "the file: bad"),
        ("Reading /archive/lab/smith-43.dcm: unsupported", "Reading a file beside it: unsupported"),
        ("Reading /archive/lab/john smith 2.dcm failed", "Reading a file beside it failed"),
        ("at /archive/lab/smith/Data0001.dat: bad", "at a file beside it: bad"),
        ("smith.dcm is short", "the file is short"),
        ("no room in /mnt/elsewhere/jones.tif", "no room in the file"),
    ],
)
def test_names_are_taken_out(told, kept):
    assert reason_of(ValueError(told), Path("/archive/lab/smith.dcm")) == kept
