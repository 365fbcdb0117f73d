"""What a pinned model said in a night: its answers to the night's slides beside those to the archive's past, and heat maps.

A model comes as plain values and one function that gives attention, so that reports need no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.reports import overlay
from pathotune_pipeline.reports.figures.canvas import Figure
from pathotune_pipeline.reports.nights.distribution import histogram_figure, shares_figure
from pathotune_pipeline.reports.nights.night import Night, NightSlide
from pathotune_pipeline.reports.nights.thumbnails import LONG_SIDE_PX, reduced, small_webp
from pathotune_pipeline.reports.pictures import UNREADABLE, tile_rectangles
from pathotune_pipeline.reports.views import Score
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

MOST_MAPS = 6
MAP_PX = 2 * LONG_SIDE_PX
MAP_BYTES = 4_000
LISTED = 200
"""Slides of the night whose answers stand on the page; the table of predictions has all."""

Attend = Callable[[CommitRecord], "np.ndarray | None"]
"""Attention over a slide's readable tiles, float [N]; None where the model has none to show."""


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target as the model answers it.

    Attributes:
        name: column of the label table.
        kind: as in the model's card.
        classes: names; empty of numbers and survival.
        columns: of the values.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlideAnswer:
    """What the model said of a slide.

    Attributes:
        status: predicted, abstained, failed or left.
        reason: why not predicted.
        values: [P] by target, in the order of its columns; empty where not predicted.
        said: by target, the class, or those of several labels that are likely.
    """

    status: str
    reason: str = ""
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class NightModel:
    """A model and its answers.

    Attributes:
        name: of its folder.
        fingerprint: 64 hexadecimal digits.
        head: the head's name.
        features: the set it takes, without "features-".
        intended_use: as its card says.
        judged_on: what its scores are of.
        targets: in the order of the answers.
        scores: by heading, as the model's folder has them; empty where nothing was held out.
        answers: by slide id.
        attend: gives attention.
    """

    name: str
    fingerprint: str
    head: str
    features: str
    intended_use: str
    judged_on: str
    targets: Sequence[TargetView]
    scores: Mapping[str, Sequence[Score]]
    answers: Mapping[str, SlideAnswer]
    attend: Attend


@dataclass(frozen=True, slots=True)
class HeatThumbnail:
    """A small heat map: WebP, and what the model said of the slide."""

    slide_id: str
    said: str
    webp: bytes


@dataclass(frozen=True, slots=True)
class ModelPanel:
    """A model as the night's page shows it.

    Attributes:
        model: with its answers.
        statuses: status, slides of the night, slides of the past.
        figures: a distribution for each target.
        rows: slide, status, and what was said or why not, of the night's slides.
        slides: how many the night has; those beyond `rows` stand in the table alone.
        heats: of some new slides.
        heat_note: why there are none; empty where there are.
    """

    model: NightModel
    statuses: list[tuple[str, int, int]]
    figures: list[Figure]
    rows: list[tuple[str, str, str]]
    slides: int
    heats: list[HeatThumbnail]
    heat_note: str = ""


def panel_of(store: FeatureStore, night: Night, model: NightModel) -> ModelPanel:
    """The model's part of a night's page.

    Raises:
        UsageError: the model takes other features than the night made.
    """
    own = str(night.features).removeprefix("features-")
    if model.features != own:
        raise UsageError(
            f"The model takes {model.features}, and this night made {own}. Give --features {model.features}, or another model."
        )
    fresh = {slide.row.slide_id: slide for slide in night.slides if slide.computed}
    answers = {name: model.answers[name] for name in fresh if name in model.answers}
    past = {slide.row.slide_id for slide in night.slides} - fresh.keys()
    before = {name: model.answers[name] for name in past if name in model.answers}
    counts = [Counter(answer.status for answer in each.values()) for each in (answers, before)]
    names = [name for name in ("predicted", "abstained", "failed", "left") if any(count[name] for count in counts)]
    rows = [(name, each.status, sentence(model, each)) for name, each in answers.items()]
    heats, note = _heats(store, [fresh[name] for name in shown(model, answers)], model)
    return ModelPanel(
        model,
        [(name, counts[0][name], counts[1][name]) for name in names],
        [figure for target in model.targets if (figure := _figure(target, answers, before)) is not None],
        rows[:LISTED],
        len(rows),
        heats,
        note,
    )


