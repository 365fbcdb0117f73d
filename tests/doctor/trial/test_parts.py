"""What a trial is made of: the choice of slides, turns, comparisons, verdicts, and children that do not do as told."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pathotune_pipeline.archive.item import SlideItem
from pathotune_pipeline.doctor.trial import resume, verdicts
from pathotune_pipeline.doctor.trial.choose import choose_slides
from pathotune_pipeline.doctor.trial.repeat import Agreement, SlideFeatures, compare
from pathotune_pipeline.doctor.trial.resume import ResumeFailedError, Resumption
from pathotune_pipeline.doctor.trial.speed import ENCODINGS, Speed, take_turns, tiles_for


def items(folder: Path, **sizes: int) -> list[SlideItem]:
    for name, size in sizes.items():
        (folder / name.replace("_", ".")).write_bytes(b"x" * size)
    return [SlideItem(name, folder / name.replace("_", ".")) for name in sizes]


def test_slides_are_spread_over_sizes_and_kinds(tmp_path: Path) -> None:
    found = items(tmp_path, a_tif=10, b_tif=20, c_tif=30, d_tif=40, e_tif=50, f_svs=25, g_svs=5)
    names = [item.slide_id for item in choose_slides(found, 3)]
    assert names == ["e_tif", "f_svs", "a_tif"], "the largest and smallest of the usual kind, and one of the other"
    assert [item.slide_id for item in choose_slides(found[::-1], 3)] == names
    assert [item.slide_id for item in choose_slides(found[:5], 3)] == ["e_tif", "c_tif", "a_tif"]
    assert len(choose_slides(found, 100)) == 7
    gone = SlideItem("gone", tmp_path / "gone.tif")
    assert choose_slides([gone], 1) == [gone]


def test_turns_alternate_and_end_with_the_time() -> None:
    seen: list[str] = []

    def work(name: str, seconds: float) -> Any:
        def done(*_: int) -> float:
            seen.append(name)
            return seconds

        return done

    bare: Any = SimpleNamespace(encode=work("bare", 3.0))
    speed = take_turns(work("ours", 4.0), bare, tiles=12, threads=2, pairs=3, until=time.perf_counter() + 60)
    assert seen == ["bare", "bare", "ours", "ours", "bare", "bare", "ours"]
    assert speed.ratio == 0.75
    assert (speed.bare_rate, speed.extraction_rate) == (4.0, 3.0)
    late = take_turns(work("ours", 4.0), bare, tiles=12, threads=2, pairs=3, until=0.0)
    assert len(late.bare_s) == 1, "one pair there always is"
    assert tiles_for(10, 100.0, pairs=3) * (ENCODINGS + 6) / 100 < 10 * 60
    assert tiles_for(0.001, 0.01, pairs=3) == 1


def test_the_median_of_ratios_is_told() -> None:
    assert Speed(1, 1, (2.0, 1.0, 4.0), (1.0, 0.9, 3.0)).ratio == 0.75


def features(seed: int = 0, **changed: Any) -> SlideFeatures:
    draw = np.random.default_rng(seed)
    made = {"coords": draw.integers(0, 99, (5, 2)), "rows": draw.random((5, 3)).astype(np.float16)}
    return SlideFeatures(**{**made, "valid": np.ones(5, bool), **changed})


def test_features_are_held_against_each_other() -> None:
    one = features()
    assert compare({"a": one, "b": one}, {"a": features(), "b": features()}).same_bits
    rows = one.rows.copy()
    rows[2, 1] += 0.125
    near = compare({"a": one}, {"a": features(rows=rows)})
    assert (near.equal, near.faults) == (0, ())
    assert near.largest == pytest.approx(0.125 / float(one.rows.max()), rel=0.01)
    assert near.within(0.2)
    assert not near.within(0.1)
    rows = one.rows.copy()
    rows[0, 0] = np.nan
    assert compare({"a": one}, {"a": features(rows=rows)}).largest == float("inf")
    assert compare({"a": one}, {"a": features(rows=one.rows[:, :2])}).largest == float("inf")
    for other, told in (
        ({}, "a: has no features"),
        ({"a": features(coords=one.coords + 1)}, "a: has other tiles"),
        ({"a": features(valid=np.zeros(5, bool))}, "a: other tiles could not be read"),
        ({"a": one, "b": one}, "b: was not there before"),
    ):
        found = compare({"a": one}, other)
        assert found.faults == (told,)
        assert not found.same_bits
        assert not found.within(1.0)


def test_verdicts() -> None:
    slow, fast = Speed(10, 2, (4.0,), (1.0,)), Speed(10, 2, (1.0,), (0.9,))
    assert verdicts.of_speed(fast, 0.5, has_weights=True).state == "ok"
    assert verdicts.of_speed(slow, 0.5, has_weights=True).state == "bad"
    assert "reading is what is measured" in verdicts.of_speed(slow, 0.5, has_weights=False).mend
    near, same = Agreement(2, 1, 0.001), Agreement(2, 2)
    assert verdicts.of_agreement("x", same, None).state == "ok"
    assert verdicts.of_agreement("x", near, None).state == "bad"
    assert verdicts.of_agreement("x", near, 0.01).state == "ok"
    assert verdicts.of_agreement("x", near, 0.0001).state == "bad"
    assert verdicts.of_resumption(Resumption(1, 1, 1, 2, same, (), 1.0), None).state == "ok"
    for wrong in (
        Resumption(1, 1, 2, 2, same, (), 1.0),  # what was committed was computed again
        Resumption(1, 1, 1, 2, near, (), 1.0),
        Resumption(1, 1, 1, 2, same, ("a checksum is wrong",), 1.0),
    ):
        found = verdicts.of_resumption(wrong, None)
        assert found.state == "bad"
        assert found.mend


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_children_that_do_not_do_as_told(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    with pytest.raises(ResumeFailedError, match=r"ended \(exit code 3\) before it could be killed: no such encoder"):
        resume._kill_in_the_middle(
            child("import sys; print('no such encoder', file=sys.stderr); sys.exit(3)"), said, "x", limit_s=60
        )
    with pytest.raises(ResumeFailedError, match=r"when it was run again \(signal 9\): it said nothing"):
        resume._run(child("import os; os.kill(os.getpid(), 9)"), said, limit_s=60)
    note = tmp_path / "pid"
    hangs = f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(600)"
    with pytest.raises(ResumeFailedError, match="took longer than 2 s"):
        resume._run(child(hangs), said, limit_s=2)
    assert subprocess.run(["kill", "-0", note.read_text()], capture_output=True, check=False).returncode, "it is gone"


def test_the_failpoint_is_the_childs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATHOTUNE_FAILPOINT", "features.batch")
    assert (
        resume._run(child("import os; print('PATHOTUNE_FAILPOINT' in os.environ)"), tmp_path / "s", limit_s=60)
        == "False\n"
    )
