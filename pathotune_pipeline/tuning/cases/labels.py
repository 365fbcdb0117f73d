"""Labels as text: what a case table says becomes sentences, vectors, and the targets of the tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pathotune_pipeline.adapt.modal.card import NO_LANGUAGE, LabelCard
from pathotune_pipeline.adapt.modal.projector import TextProjector
from pathotune_pipeline.adapt.modal.survival_words import SurvivalBins
from pathotune_pipeline.adapt.modal.texts import CaseFacts, CaseTextSpec, case_texts, embed_case_texts
from pathotune_pipeline.encoders.text import create_text_encoder, text_cache
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec
from pathotune_pipeline.tuning.cases.table import Case

if TYPE_CHECKING:
    import torch

_FIELDS = {
    "grade": ("grade", "tumor_grade"),
    "stage": ("stage", "ajcc_pathologic_stage", "pathologic_stage"),
    "t": ("t", "ajcc_pathologic_t", "pathologic_t"),
    "n": ("n", "ajcc_pathologic_n", "pathologic_n"),
    "m": ("m", "ajcc_pathologic_m", "pathologic_m"),
}
"""Columns that may hold what texts say, best first."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseLabels:
    """Targets of cases.

    Attributes:
        ids: K cases.
        texts: four a case, None where one would say nothing.
        targets: float32 [K, T, out_dim], unit vectors.
        told: bool [K, T], whether the task's text says something of the case.
        projector: frozen.
        card: of the texts.
    """

    ids: tuple[str, ...]
    texts: tuple[tuple[str | None, ...], ...]
    targets: torch.Tensor
    told: torch.Tensor
    projector: TextProjector
    card: LabelCard


def label_cases(cases: Sequence[Case], train: Sequence[str], spec: SlideTuneSpec) -> CaseLabels:
    """Texts of cases as targets; bins of survival are cut on the training cases of each cohort.

    Args:
        cases: of the cohorts that are trained on.
        train: ids of those that train.
        spec: texts, text encoder, tasks.

    Raises:
        ManifestError: a stage or a T, N, M cannot be read; the case is named.
        SpecError: a text cannot be read by the text encoder.
        WeightsError: the text encoder's weights cannot be had.
    """
    import torch

    bins = fit_bins(cases, train)
    texts = tuple(describe(case, bins.get(case.cohort), spec.texts, location=spec.cases.location) for case in cases)
    encoder = create_text_encoder(spec.text_encoder, n_tokens=1)
    vectors, there = embed_case_texts(encoder, texts, text_cache() if encoder.learned else None)
    projector = TextProjector(encoder.dim, spec.modal.out_dim, seed=spec.projector_seed)
    numbers = list(spec.modal.text_numbers())
    with torch.no_grad():
        targets = projector(vectors[:, numbers])
    card = LabelCard(
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
        dim=encoder.dim,
        projector_seed=spec.projector_seed,
        templates=spec.texts,
        bins=dict(bins),
        note="" if encoder.learned else NO_LANGUAGE,
    )
    return CaseLabels(tuple(case.case_id for case in cases), texts, targets, there[:, numbers], projector, card)


def fit_bins(cases: Sequence[Case], train: Sequence[str]) -> dict[str, SurvivalBins]:
    """Cohort -> bins of its training cases' follow-up; cohorts without any are absent."""
    wanted = set(train)
    months: Mapping[str, list[float]] = defaultdict(list)
    for case in cases:
        if case.case_id in wanted and case.survival is not None:
            months[case.cohort].append(case.survival[0])
    return {cohort: SurvivalBins.fit(np.array(own), where=cohort) for cohort, own in sorted(months.items())}


def describe(
    case: Case, bins: SurvivalBins | None, spec: CaseTextSpec, *, location: str = ""
) -> tuple[str | None, ...]:
    """The four texts of a case.

    Args:
        case: which.
        bins: of its cohort.
        spec: the templates.
        location: column of the organ; "" takes `location`, else the cohort's name.

    Raises:
        ManifestError: something it says cannot be read.
    """
    said = {
        name: next((found for column in columns if (found := case.field(column))), None)
        for name, columns in _FIELDS.items()
    }
    months, died = case.survival or (None, None)
    site = case.field(location or "location") or case.cohort
    try:
        facts = CaseFacts(site=site, diagnosis=case.label, months=months, died=died, **said)
        return case_texts(facts, bins, spec)
    except UsageError as error:
        raise ManifestError(f"case {case.case_id!r}: {error}") from None
