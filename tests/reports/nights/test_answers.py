"""A pinned model on the night's page: who it is, how good it was found, what it said of new slides, and where it looked."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.reports.nights.answers import NightModel, SlideAnswer, TargetView, shown
from pathotune_pipeline.reports.nights.distribution import histogram_figure, wilson
from pathotune_pipeline.reports.nights.page import write_night
from pathotune_pipeline.reports.nights.thumbnails import small_webp
from pathotune_pipeline.reports.views import Score
from tests.browsing import browser_page

NASTY = "<b>bold</b>"
GRADES = TargetView("grade", "binary", ("low", NASTY), ("low", NASTY))
AGE = TargetView("age", "regression", (), ("predicted",))
LABELS = TargetView("marks", "multilabel", ("p53", "ki67"), ("p53", "ki67"))


def answer(high: float) -> SlideAnswer:
    values = {"grade": np.array([1 - high, high]), "age": np.array([100 * high]), "marks": np.array([high, 1.0])}
    said = {
        "grade": (NASTY if high > 0.5 else "low",),
        "age": (),
        "marks": ("p53", "ki67") if high > 0.5 else ("ki67",),
    }
    return SlideAnswer("predicted", values=values, said=said)


def model_of(fake: Any, answers: Mapping[str, SlideAnswer], **more: Any) -> NightModel:
    told = {
        "name": f"model {NASTY}", "fingerprint": "ab" * 32, "head": "abmil",
        "features": str(fake.FEATURES).removeprefix("features-"),
        "intended_use": "research use only", "judged_on": "the held-out test part", "targets": [GRADES, AGE, LABELS],
        "scores": {"grade": [Score("AUROC", 0.87, 0.81, 0.93), Score("Brier score", None, reason="too few")]},
        "attend": lambda record: np.arange(record.facts["tiles"] - record.facts["invalid_tiles"], dtype=float),
    }  # fmt: skip
    return NightModel(answers=answers, **{**told, **more})


@pytest.fixture
def night(archive: SimpleNamespace) -> dict[str, SlideAnswer]:
    """Eight new slides and a changed one over 21 old ones; one of the new ones is abstained on."""
    new = [archive.fresh(f"new-{index}.svs", seed=index, invalid=index % 2) for index in range(8)]
    archive.night([*new, archive.fresh("old-01.svs", identity="other")])
    answers = {each.slide_id: answer(0.2) for each in archive.old}
    answers |= {f"new-{index}.svs": answer(0.9 - index / 100 if index > 2 else 0.1) for index in range(7)}
    return answers | {"new-7.svs": SlideAnswer("abstained", f"poor {NASTY}")}


def maps(source: str) -> list[tuple[str, bytes]]:
    """Slides and pictures of the heat maps."""
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="Attention over slide ([^"]+)">', source)
    return [(name, base64.b64decode(data)) for data, name in found]


def test_the_page_tells_of_the_model(
    archive: SimpleNamespace, fake: SimpleNamespace, night: dict[str, SlideAnswer], tmp_path: Path
) -> None:
    source = write_night(archive.store.root, tmp_path / "out", model=model_of(fake, night)).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", source))
    assert "ab" * 32 in text
    assert "AUROC 0.870 95 % interval 0.810 to 0.930" in text
    assert "Brier score – too few" in text
    assert "predicted: 8 this night, 21 before; abstained: 1 this night, 0 before." in text
    assert "4 of 8, past 21 of 21" in text, "low: three new ones and the changed one"
    assert "4 of 8, past 0 of 21" in text
    assert "8 of 8, past 21 of 21" in text, "every slide has the second label"
    assert "Medians: 20 before, 52 this night." in text
    assert NASTY not in source
    assert "poor &lt;b&gt;bold&lt;/b&gt;" in source
    assert "nothing of this night is in them" in text


def test_heat_maps_of_the_surest_of_each_class(
    archive: SimpleNamespace, fake: SimpleNamespace, night: dict[str, SlideAnswer], tmp_path: Path
) -> None:
    found = maps(write_night(archive.store.root, tmp_path / "out", model=model_of(fake, night)).read_text())
    assert [name for name, _ in found] == ["new-3.svs", "new-0.svs", "new-4.svs", "new-1.svs", "new-5.svs", "new-2.svs"]
    for _, data in found:
        assert data[:4] + data[8:12] == b"RIFFWEBP"
        assert len(data) <= 4000
        image = cv2.imdecode(np.frombuffer(data, np.uint8), 1).astype(int)
        assert max(image.shape) >= 150
        assert np.count_nonzero(np.ptp(image, axis=2) > 60) > 100, "tiles are coloured, the slide is grey"


def test_numbers_are_shown_by_height() -> None:
    answers = {f"s{index}": answer(index / 10) for index in range(9)}
    model = SimpleNamespace(targets=[AGE])
    assert shown(model, answers) == [f"s{index}" for index in (8, 7, 6, 5, 4, 3)]  # type: ignore[arg-type]


def test_a_model_without_attention_or_scores_and_a_damaged_slide(
    archive: SimpleNamespace, fake: SimpleNamespace, night: dict[str, SlideAnswer], tmp_path: Path
) -> None:
    def page(**more: Any) -> str:
        return write_night(archive.store.root, tmp_path / "out", model=model_of(fake, night, **more)).read_text()

    plain = page(attend=lambda record: None, scores={})
    assert "The model has no attention of single slides to show." in plain
    assert "Its folder has no held-out scores." in plain
    assert maps(plain) == []

    def damaged(record: Any) -> np.ndarray:
        if record.slide_id != "new-0.svs":
            raise CorruptDataError("its features cannot be read")
        return np.ones(record.facts["tiles"])

    assert [name for name, _ in maps(page(attend=damaged))] == ["new-0.svs"]
    assert "new-3.svs: its heat map cannot be made (CorruptDataError)." in page(attend=lambda record: np.ones(1))
    with pytest.raises(UsageError, match="The model takes other-features"):
        page(features="other-features")


def test_a_quiet_night_shows_the_model_and_no_maps(
    archive: SimpleNamespace, fake: SimpleNamespace, tmp_path: Path
) -> None:
    archive.night([])
    answers = {each.slide_id: answer(0.2) for each in archive.old}
    source = write_night(archive.store.root, tmp_path / "out", model=model_of(fake, answers)).read_text()
    assert "No slide of this night was predicted." in source
    assert maps(source) == []
    assert "<figure" not in source


def test_intervals_and_bins() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)  # Newcombe, Stat Med 1998
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == pytest.approx(1.0)
    assert histogram_figure(np.array([np.nan]), np.array([1.0]), title="t", unit="u") is None
    figure = histogram_figure(np.array([2.0, 2.0]), np.array([]), title="t", unit="u")
    assert figure is not None
    assert "100 % of 2 slides" in figure.svg
    assert figure.told.endswith("Medians: 2 this night.")


def test_a_picture_that_is_hard_to_press_becomes_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    assert len(small_webp(noise, 4000)) <= 4000


def test_in_a_browser(
    archive: SimpleNamespace, fake: SimpleNamespace, night: dict[str, SlideAnswer], tmp_path: Path
) -> None:
    path = write_night(archive.store.root, tmp_path / "out", model=model_of(fake, night))
    with browser_page() as page:
        page.goto(path.as_uri())
        pictures = page.locator(".small-maps img")
        assert pictures.count() == 6
        pictures.first.scroll_into_view_if_needed()
        assert pictures.evaluate_all("all => all.every(each => each.naturalWidth > 100)")
        page.get_by_text("What it said of this night's slides").click()
        assert page.get_by_text(f"poor {NASTY}").is_visible()
        assert not page.told
