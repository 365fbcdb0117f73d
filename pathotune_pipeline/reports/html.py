"""The page: what was collected, laid into one self-contained HTML file. Everything that came from a file is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from pathotune_pipeline.reports.collect import StoreView
from pathotune_pipeline.reports.figures.canvas import Figure
from pathotune_pipeline.reports.figures.classes import (
    confusion_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from pathotune_pipeline.reports.figures.heat import colour_bar
from pathotune_pipeline.reports.figures.outcomes import scatter_figure, survival_figure
from pathotune_pipeline.reports.figures.scores import ForestRow, folds_figure, forest_figure
from pathotune_pipeline.reports.models import CLASS_KINDS, ModelView
from pathotune_pipeline.reports.pictures import HeatPicture, Picture
from pathotune_pipeline.reports.predictions import Prediction, confusion
from pathotune_pipeline.reports.views import Score
from pathotune_pipeline.version import VERSION

TEMPLATES = Path(__file__).parent / "templates"
MANY_SLIDES = 500
"""Above so many the slide table is shown by pages of PAGE_ROWS."""
PAGE_ROWS = 100
THIN_SPACE = "\u202f"


@dataclass(frozen=True, slots=True)
class Heat:
    """A heat map, of which prediction it is, and why it is shown."""

    why: str
    prediction: Prediction
    map: HeatPicture


@dataclass(slots=True)
class ModelPanel:
    """One model with its pictures."""

    view: ModelView
    heats: list[Heat] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """Of the slides that the folds held out."""
        return _figures(self.view)

    @property
    def external_figures(self) -> list[Figure]:
        """Of an external test set."""
        return _figures(self.view.external) if self.view.external else []

    @property
    def last_epoch(self) -> list[tuple[Score, Score]]:
        """Each score of the weights with the best validation, and of those after the last epoch."""
        last = {score.title: score for score in self.view.last}
        return [(score, last[score.title]) for score in self.view.scores if score.title in last]

    @property
    def folds(self) -> Markup:
        return folds_figure(self.view.folds, self.view.scores, self.view.fold_titles)

    @property
    def fold_slides(self) -> bool:
        """Whether the folds' numbers of slides are known."""
        return any(fold.slides is not None for fold in self.view.folds)

    @property
    def bar(self) -> Markup:
        return colour_bar(f"heat-{id(self.view)}")

    def score(self, title: str) -> Score:
        """A score by its title; without a value where the model has no such score."""
        return next((score for score in self.view.scores if score.title == title), Score(title, None))


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """The models of one target, side by side.

    Attributes:
        target: column of the label table.
        models: numbers and panels, in the order of the page.
        titles: of every score that one of them has.
        forest: their headline scores with intervals; None of one model.
    """

    target: str
    models: list[tuple[int, ModelPanel]]
    titles: list[str]
    forest: Figure | None


@dataclass(frozen=True, slots=True)
class Fact:
    """A number at the top of the page."""

    title: str
    value: str
    bad: bool = False


def render(view: StoreView, models: list[ModelPanel], pictures: Mapping[str, Picture], *, made: str) -> str:
    """The whole page.

    Args:
        view: of the store.
        models: in the order given.
        pictures: of slides, by slide id.
        made: when, as it is to be shown.
    """
    environment = _environment()
    style, script = _asset("style.css"), _asset("script.js")
    own = [run for run in view.runs if run.features == view.features]
    return environment.get_template("report.html.j2").render(
        view=view,
        models=models,
        pictures=pictures,
        made=made,
        version=VERSION,
        facts=_facts(view),
        failed=view.of_status("failed"),
        empty=view.of_status("empty"),
        unfinished=bool(own) and not own[0].finished,
        groups=_groups(models),
        page_rows=PAGE_ROWS if len(view.slides) > MANY_SLIDES else 0,
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def render_page(template: str, *, script: str = "", **values: object) -> str:
    """A page from a template of ours; the style sheet, the script, their hashes and our version are there by name.

    Args:
        template: its file's name.
        script: file of the script; none where empty.
        values: what the template shows.
    """
    style, code = _asset("style.css"), _asset(script) if script else ""
    own = {
        "style": Markup(style), "style_hash": _csp_hash(style), "version": VERSION,
        "script": Markup(code), "script_hash": _csp_hash(code),
    }  # fmt: skip
    return _environment().get_template(template).render(**own, **values)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        data_block=data_block, identity=id,
        count=_count, score=_score, percent=_percent, area=_area, seconds=_seconds, significant=_significant,
        stamp=_stamp, data_uri=_data_uri,
    )  # fmt: skip
    return environment