def sentence(model: NightModel, answer: SlideAnswer) -> str:
    """What the model said of a slide, or why it did not."""
    if answer.status != "predicted":
        return answer.reason
    told = []
    for target in model.targets:
        values, said = answer.values[target.name], answer.said[target.name]
        if not target.classes:
            text = f"{target.columns[0]} {values[0]:.3g}"
        elif target.kind == "multilabel":
            text = ", ".join(said) or "none"
        else:
            text = f"{', '.join(said)} ({values.max():.2f})"
        told.append(f"{target.name}: {text}" if len(model.targets) > 1 else text)
    return "; ".join(told)


def shown(model: NightModel, answers: Mapping[str, SlideAnswer]) -> list[str]:
    """Ids of the slides whose heat maps are drawn, MOST_MAPS at most: the surest of each class in turn, or the highest values."""
    target = model.targets[0]
    groups: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for name, answer in answers.items():
        if answer.status == "predicted":
            values = answer.values[target.name]
            height = float(values.max() if target.classes else values[0])
            groups.setdefault(answer.said[target.name] if target.classes else (), []).append((-height, name))
    ranked = [[name for _, name in sorted(groups[key])] for key in sorted(groups)]
    longest = max(map(len, ranked), default=0)
    return [each[place] for place in range(longest) for each in ranked if place < len(each)][:MOST_MAPS]


def _figure(target: TargetView, fresh: Mapping[str, SlideAnswer], past: Mapping[str, SlideAnswer]) -> Figure | None:
    """The night's answers beside the past's; None where the night has none."""
    tonight, before = ([each for each in some.values() if each.status == "predicted"] for some in (fresh, past))
    if not tonight:
        return None
    if target.classes:
        counts = [Counter(name for each in some for name in each.said[target.name]) for some in (tonight, before)]
        rows = [(name, counts[0][name], counts[1][name]) for name in target.classes]
        return shares_figure(rows, slides=(len(tonight), len(before)), title=target.name)
    values = [np.array([each.values[target.name][0] for each in some]) for some in (tonight, before)]
    return histogram_figure(values[0], values[1], title=target.name, unit=target.columns[0])


def _heats(store: FeatureStore, slides: Sequence[NightSlide], model: NightModel) -> tuple[list[HeatThumbnail], str]:
    """Small heat maps, and why there is none."""
    found, note = [], "" if slides else "No slide of this night was predicted."
    for slide in slides:
        try:
            webp = _heat(store, slide, model.attend)
        except UNREADABLE as error:
            note = note or f"{slide.row.slide_id}: its heat map cannot be made ({type(error).__name__})."
            continue
        if webp is None:
            return [], "The model has no attention of single slides to show."
        found.append(HeatThumbnail(slide.row.slide_id, sentence(model, model.answers[slide.row.slide_id]), webp))
    return found, "" if found else note


def _heat(store: FeatureStore, slide: NightSlide, attend: Attend) -> bytes | None:
    """One map; None where the model has no attention.

    Raises:
        CorruptDataError: it is of another number of tiles, or the slide has no picture.
    """
    if slide.record is None or slide.row.tissue is None or slide.row.size_px is None:
        raise CorruptDataError(f"{slide.row.slide_id}: no picture of it is in the store.")
    attention = attend(slide.record)
    if attention is None:
        return None
    thumbnail = reduced(store.read(slide.row.tissue, "thumbnail_jpeg"), MAP_PX)
    rectangles = tile_rectangles(store, slide.row, thumbnail)[store.read(slide.record, "valid").astype(bool)]
    if len(rectangles) != len(attention):
        raise CorruptDataError(f"{slide.row.slide_id}: {len(attention)} attention values for {len(rectangles)} tiles.")
    return small_webp(overlay.heat_map(thumbnail, rectangles, overlay.percentiles(attention)), MAP_BYTES)
