"""The pre-flight audit: every slide opened and sampled in a child process, and a verdict on each, before work begins."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pathotune_pipeline.archive.audit_pool import Answer, ask_all
from pathotune_pipeline.archive.identity import decode_id
from pathotune_pipeline.archive.item import Manifest, SlideItem
from pathotune_pipeline.archive.listing import WITH_MPP
from pathotune_pipeline.geometry import Mpp
from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.spec import Spec, setting

Verdict = Literal["ok", "warn", "refuse"]

LARGE_FLAT_PX = 8192
"""Longest side beyond which a slide of one level is told to have no pyramid."""
SMALL_PX = 256
MPP_TOLERANCE = 0.05
NOT_SQUARE = 0.01
"""Share by which x and y mpp may differ without a word."""
HASH_BYTES_PER_S = 10e6
"""Slowest disk that is waited for when contents are compared."""
FACT_COLUMNS = (
    "vendor", "reader", "width", "height", "levels", "mpp", "mpp_source", "light", "sampled", "unreadable", "bytes",
)  # fmt: skip


class AuditSpec(Spec):
    """How slides are looked at before work begins."""

    time_limit_s: float = setting(60.0, "Seconds a slide may take.", hashed=False, flag="--time-limit", gt=0)
    memory_limit_gb: float = setting(
        4.0, "GB of address space a slide may take, beside its own size where it is mapped.", hashed=False, gt=0
    )
    jobs: int | None = setting(
        None, "Slides looked at at once; empty: one a core, at most 8.", hashed=False, ge=1, le=64
    )
    samples: int = setting(32, "Regions of 256 px read of each slide.", hashed=False, ge=1, le=10_000)
    seed: int = setting(0, "Seed of the places where regions are read.", hashed=False, ge=0)


@dataclass(slots=True)
class AuditRow:
    """What the audit says of one slide.

    Attributes:
        item: the slide.
        facts: vendor, reader, width, height, levels, mpp, ...; empty where it could not be opened.
        warnings: what a user should know.
        refusals: why it cannot be used.
        wants_mpp: it cannot be used until somebody gives its mpp.
    """

    item: SlideItem
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    wants_mpp: bool = False

    @property
    def verdict(self) -> Verdict:
        return "refuse" if self.refusals else "warn" if self.warnings else "ok"

    @property
    def include(self) -> str:
        """What stands in the manifest's include column."""
        if not self.refusals:
            return "yes"
        return WITH_MPP if self.wants_mpp and len(self.refusals) == 1 else "no"

    @property
    def reasons(self) -> list[str]:
        return [*self.refusals, *self.warnings]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `--json`. No path is in them."""
        return {"slide_id": self.item.slide_id, "verdict": self.verdict, "reasons": self.reasons, **self.facts}


@dataclass(slots=True)
class AuditResult:
    """What the audit says of an archive.

    Attributes:
        rows: one a slide, in the order of the manifest.
        passed_over: files that are no slides, and slides left out, with reasons.
    """

    rows: list[AuditRow]
    passed_over: tuple[tuple[str, str], ...] = ()

    def counts(self) -> dict[str, int]:
        by_verdict = Counter(row.verdict for row in self.rows)
        return {"slides": len(self.rows), **{name: by_verdict[name] for name in ("ok", "warn", "refuse")}}


def audit(
    manifest: Manifest, spec: AuditSpec, slide: SlideSpec, *, on_row: Callable[[AuditRow], None] | None = None
) -> AuditResult:
    """Look at every slide of a manifest. A slide that an earlier audit refused is looked at again.

    Args:
        manifest: read with `rescans="all"`, so that re-scans are looked at too.
        spec: limits and sampling.
        slide: how slides are opened, as for the extraction.
        on_row: told each slide's first findings as they come; duplicates are found after the last one.

    Raises:
        WorkerLostError: no child process can be started.
    """
    jobs = spec.jobs or min(
        8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )

    def request(item: SlideItem) -> dict[str, Any]:
        return {
            "op": "look", "path": str(item.path.absolute()), "mpp": item.mpp, "slide": slide.model_dump(),
            "samples": spec.samples, "seed": spec.seed, "time_limit_s": spec.time_limit_s,
            "memory_bytes": spec.memory_limit_gb * 1e9,
        }  # fmt: skip

    rows: dict[str, AuditRow] = {}
    for item, answer in ask_all(manifest.items, request, jobs=jobs):
        rows[item.slide_id] = row = judge(item, answer, slide)
        if on_row:
            on_row(row)
    ordered = [rows[item.slide_id] for item in manifest.items]
    _compare_contents(ordered, spec, jobs)
    return AuditResult(ordered, manifest.passed_over)


def judge(item: SlideItem, answer: Answer, slide: SlideSpec) -> AuditRow:
    """A verdict on what a child found."""
    row = AuditRow(item)
    if answer.problem is not None:
        row.refusals.append(answer.problem.rstrip("."))
        return row
    facts = dict(answer.facts)
    problem, own = facts.pop("scale_problem"), facts.pop("own_mpp")
    x, y = facts["mpp_x"], facts["mpp_y"]
    facts["mpp"] = Mpp(x, y).mean if x else None
    row.facts = facts
    if problem:
        row.refusals.append(problem.rstrip("."))
        row.wants_mpp = item.mpp is None
    elif abs(x - y) > NOT_SQUARE * min(x, y):
        row.warnings.append(f"its pixels are not quite square: {x:.4g} x {y:.4g} um")
    if own and facts["mpp"] and abs(own - facts["mpp"]) > MPP_TOLERANCE * own:
        row.warnings.append(f"the mpp given, {facts['mpp']:.4g}, is not the file's own, {own:.4g}")
    _judge_pixels(row, facts, slide)
    return row


def _judge_pixels(row: AuditRow, facts: dict[str, Any], slide: SlideSpec) -> None:
    width, height, first = facts["width"], facts["height"], facts.pop("first_problem")
    if facts["unreadable"]:
        told = f"{facts['unreadable']} of {facts['sampled']} regions sampled cannot be read ({first})".replace(
            ".)", ")"
        )
        broken = facts["unreadable"] * 2 >= facts["sampled"]
        (row.refusals if broken else row.warnings).append(told)
    elif facts["light"] is None:
        row.refusals.append("its overview cannot be read")
    if facts["levels"] == 1 and max(width, height) > LARGE_FLAT_PX:
        row.warnings.append(f"no pyramid: {width} x {height} px in one level, so tissue is found slowly")
    if min(width, height) < SMALL_PX:
        row.warnings.append(f"small: {width} x {height} px")
    if facts["light"] == "fluorescence" and not slide.allow_fluorescence:
        row.warnings.append("fluorescence, not brightfield: adds no tiles without --allow-fluorescence")


def _compare_contents(rows: Sequence[AuditRow], spec: AuditSpec, jobs: int) -> None:
    """Name slides of the same contents. Only those of the same size are read whole."""
    by_size: dict[int, list[AuditRow]] = defaultdict(list)
    for row in rows:
        if row.facts.get("bytes"):
            by_size[row.facts["bytes"]].append(row)
    alike = [row for group in by_size.values() if len(group) > 1 for row in group]

    def request(row: AuditRow) -> dict[str, Any]:
        limit = spec.time_limit_s + row.facts["bytes"] / HASH_BYTES_PER_S
        return {
            "op": "hash", "path": str(row.item.path.absolute()), "time_limit_s": limit,
            "memory_bytes": spec.memory_limit_gb * 1e9,
        }  # fmt: skip

    same: dict[str, list[AuditRow]] = defaultdict(list)
    answers = {id(row): answer for row, answer in ask_all(alike, request, jobs=jobs)} if alike else {}
    for row in alike:
        answer = answers[id(row)]
        if answer.problem is not None:
            row.warnings.append(f"its contents could not be compared: {answer.problem}")
        else:
            same[answer.facts["identity"]].append(row)
    for group in same.values():
        for row in group if len(group) > 1 else ():
            others = [other.item.slide_id for other in group if other is not row]
            row.warnings.append(f"the same contents as {', '.join(others[:3])}" + (", ..." if len(others) > 3 else ""))


def manifest_csv(result: AuditResult, root: Path) -> str:
    """The audit as a table that `extract --manifest` takes: a refused slide has the reason, and include=no; or
    "with mpp" where an mpp is all that it lacks.

    Args:
        result: of the audit.
        root: the folder to which paths are written relative; slides elsewhere get their whole path.
    """
    known = dict.fromkeys(name for row in result.rows for name, _ in row.item.context)
    columns = ["slide_id", "path", "case_id", "mpp", *known, "include", "audit", "audit_reason"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *(f"audit_{name}" for name in FACT_COLUMNS)], lineterminator="\n")
    writer.writeheader()
    for row in result.rows:
        item = row.item
        cells: dict[str, Any] = {
            "slide_id": decode_id(item.slide_id),
            "path": _relative(item.path, root),
            "case_id": item.case_id,
            "mpp": item.mpp,
            **dict(item.context),
            "include": row.include,
            "audit": row.verdict,
            "audit_reason": "; ".join(row.reasons),
            **{f"audit_{name}": row.facts.get(name) for name in FACT_COLUMNS},
        }
        writer.writerow({name: "" if value is None else value for name, value in cells.items()})
    return text.getvalue()


def _relative(path: Path, root: Path) -> str:
    try:
        return path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return str(path.absolute())
