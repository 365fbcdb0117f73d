"""Which slides are tried, and what can be said of them before any is extracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pathotune_pipeline.archive.audit import AuditRow, AuditSpec, audit
from pathotune_pipeline.archive.audit_child import size_of
from pathotune_pipeline.archive.item import Manifest, SlideItem
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.slides.slide import SlideSpec

SAMPLES = 16
"""Regions read of each slide by the audit."""


@dataclass(frozen=True, slots=True)
class TriedSlide:
    """What became of one slide of the trial. Its path is not in it.

    Attributes:
        slide_id: its name, or its pseudonym.
        verdict: the audit's: ok, warn or refuse.
        problems: why.
        reader, vendor: what opened it, and what wrote it; empty where nothing could.
        width, height, levels: of the file.
        mpp: um/px, and `mpp_source` where it was found; None without one.
        size_bytes: of all its files.
        tiles: committed in the first extraction.
        unreadable_tiles: of them.
        tissue_s: seconds that finding its tissue took.
        status: committed, empty or failed; "not tried" where the audit refused it.
        reason: why it is empty or failed.
    """

    slide_id: str
    verdict: str
    problems: tuple[str, ...]
    reader: str
    vendor: str
    width: int
    height: int
    levels: int
    mpp: float | None
    mpp_source: str
    size_bytes: int
    status: str = "not tried"
    reason: str = ""
    tiles: int = 0
    unreadable_tiles: int = 0
    tissue_s: float | None = None


def choose_slides(items: Sequence[SlideItem], count: int) -> list[SlideItem]:
    """So many slides, spread evenly over the sizes of files, each kind of file (its suffix) once before any comes twice.

    Args:
        items: of the site.
        count: how many; fewer where there are no more.

    Returns:
        Largest first; the same ones for the same files.
    """
    kinds: dict[str, list[tuple[int, SlideItem]]] = {}
    for item in items:
        kinds.setdefault(item.path.suffix.lower(), []).append((_size(item), item))
    ranked = {kind: _spread(sorted(found, key=_largest_first)) for kind, found in kinds.items()}
    chosen: list[tuple[int, SlideItem]] = []
    while len(chosen) < count and any(ranked.values()):
        for kind in sorted(ranked, key=lambda kind: (-len(kinds[kind]), kind)):
            if ranked[kind] and len(chosen) < count:
                chosen.append(ranked[kind].pop(0))
    return [item for _, item in sorted(chosen, key=_largest_first)]


def _largest_first(sized: tuple[int, SlideItem]) -> tuple[int, str]:
    return -sized[0], sized[1].slide_id


def _spread(found: list[tuple[int, SlideItem]]) -> list[tuple[int, SlideItem]]:
    """The first, the last, and then always the middle of the widest gap between those taken."""
    order = [0, len(found) - 1] if len(found) > 1 else [0]
    while len(order) < len(found):
        taken = sorted(order)
        gaps = [(after - before, -before) for before, after in pairwise(taken)]
        width, before = max(gaps)
        order.append(-before + width // 2)
    return [found[place] for place in order]


def look_at(items: Sequence[SlideItem], slide: SlideSpec) -> list[AuditRow]:
    """The audit's rows of the chosen slides, in their order; each is opened in a child process.

    Raises:
        WorkerLostError: no child process can be started.
    """
    return audit(Manifest(tuple(items)), AuditSpec(samples=SAMPLES), slide).rows


def tried_slide(row: AuditRow, outcome: Outcome | None) -> TriedSlide:
    """What the audit and the first extraction found, in one."""
    facts = row.facts
    told = TriedSlide(
        slide_id=row.item.slide_id, verdict=row.verdict, problems=tuple(row.reasons),
        reader=facts.get("reader") or "", vendor=facts.get("vendor") or "",
        width=facts.get("width") or 0, height=facts.get("height") or 0, levels=facts.get("levels") or 0,
        mpp=facts.get("mpp"), mpp_source=facts.get("mpp_source") or "", size_bytes=facts.get("bytes") or 0,
    )  # fmt: skip
    if outcome is None:
        return told
    return replace(
        told, status=outcome.status, reason=outcome.reason, tiles=outcome.tiles, unreadable_tiles=outcome.invalid_tiles,
        tissue_s=outcome.stages.get("tissue_s"),
    )  # fmt: skip


def _size(item: SlideItem) -> int:
    try:
        return size_of(item.path)
    except OSError:
        return 0  # the audit says why
