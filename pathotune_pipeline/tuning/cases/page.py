"""From findings to the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.evaluation.scoring import curves_by_risk
from pathotune_pipeline.reports.cases import CasesPage, TilePicture, write_cases_page
from pathotune_pipeline.tuning.cases.judging import Findings, survival_task
from pathotune_pipeline.tuning.cases.material import CaseMaterial
from pathotune_pipeline.tuning.cases.slides import CaseSlides

_LEAST = 4
"""Cases of a cohort whose survival curves are drawn."""


def write_page(path: Path, found: Findings, material: CaseMaterial, *, card: Mapping[str, Any], title: str) -> None:
    """Write a tuning's page.

    Args:
        path: of the page.
        found: what is shown.
        material: the cases.
        card: of the tuning.
        title: of the page.

    Raises:
        UsageError: it cannot be written.
    """
    slides = material.tiles if isinstance(material.tiles, CaseSlides) else None
    page = CasesPage(
        title=title,
        card=card,
        survival=_survival(found, material),
        time_unit=str(card["columns"].get("time") or ""),
        pathways=[asdict(each) for each in found.pathways],
        tiles=[] if slides is None else _tiles(found, slides),
        store=None if slides is None else slides.store,
    )
    write_cases_page(path, page)


def _survival(found: Findings, material: CaseMaterial) -> dict[str, dict[str, Any]]:
    """Cohort -> curves of those above and below the cohort's median risk."""
    at = found.tasks.index(survival_task(found.tasks))
    curves = {}
    for cohort in sorted({material.cases[case].cohort for case in found.judged}):
        known = [
            (case.survival, row[at].risk)
            for case, row in zip((material.cases[case] for case in found.judged), found.answers, strict=True)
            if case.cohort == cohort and case.survival is not None and row[at].risk is not None
        ]
        if len(known) >= _LEAST:
            times, events = np.array([each[0] for each, _ in known]), np.array([each[1] for each, _ in known], bool)
            risks = np.array([risk for _, risk in known], np.float64)
            curves[cohort] = curves_by_risk(times, events, risks > np.median(risks))
    return curves


def _tiles(found: Findings, slides: CaseSlides) -> list[TilePicture]:
    """Slides all of whose tiles were looked at."""
    pictures = []
    for each in found.tiles:
        record = slides.found[each.case_id][each.number]
        if len(each.values) == int(record.facts["tiles"]) - int(record.facts["invalid_tiles"]):
            pictures.append(TilePicture(record, each.case_id, each.why, each.risk, each.values))
    return pictures
