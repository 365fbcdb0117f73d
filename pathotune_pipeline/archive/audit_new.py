"""The audit of a night: only files that no run has read yet in the state in which they lie there now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pathotune_pipeline.archive.audit import AuditRow, AuditSpec, audit
from pathotune_pipeline.archive.companions import state_of
from pathotune_pipeline.archive.identity import IdentityCache
from pathotune_pipeline.archive.item import Manifest
from pathotune_pipeline.slides.slide import SlideSpec

BLOCK = 64
"""Slides between two looks at the clock."""


def audit_new(
    manifest: Manifest, cache: IdentityCache, spec: AuditSpec, slide: SlideSpec, *, over: Callable[[], bool]
) -> tuple[Manifest, list[AuditRow]]:
    """Look at new and changed slides in child processes, so that a poisonous one harms nobody.

    A slide whose contents are known in the state of its files was read before, and is not looked at again; one that was
    refused was not, and is.

    Args:
        manifest: the night's slides.
        cache: content hashes of files that were read.
        spec: limits and sampling.
        slide: how slides are opened, as for the extraction.
        over: whether no further slide is to be looked at.

    Returns:
        The manifest in which refused slides have the reason, and what was found of those that were looked at.

    Raises:
        WorkerLostError: no child process can be started.
    """
    fresh = [item for item in manifest.items if item.refused is None and cache.of_state(state_of(item.path)) is None]
    rows: list[AuditRow] = []
    for start in range(0, len(fresh), BLOCK):
        if over():
            break
        rows += audit(Manifest(tuple(fresh[start : start + BLOCK])), spec, slide).rows
    refused = {row.item.slide_id: "; ".join(row.refusals) for row in rows if row.refusals}
    items = tuple(
        replace(item, refused=refused[item.slide_id]) if item.slide_id in refused else item for item in manifest.items
    )
    return replace(manifest, items=items), rows
