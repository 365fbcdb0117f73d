"""The qualification as files: `trial.json` for programs, `trial.html` to be filed."""

from __future__ import annotations

import json
from pathlib import Path

from pathotune_pipeline.doctor.trial.result import TrialResult
from pathotune_pipeline.reports.figures.bars import bars_figure
from pathotune_pipeline.reports.figures.canvas import Figure
from pathotune_pipeline.reports.html import render_page
from pathotune_pipeline.reports.report import cannot_write, writable
from pathotune_pipeline.store.files import replace_file

PAGE, PLAIN = "trial.html", "trial.json"


def write_trial(result: TrialResult, out: str | Path) -> Path:
    """Write both files, over those of an earlier trial.

    Args:
        result: of the trial.
        out: folder; made if it is new.

    Returns:
        Path of the page.

    Raises:
        UsageError: `out` cannot be written.
    """
    folder = writable(Path(out))
    try:
        plain = json.dumps(result.as_dict(), indent=1, allow_nan=False)
        replace_file(folder / PLAIN, plain.encode())
        replace_file(folder / PAGE, render_trial(result).encode("utf-8", errors="replace"))
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder / PAGE


def render_trial(result: TrialResult) -> str:
    """The page; it loads nothing from anywhere."""
    return render_page("trial.html.j2", result=result, failures=result.failures, speed_figure=_speed(result))


def _speed(result: TrialResult) -> Figure | None:
    speed = result.speed
    if speed is None:
        return None
    rows = [("bare encoder", speed.bare_rate), ("slides to committed features", speed.extraction_rate)]
    told = (
        f"{speed.tiles} tiles, {speed.threads} threads, medians of {len(speed.bare_s)} turns. Bare: tiles that lie in memory. "
        "The extraction opens, reads, encodes and commits; tissue had been found and weights were loaded."
    )
    return bars_figure(rows, title="Speed", unit="tiles a second", told=told)
