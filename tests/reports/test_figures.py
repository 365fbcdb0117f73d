"""Figures: what they say is what the model folder says, every string is escaped, and none grows without bound."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from pathotune_pipeline.reports.figures.canvas import MOST_POINTS, Plot, stairs, tick_texts, ticks
from pathotune_pipeline.reports.figures.classes import (
    MOST_CLASSES,
    confusion_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
    wilson,
)
from pathotune_pipeline.reports.figures.outcomes import MOST_DOTS, scatter_figure, survival_figure
from pathotune_pipeline.reports.figures.scores import ForestRow, folds_figure, forest_figure
from pathotune_pipeline.reports.models import model_folders, read_model
from pathotune_pipeline.reports.predictions import confusion
from pathotune_pipeline.reports.report import write_report
from pathotune_pipeline.reports.views import Curve, FoldScore, Score, SurvivalCurve, SurvivalView
from pathotune_pipeline.store.store import FeatureStore

EVIL = '<script>alert("1")</script>'


def texts(picture: str) -> list[str]:
    """What stands in a picture; it must be well-formed."""
    return [each.text or "" for each in ElementTree.fromstring(picture).iter("text")]


@pytest.fixture(scope="module")
def results(fake: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a result of every kind, as several targets' results lie."""
    folder = tmp_path_factory.mktemp("results") / "study"
    for kind in fake.KINDS:
        fake.build_result(folder / kind, kind, slides=60)
    return folder


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 70, [0, 20, 40, 60]),
        (-3, 3, [-2, 0, 2]),
        (0.97, 1.0, [0.97, 0.98, 0.99, 1]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
    for scale in (1e-6, 3.7, 1e9):
        found = ticks(low * scale, high * scale)
        assert 2 <= len(found) <= 6
        assert len(set(tick_texts(found))) == len(found)
    assert ticks(2, 2) == [2]


def test_a_plot_puts_numbers_where_they_belong() -> None:
    plot = Plot(x=(10, 20), y=(-1, 1), left=100, top=50, width=200, height=80)
    assert (plot.across(10), plot.across(15), plot.up(-1), plot.up(1)) == (100, 200, 130, 50)
    assert stairs([(0, 1.0), (2, 0.5), (3, 0.2)]) == [(0, 1.0), (2, 1.0), (2, 0.5), (3, 0.5), (3, 0.2)]
    long = [(10 + 10 * i / 9999, 0.0) for i in range(10_000)]
    assert plot.curve(long, "s0").count(",") <= MOST_POINTS + 1
    assert "300,90" in plot.curve(long, "s0")  # the last point is kept


def test_roc_figure() -> None:
    curve = Curve("pos", [0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    one = roc_figure([curve], [Score("AUROC", 1.0, 0.9, 1.0)]).svg
    assert 'points="58,280 58,10 328,10"' in one
    assert texts(one)[-3:] == ["pos", "AUROC 1.000 (0.900 to 1.000)", "chance"]
    several = roc_figure([curve, Curve(EVIL, [0.0, 1.0], [0.0, 1.0])], []).svg
    assert several.count("<polyline") == 2
    assert "<script>" not in several
    assert "pos against the rest" in texts(several)


def test_bands_are_drawn_where_they_can_be_seen(results: Path) -> None:
    view = read_model(results / "binary")
    assert view.bands is not None
    roc, pr = roc_figure(view.curves, view.scores, view.bands), precision_recall_figure(view.bands, view.scores)
    for figure in (roc, pr):
        assert figure.svg.count("<polygon") == 1
        assert "n = 60 slides of 30 patients, 20 of them mutated" in figure.told
        assert "95 % of 1000 resamplings" in figure.told
    many = read_model(results / "multiclass")
    assert many.bands is not None
    assert len(many.bands.classes) == 4
    assert "<polygon" not in roc_figure(many.curves, many.scores, many.bands).svg
    old = roc_figure(view.curves, view.scores)  # of a folder written before there were bands
    assert "<polygon" not in old.svg
    assert old.told == ""


def test_the_reliability_diagram_counts_every_slide(results: Path) -> None:
    view = read_model(results / "binary")
    figure = reliability_figure(view.reliability)
    for part in view.reliability:
        assert sum(part.slides) == 60
        told = re.findall(rf"<circle.*?{part.name}: predicted [\d.]+, came true [\d.]+ of (\d+) slides", figure.svg)
        assert sum(map(int, told)) == 60
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_the_confusion_matrix_is_that_of_the_predictions(results: Path) -> None:
    view = read_model(results / "multiclass")
    counts = confusion(view.units, view.classes)
    assert counts.sum() == 60
    assert counts.sum(axis=1).tolist() == [15, 15, 15, 15]
    assert counts.trace() == sum(each.correct for each in view.predictions.values())
    figure = confusion_figure(view.classes, counts, patients=view.cases)
    assert figure is not None
    assert "n = 60 slides of 30 patients" in figure.told
    row, column = divmod(int(counts.argmax()), 4)
    assert f"{100 * counts[row, column] / 15:.0f} %" in texts(figure.svg)
    assert "LUSC <small>" in texts(figure.svg)
    assert confusion_figure(["a"] * (MOST_CLASSES + 1), np.eye(MOST_CLASSES + 1, dtype=int)) is None
    assert confusion_figure(["a", "b"], np.zeros((2, 2), int)) is None
    absent = confusion_figure(["a", EVIL], np.array([[3, 1], [0, 0]]))
    assert absent is not None
    assert texts(absent.svg).count("–") == 2  # no slide is of that class: no share
    assert "<script>" not in absent.svg


def test_two_classes_are_parted_at_the_threshold_where_there_is_one(fake: SimpleNamespace, tmp_path: Path) -> None:
    view = read_model(fake.build_result(tmp_path / "m", "binary", slides=60, threshold=0.9))
    counts = confusion(view.units, view.classes)
    assert counts[:, 1].sum() == sum(each.values[1] >= 0.9 for each in view.units)
    sensitivity = next(each for each in view.scores if each.title == "Sensitivity at the threshold")
    assert counts[1, 1] / counts[1].sum() == pytest.approx(sensitivity.value)
    figure = confusion_figure(view.classes, counts, at_threshold=True)
    assert figure is not None
    assert "mutated from the threshold on" in figure.told


def test_patients_are_counted_where_they_are_judged(fake: SimpleNamespace, store: FeatureStore, tmp_path: Path) -> None:
    folder = fake.build_result(tmp_path / "m", "survival-cox", slides=60, unit="average")
    view = read_model(folder)
    assert (view.slides, view.cases, len(view.units)) == (60, 30, 30)
    assert view.survival is not None
    said = texts(survival_figure(view.survival, view.target, by_patient=True).svg)
    assert "lower risk: 15 patients" in said
    classes = read_model(fake.build_result(tmp_path / "c", "binary", slides=60, unit="average"))
    assert confusion(classes.units, classes.classes).sum() == 30
    assert "n = 30 patients" in roc_figure(classes.curves, classes.scores, classes.bands, by_patient=True).told


def test_an_external_test_set_and_the_last_epoch_are_shown(
    fake: SimpleNamespace, store: FeatureStore, tmp_path: Path
) -> None:
    folder = fake.build_result(tmp_path / "m", "binary", slides=60, external=True)
    view = read_model(folder)
    assert view.external is not None
    assert view.external.scores == view.scores  # of the same predictions
    page = write_report(store.root, tmp_path / "out", models=[folder]).read_text(encoding="utf-8")
    assert "External test set: 60 slides of 30 patients" in page
    assert page.count("<h4>ROC curve</h4>") == 2
    assert page.count("<h4>Confusion matrix</h4>") == 2
    assert "Weights after the last epoch" in page


def test_survival_curves_say_who_is_at_risk() -> None:
    low = SurvivalCurve("lower risk", [10, 30, 40], [0.8, 0.8, 0.5], [0.4, 0.4, 0.2], [1, 1, 0.8], [5, 4, 3])
    high = SurvivalCurve("higher risk", [5, 20], [0.5, 0.0], [0.1, 0.0], [0.8, 0.0], [2, 1])
    figure = survival_figure(SurvivalView([low, high], 0.0123), EVIL)
    said = texts(figure.svg)
    assert said[said.index("lower risk") + 1 :][:5] == ["5", "5", "4", "4", "3"]  # at 0, 10, 20, 30, 40
    assert said[said.index("higher risk") + 1 :][:5] == ["2", "1", "1", "0", "0"]
    assert figure.svg.count("tickmark s0") == 1  # at 30 nobody died
    assert "p = 0.012" in figure.told
    assert "<script>" not in figure.svg
    assert "p < 0.0001" in survival_figure(SurvivalView([low], 1e-9), "").told
    assert "No log-rank test: one group" in survival_figure(SurvivalView([low], None, "one group"), "").told


def test_a_scatter_plot_is_bounded() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    figure = scatter_figure(truth.tolist(), (truth + 1).tolist(), target=EVIL, scores=[Score("R²", 0.25)])
    assert figure.svg.count("h0") == MOST_DOTS
    assert "n = 20000 slides, of which 2000 are drawn. R² 0.25." in figure.told
    assert "<script>" not in figure.svg
    assert scatter_figure([3.0], [3.0], target="", scores=[]).told == "n = 1 slides."


def test_a_forest_has_a_row_for_every_model() -> None:
    rows = [
        ForestRow("uni", "abmil", Score("AUROC", 0.9, 0.8, 0.95)),
        ForestRow("uni", EVIL, Score("AUROC", 0.7, 0.6, 0.8)),
        ForestRow("virchow", "abmil", Score("AUROC", None, reason="no slide of class 1")),
    ]
    figure = forest_figure(rows)
    assert figure is not None
    said = texts(figure.svg)
    assert [each for each in said if each in ("uni", "virchow")] == ["uni", "virchow"]
    assert "0.900 (0.800 to 0.950)" in said
    assert "no slide of class 1" in said
    assert figure.svg.count("whisker") == 2
    assert "<script>" not in figure.svg
    assert forest_figure(rows[2:]) is None


def test_folds_figure() -> None:
    folds = [FoldScore(0, fold, 3, {"AUROC": value}) for fold, value in enumerate((0.9, None, 0.31))]
    figure = folds_figure(folds, [Score("AUROC", 0.7, 0.5, 0.8), Score("Balanced accuracy", None)], ("AUROC",))
    assert {"fold 3", "0.4", "1.0"} <= set(texts(figure))
    assert folds_figure([FoldScore(0, 0, 3, {"AUROC": None})], [], ("AUROC",)) == ""
    negative = folds_figure([FoldScore(0, 0, 3, {"R²": -1.3})], [Score("R²", -0.4, -2.0, 0.1)], ("R²",))
    places = [float(x) for x in re.findall(r'cx="([\d.-]+)"', negative)]
    assert min(places) >= Plot().left


def test_each_kind_has_its_pictures(results: Path, store: FeatureStore, tmp_path: Path) -> None:
    assert len(model_folders(results)) == 6
    page = write_report(store.root, tmp_path / "out", models=[results]).read_text(encoding="utf-8")
    by_model = dict(
        re.findall(
            r'<section class="card" id="model-\d+">.*?<span class="soft">([\w-]+)</span>(.*?)</section>',
            page,
            re.DOTALL,
        )
    )
    found = {
        kind: set(re.findall(r'<figure class="plot"><h4>(.*?)</h4>', part)) - {"Scores of each fold"}
        for kind, part in by_model.items()
    }
    curves = {"ROC curve", "Precision and recall"}
    assert found == {
        "binary": {*curves, "Calibration", "Confusion matrix"},
        "multiclass": {*curves, "Calibration", "Confusion matrix"},
        "ordinal": {*curves, "Confusion matrix"},
        "multilabel": curves,
        "regression": {"Predicted and true"},
        "survival-cox": {"Survival of lower and higher risk"},
    }
    assert "<small>" not in page
    assert "<t>" not in page
    assert all(f"{kind} &lt;t&gt;" in page for kind in found)  # each target has a heading of its own


def test_models_of_one_target_stand_in_one_forest(
    fake: SimpleNamespace, results: Path, store: FeatureStore, tmp_path: Path
) -> None:
    other = fake.build_result(tmp_path / "other", "binary", slides=60, head="transmil", skill=0.3)
    page = write_report(store.root, tmp_path / "out", models=[results, other]).read_text(encoding="utf-8")
    assert page.count("AUROC of every model") == 1
    scores = [
        json.loads((each / "crossval.json").read_text())["scores"]["auroc"] for each in (results / "binary", other)
    ]
    for score in scores:
        assert f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" in page


def test_a_thousand_slides_make_a_small_page(fake: SimpleNamespace, store: FeatureStore, tmp_path: Path) -> None:
    small, large = (
        len(
            write_report(
                store.root,
                tmp_path / f"out-{slides}",
                models=[
                    fake.build_result(tmp_path / f"{kind}-{slides}", kind, slides=slides, seeds=1)
                    for kind in fake.KINDS
                ],
            ).read_bytes()
        )
        for slides in (100, 1000)
    )
    assert large - small < 400_000
