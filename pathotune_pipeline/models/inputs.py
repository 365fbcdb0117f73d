"""InputSlide: every slide that a model is asked about, whether it has features or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pathotune_pipeline.archive.manifest import Manifest
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.features.extract import ExtractResult
from pathotune_pipeline.features.reviewed import REJECTED
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.reports.collect import collect
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import CommitRecord, FeatureStore
from pathotune_pipeline.tissue.quality import Quality


@dataclass(frozen=True, slots=True)
class InputSlide:
    """A slide that a model is asked about.

    Attributes:
        slide_id: its id.
        case_id: the patient; empty where it is not known.
        reason: why there is nothing to predict from; empty where there is.
        failed: whether that is a failure; else the slide has no tile, or is left.
        left: whether the time was over before its features were made.
        record: its features' commit.
    """

    slide_id: str
    case_id: str = ""
    reason: str = ""
    failed: bool = False
    left: bool = False
    record: CommitRecord | None = field(default=None, repr=False)


def inputs_of_store(store: FeatureStore, features_set: SetName) -> list[InputSlide]:
    """Every slide of a set, and those that its last run failed to make, in the order of the ids."""
    view = collect(store, features_set)
    return [
        InputSlide(
            row.slide_id, row.case_id, row.reason, row.status == "failed", row.status == "left", record=row.features
        )
        for row in view.slides
    ]


def inputs_of_run(manifest: Manifest, result: ExtractResult, store: FeatureStore, name: SetName) -> list[InputSlide]:
    """Every slide of a manifest after its extraction; those that were not asked for are rejected ones."""
    records = store.records(name)
    outcomes = {outcome.slide_id: outcome for outcome in result.outcomes}
    found = []
    for item in manifest.items:
        case = item.case_id or ""
        outcome = outcomes.get(item.slide_id)
        if outcome is None:
            found.append(InputSlide(item.slide_id, case, REJECTED))
            continue
        failed, left = outcome.status == "failed", outcome.status == "left"
        record = None if failed or left else records.get(outcome.slide_id)
        found.append(InputSlide(outcome.slide_id, case, outcome.reason, failed, left, record=record))
    return found


def chosen(inputs: Iterable[InputSlide], slides: Iterable[str] | None) -> list[InputSlide]:
    """Those of the ids, in their order; all where None.

    Raises:
        UsageError: there is no such slide.
    """
    known = {each.slide_id: each for each in inputs}
    if slides is None:
        return list(known.values())
    wanted = list(dict.fromkeys(slides))
    for name in wanted:
        if name not in known:
            raise UsageError(f"--slide {name!r}: the set holds no such slide.{nearest(name, known)}")
    return [known[name] for name in wanted]


def quality_of(store: FeatureStore, record: CommitRecord) -> Quality | None:
    """What was measured of a slide's tissue; None of masks and features that came from elsewhere."""
    attributes: Any = dict(store.group(record.made_from("tissue")).attrs)
    measured = attributes.get("quality")
    return Quality.from_dict(measured) if measured else None
