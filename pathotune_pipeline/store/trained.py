"""Which slides models were trained on: one record a model under `STORE/models/`, so that a forgotten case leads to its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pathotune_pipeline.provenance import now, short
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json, to_json
from pathotune_pipeline.store.store import FeatureStore


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model that was made from this store.

    Attributes:
        fingerprint: of the model's card.
        name: of its folder; where that lies is not kept.
        features: name of the feature set.
        slides: case by slide id, of those that it was trained or validated on.
        forgotten: how many of its slides were forgotten since.
        made: when, UTC.
    """

    fingerprint: str
    name: str
    features: str
    slides: Mapping[str, str]
    forgotten: int = 0
    made: str = ""

    def save(self, store: FeatureStore) -> None:
        """Keep the record, over an older one of the same model.

        Raises:
            StoreUnwritableError: the store is full, read-only or forbidden.
        """
        record = {**asdict(replace(self, made=self.made or now())), "slides": dict(self.slides)}
        store.place.replace(f"{layout.MODELS}/{short(self.fingerprint)}.json", to_json(record))


def trained_models(store: FeatureStore) -> list[TrainedModel]:
    """Every model that was made from a store, oldest first."""
    names = (f"{layout.MODELS}/{name}" for name in store.place.names(layout.MODELS) if name[0] != ".")
    records: list[Any] = [parse_json(data) for data in store.place.read_many(names).values()]
    return sorted((TrainedModel(**each) for each in records if isinstance(each, dict)), key=lambda each: each.made)
