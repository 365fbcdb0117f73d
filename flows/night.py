"""What a night was: which slides were new, changed, failed, quarantined, replaced by a re-scan, left, or gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.execution.dask import DEADLY
from pathotune_pipeline.features.extract import ExtractResult
from pathotune_pipeline.features.outcome import MADE
from pathotune_pipeline.features.planning import REFUSED
from pathotune_pipeline.features.reviewed import REJECTED

MOST_ROWS = 200
"""Slides named in an artifact; the report names them all."""
TITLES = {
    "new": "new", "changed": "changed", "failed": "failed", "quarantined": "quarantined", "superseded": "replaced by a re-scan",
    "rejected": "rejected in review", "left": "left, as the time was over", "removed": "no longer in the archive",
}  # fmt: skip


def night_of(manifest: Manifest, result: ExtractResult) -> dict[str, Any]:
    """The night in plain values, of the run's first feature set.

    Args:
        manifest: as it was read.
        result: of the extraction.

    Returns:
        features, run; new, changed, rejected, left, removed: lists of ids; failed, quarantined: reason by id, where
        quarantined were refused by the audit or given up because worker processes died under them; superseded: the newer
        scan by the older one's id.
    """
    ids = {item.slide_id for item in manifest.items}
    made = [outcome.slide_id for outcome in result.outcomes if outcome.new and outcome.status in MADE]
    bad = {outcome.slide_id: outcome.reason for outcome in result.outcomes if outcome.status == "failed"}
    quarantined = {slide: reason for slide, reason in bad.items() if reason.startswith(REFUSED) or DEADLY in reason}
    passed_over = [(name, reason.rpartition(": ")[2]) for name, reason in result.passed_over]
    return {
        "features": result.features,
        "run": result.run_id,
        "new": [slide for slide in made if slide not in {*result.changed}],
        "changed": result.changed,
        "failed": {slide: reason for slide, reason in bad.items() if slide not in quarantined},
        "quarantined": quarantined,
        "superseded": {name: newer for name, newer in passed_over if newer in ids},
        "rejected": [name for name, reason in result.passed_over if reason == REJECTED],
        "left": [outcome.slide_id for outcome in result.outcomes if outcome.status == "left"],
        "removed": result.removed,
    }


def night_summary(night: Mapping[str, Any]) -> str:
    """The night in Markdown."""
    lines = [f"# Night of run {night['run']}", "", "| | slides | |", "|---|---|---|"]
    for name, title in TITLES.items():
        slides: Sequence[str] | Mapping[str, str] = night[name]
        if slides:
            lines.append(f"| {title} | {len(slides)} | {cell(', '.join(list(slides)[:MOST_ROWS]))} |")
    return "\n".join([*lines, *([] if len(lines) > 4 else ["| nothing to do | 0 | |"])])


def cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
