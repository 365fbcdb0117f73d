"""A study's page from the plain values that `pathotune study` writes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.reports.figures.curves import CurvePoint, StudyCurve, scaling_figure
from pathotune_pipeline.reports.study import write_study_page

EVIL = "<script>alert(1)</script>"


def summary_row(**values: Any) -> dict[str, Any]:
    base = {
        "encoder": "vit", "method": "linear", "train_domain": "", "fraction": 1.0, "test": "a", "in_domain": True,
        "score": "balanced_accuracy", "mean": 0.7512, "std": 0.021, "low": 0.7011, "high": 0.8023, "level": 0.95,
        "runs": 3, "cells": 3, "images": 40, "groups": 8, "resampled": "group", "reason": "",
        "against": "vit, cnn", "difference": 0.0412, "difference_low": -0.0113, "difference_high": 0.0904,
    }  # fmt: skip
    return base | values


def cell_row(**values: Any) -> dict[str, Any]:
    base = {
        "encoder": "vit", "method": "linear", "train_domain": "", "fraction": 1.0, "fold": 0, "seed": 0,
        "status": "done", "reason": "",
    }  # fmt: skip
    return base | values


def page(folder: Path, *, kind: str = "scaling", summary: list[Any], cells: list[Any] | None = None) -> str:
    study = {
        "kind": kind, "title": EVIL, "note": EVIL, "made": "2026-01-01T00:00:00Z", "classes": ["x", "y"],
        "notes": [EVIL], "settings": {kind: {"folds": 3, "fractions": [0.1, 1.0], "name": EVIL}},
        "baseline": "vit, cnn", "summary": summary, "cells": cells or [cell_row()],
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(study))
    return write_study_page(folder).read_text()


def test_every_number_stands_on_the_page_with_what_it_is(tmp_path: Path) -> None:
    told = page(
        tmp_path,
        summary=[
            summary_row(),
            summary_row(test="b", in_domain=False, mean=0.6, std=None, resampled="image", groups=40),
            summary_row(method="lora", runs=2, reason="1 of 3 failed: boom"),
            summary_row(fraction=0.1, mean=None, std=None, low=None, high=None, level=None, runs=None, images=None,
                        resampled=None, reason="3 of 3 not run: too few", difference=None),
        ],
        cells=[
            cell_row(),
            cell_row(method="lora", status="failed", reason="boom"),
            *(cell_row(fraction=0.1, fold=fold, status="not run", reason="too few") for fold in range(3)),
        ],
    )  # fmt: skip
    for said in (
        "0.751", "± 0.021", "[0.701, 0.802]", "40 images of 8 groups; intervals by group",
        "40 images; intervals by image", "2 of 3 runs", "not run", "too few", "boom", "Another domain", "0.1, 1.0",
        "Δ +0.041 [-0.011, +0.090]",
    ):  # fmt: skip
        assert said in told, said
    assert told.count("<svg") == 2


def test_what_a_file_says_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    told = page(tmp_path, summary=[summary_row(method=EVIL, test=EVIL, encoder=EVIL)], cells=[cell_row(reason=EVIL)])
    assert "<script" not in told
    assert "http://" not in told
    assert "https://" not in told


def test_domains_are_told_apart_by_what_was_trained_on(tmp_path: Path) -> None:
    rows = [
        summary_row(train_domain=train, test=test, in_domain=train == test, mean=mean)
        for (train, test), mean in {("a", "a"): 0.91, ("a", "b"): 0.72, ("b", "a"): 0.63, ("b", "b"): 0.84}.items()
    ]
    told = page(tmp_path, kind="domains", summary=rows)
    trained = told.split("Trained on ")[1:]
    assert [part[0] for part in trained[:2]] == ["a", "b"]
    assert trained[0].index("0.910") < trained[0].index("0.720")
    assert trained[1].index("0.630") < trained[1].index("0.840"), "columns keep their order"
    assert "<svg" not in told


@pytest.mark.parametrize("text", [None, "{", "[]", '{"kind": "scaling"}'])
def test_a_folder_without_a_study_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(UsageError, match="Run the study"):
        write_study_page(tmp_path)


def test_a_curve_stands_where_its_numbers_say() -> None:
    points = tuple(
        CurvePoint(fraction, value, value - 0.05, value + 0.05)
        for fraction, value in ((0.01, 0.6), (0.1, 0.7), (1.0, 0.8))
    )
    figure = scaling_figure([StudyCurve("lora", points)], title="t", score="AUROC", told="")
    assert figure is not None
    dots = [each for each in ElementTree.fromstring(figure.svg).iter() if each.tag == "circle"][:3]
    x, y = ([float(each.attrib[name]) for each in dots] for name in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2), "fractions are on a logarithmic axis"
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.2)
    assert y[0] > y[2]


def test_curves_of_many_methods_can_be_told_apart() -> None:
    curves = [StudyCurve(f"m{i}", (CurvePoint(1.0, 0.5 + i / 100, None, None),)) for i in range(9)]
    figure = scaling_figure(curves, title="t", score="AUROC", told="")
    assert figure is not None
    looks = [each.attrib["class"] for each in ElementTree.fromstring(figure.svg).iter() if each.tag == "circle"]
    assert len(set(looks)) == 9
    assert scaling_figure([StudyCurve("none", ())], title="t", score="AUROC", told="") is None
