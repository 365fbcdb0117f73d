"""The tutorial as a reader runs it: every block of shell, one after another, with the output that the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "tutorial.md"


@dataclass(frozen=True, slots=True)
class Step:
    """A block of shell and, where the page shows it, what it prints."""

    line: int
    shell: str
    shown: str | None


def steps(text: str) -> list[Step]:
    """The page's `sh` blocks, each with the `text` block that follows at once."""
    found: list[Step] = []
    for block in blocks(text):
        if block.language == "sh":
            found.append(Step(block.line, block.text, None))
        elif block.language == "text" and block.after:
            found[-1] = Step(found[-1].line, found[-1].shell, block.text)
    return found


def pattern_of(shown: str) -> re.Pattern[str]:
    """What an output must match: `...` stands for anything, a number with a decimal point for any number."""
    parts = []
    for part in re.split(r"(\.\.\.|\d+\.\d+)", shown.strip("\n")):
        parts.append({"...": r".*?"}.get(part, r"\d+(\.\d+)?" if re.fullmatch(r"\d+\.\d+", part) else re.escape(part)))
    return re.compile("".join(parts) + r"\Z", re.DOTALL)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("slides 3: 0.61 ok", "slides 3: 0.59 ok", True),
        ("slides 3: 0.61 ok", "slides 2: 0.61 ok", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nb", False),
        ("one line", "one line\nand another", False),
    ],
)
def test_outputs_are_told_apart(shown, printed, same) -> None:
    assert bool(pattern_of(shown).match(printed)) == same


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some hundred seconds where nothing else runs
def test_the_tutorial_is_what_happens(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "pathotune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore -m pathotune_pipeline.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "home").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
        "STEP_ENDED_IN": str(tmp_path / "step"),
    }
    place, ran = tmp_path / "home", 0
    for step in steps(PAGE.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'{step.shell}\npwd > "$STEP_ENDED_IN"'],
            cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1500,
        )  # fmt: skip
        where = f"{PAGE.name}, line {step.line}"
        assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{done.stdout}"
        if step.shown is not None:
            printed = done.stdout.strip("\n")
            assert pattern_of(step.shown).match(printed), f"{where} shows\n{step.shown}\n\nand it printed\n{printed}"
        place, ran = Path((tmp_path / "step").read_text().strip()), ran + 1
    assert ran > 10
    assert (place / "report" / "report.html").stat().st_size > 10_000
