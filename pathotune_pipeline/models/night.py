"""A model as the night's page takes it: plain values of its card, its answers, and a function that gives attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.models.card import TargetFacts
from pathotune_pipeline.models.folder import Model
from pathotune_pipeline.models.table import PredictionLine, likely_classes
from pathotune_pipeline.reports.nights.answers import NightModel, SlideAnswer, TargetView
from pathotune_pipeline.reports.views import Score
from pathotune_pipeline.store.store import CommitRecord, FeatureStore


def night_model(model: Model, store: FeatureStore, lines: Sequence[PredictionLine]) -> NightModel:
    """The model and what it said.

    Args:
        model: that predicted.
        store: with the features, of which attention is worked out.
        lines: of the archive's slides.
    """
    card = model.card

    def attend(record: CommitRecord) -> np.ndarray | None:
        if model.fused:  # it weighs the tiles of all slides of a patient against each other
            return None
        return model.answer(read_bag(store, record, case_id=record.slide_id)).attention

    return NightModel(
        name=model.folder.resolve().name,
        fingerprint=card.fingerprint,
        head=card.head,
        features=card.features.name,
        intended_use=card.intended_use,
        judged_on=card.judged_on,
        targets=[TargetView(each.name, each.kind, each.classes, each.columns) for each in card.targets],
        scores={**_scores(card.scores), **_scores(card.scores_external, ", external test set")},
        answers={line.slide_id: _answer(line, card.targets) for line in lines},
        attend=attend,
    )


def _scores(told: Mapping[str, Any], more: str = "") -> dict[str, list[Score]]:
    """Scores by heading, each with its interval."""
    return {f"{target}{more}": [Score.of(name, each) for name, each in own.items()] for target, own in told.items()}


def _answer(line: PredictionLine, targets: Sequence[TargetFacts]) -> SlideAnswer:
    said = {each.name: likely_classes(each, line.values[each.name]) for each in targets if each.name in line.values}
    return SlideAnswer(line.status, line.reason, line.values, said)
