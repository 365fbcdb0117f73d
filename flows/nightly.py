"""The night: extract what is new, then write the report. Training is an explicit act, and none of the night's."""

from __future__ import annotations

from typing import Any

from prefect import flow

import flows.environment  # noqa: F401 - before Prefect
from flows.extract import extract_flow
from flows.tasks import write_report_task
from pathotune_pipeline.archive.listing import Rescans


@flow(name="nightly", persist_result=False)
def nightly_flow(  # noqa: PLR0913 - a flow's parameters are its form in Prefect's pages
    store: str,
    out: str,
    slides: str | None = None,
    manifest: str | None = None,
    pseudonymise: str | None = None,
    settings: dict[str, Any] | None = None,
    models: list[str] | None = None,
    features: str | None = None,
    rescans: Rescans = "newest",
) -> dict[str, Any]:
    """Extract what is new in an archive, then write the report.

    Args:
        store: the store's folder.
        out: folder for report.html.
        slides, manifest, pseudonymise, settings, rescans: as for the extract flow.
        models: folders that crossval wrote, to be shown in the report.
        features: the feature set to show; empty: the one just extracted.

    Returns:
        The extraction's result, and the report's path.
    """
    result = extract_flow(
        store=store, slides=slides, manifest=manifest, pseudonymise=pseudonymise, settings=settings, rescans=rescans
    )
    report = write_report_task(store, models or [], out, features or result["features"])
    return {**result, "report": report}