def _asset(name: str) -> str:
    """Our own style sheet or script; `</` would end it early, and neither has any."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """What a Content-Security-Policy allows this one text by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _figures(view: ModelView) -> list[Figure]:
    """The pictures of its kind of target, each where its data are known."""
    unit = {"by_patient": view.by_patient}
    found: list[Figure | None] = []
    if view.curves:
        found.append(roc_figure(view.curves, view.scores, view.bands, **unit))
    if view.bands:
        found.append(precision_recall_figure(view.bands, view.scores, **unit))
    if view.reliability:
        found.append(reliability_figure(view.reliability, **unit))
    if view.kind in CLASS_KINDS and view.units:
        cut = all(each.threshold is not None for each in view.units)
        counts = confusion(view.units, view.classes)
        found.append(confusion_figure(view.classes, counts, patients=view.cases, at_threshold=cut, **unit))
    if view.survival:
        found.append(survival_figure(view.survival, view.target, **unit))
    if view.kind == "regression" and view.units:
        truth = [float(each.label) for each in view.units]
        said = [float(each.values[0]) for each in view.units]
        found.append(scatter_figure(truth, said, target=view.target, scores=view.scores, patients=view.cases, **unit))
    return [each for each in found if each is not None]


def _groups(models: Sequence[ModelPanel]) -> list[TargetGroup]:
    """Models by target and headline score, where there are several models."""
    if len(models) < 2:
        return []
    by_target: dict[tuple[str, str], list[tuple[int, ModelPanel]]] = {}
    for index, model in enumerate(models, 1):
        headline = model.view.scores[0].title if model.view.scores else ""
        by_target.setdefault((model.view.target, headline), []).append((index, model))
    groups = []
    for (target, headline), members in by_target.items():
        titles = dict.fromkeys(score.title for _, model in members for score in model.view.scores)
        forest = forest_figure(_forest_rows([model.view for _, model in members], headline))
        groups.append(TargetGroup(target, members, list(titles), forest if len(members) > 1 else None))
    return groups


def _forest_rows(views: Sequence[ModelView], headline: str) -> list[ForestRow]:
    """Heads by encoder, both in the order in which they were given."""
    pairs = Counter((view.encoder, view.head) for view in views)
    order = {name: index for index, name in enumerate(dict.fromkeys(view.encoder for view in views))}
    rows = []
    for view in sorted(views, key=lambda view: order[view.encoder]):
        name = view.head or view.name
        if view.head and pairs[view.encoder, view.head] > 1:
            name = f"{view.name} ({view.head})"
        score = next((score for score in view.scores if score.title == headline), None)
        if score is not None:
            rows.append(ForestRow(view.encoder, name, score))
    return rows


def _facts(view: StoreView) -> list[Fact]:
    failed, empty = len(view.of_status("failed")), len(view.of_status("empty"))
    tiles = sum(row.tiles or 0 for row in view.slides)
    invalid = sum(row.invalid_tiles or 0 for row in view.slides)
    area = sum(row.area_mm2 or 0.0 for row in view.slides)
    return [
        Fact("slides", _count(len(view.slides))),
        Fact("committed", _count(len(view.of_status("committed")))),
        Fact("empty", _count(empty)),
        Fact("failed", _count(failed), bad=failed > 0),
        Fact(f"tiles, {_count(invalid)} invalid" if invalid else "tiles", _count(tiles)),
        Fact("mm² of tissue", _area(area)),
    ]


# --- numbers as text -----------------------------------------------------------------------------------------------


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}".replace(",", THIN_SPACE)


def _score(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _area(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}".replace(",", THIN_SPACE)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _significant(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _stamp(text: str) -> str:
    """An ISO time without its letters."""
    return text.replace("T", " ").removesuffix("Z")


def data_block(values: object) -> Markup:
    """Plain values as JSON that may stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)  # json.dumps escapes everything beyond ASCII, U+2028 too


def _data_uri(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")
