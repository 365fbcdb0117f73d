"""Look at every slide before work begins: does it open, is its scale to be believed, can its pixels be read.

Each file is opened in a child process with a limit of time and memory. Nothing is changed; the manifest that is
written is taken by `pathotune extract --manifest`, where refused slides count as failed with the audit's reason.
Exit code 3 where slides are refused.

Example:
  pathotune audit --slides archive/ --out manifest.csv
  pathotune extract --slides archive/ --manifest manifest.csv --store store/
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pathotune_pipeline import config
from pathotune_pipeline.archive.audit import AuditResult, AuditRow, AuditSpec, audit, manifest_csv
from pathotune_pipeline.archive.manifest import read_manifest
from pathotune_pipeline.cli.flags import add_settings, given
from pathotune_pipeline.slides.slide import SlideSpec

SECTIONS = ("audit", "slide")
_LONGEST_NAME = 44


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slides", type=Path, metavar="DIR", help="the archive's folder; searched with its folders")
    parser.add_argument("--manifest", type=Path, metavar="CSV", help="a table of slides, as for extract")
    parser.add_argument("--out", type=Path, metavar="CSV", help="the manifest to write, with a verdict on each slide")
    add_settings(parser, SECTIONS)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def run(arguments: argparse.Namespace) -> int:
    from pathotune_pipeline.cli.main import OK, SOME_FAILED

    settings = config.load(SECTIONS, arguments.config, arguments.assignments, given(arguments))
    spec, slide = settings["audit"], settings["slide"]
    assert isinstance(spec, AuditSpec)
    assert isinstance(slide, SlideSpec)
    if arguments.out:
        _check_out(arguments.out)
    manifest = read_manifest(arguments.slides, arguments.manifest, rescans="all")
    bar = tqdm(
        total=len(manifest), desc="slides", unit="slide", disable=None if not arguments.json else True, file=sys.stderr
    )

    def on_row(row: AuditRow) -> None:
        bar.update()
        if row.refusals:
            bar.set_postfix_str(f"refused {row.item.slide_id}"[:60], refresh=False)

    with bar:
        result = audit(manifest, spec, slide, on_row=on_row)
    if arguments.out:
        root = arguments.slides or arguments.out.parent
        arguments.out.write_text(manifest_csv(result, root), encoding="utf-8")
    if arguments.json:
        rows = [row.as_dict() for row in result.rows]
        print(json.dumps({"counts": result.counts(), "slides": rows, "passed_over": result.passed_over}))
    else:
        _print(result, arguments.out)
    return SOME_FAILED if result.counts()["refuse"] else OK


def _check_out(out: Path) -> None:
    from pathotune_pipeline.errors import UsageError

    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out}: a file in a folder that is there is needed. Make the folder, or name a file.")


def _print(result: AuditResult, out: Path | None) -> None:
    from pathotune_pipeline.cli.extract import print_passed_over

    header = ("verdict", "slide", "size px", "levels", "um/px", "from", "format", "light", "MB")
    lines = [header, *(_cells(row) for row in result.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line, row in zip(lines, [None, *result.rows], strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for reason in row.reasons if row else ():
            print(f"         - {reason}")
    counts = result.counts()
    print(
        f"slides    {counts['slides']}: {counts['ok']} ok, {counts['warn']} with warnings, {counts['refuse']} refused"
    )
    print_passed_over(result.passed_over)
    if out:
        print(f"manifest  {out}")


def _cells(row: AuditRow) -> tuple[str, ...]:
    facts: dict[str, Any] = row.facts
    name = row.item.slide_id
    short = name if len(name) <= _LONGEST_NAME else "..." + name[-_LONGEST_NAME + 3 :]
    if not facts:
        return (row.verdict, short, *("-",) * 7)
    return (
        row.verdict,
        short,
        f"{facts['width']} x {facts['height']}",
        str(facts["levels"]),
        f"{facts['mpp']:.4g}" if facts["mpp"] else "-",
        facts["mpp_source"] or "-",
        f"{facts['vendor']}/{facts['reader']}",
        facts["light"] or "-",
        f"{facts['bytes'] / 1e6:.1f}",
    )
