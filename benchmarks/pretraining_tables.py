"""What `pretraining_runs.py` found, as rows of JSON and a page of Markdown; parts that are not there yet are left out."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretraining_scores import HEAD, SCORE, kept
from timing import row

from pathotune_pipeline.store.files import replace_file

BENCH = "pretraining_runs"
RUNS = ("puzzle", "mae", "distill")
SETS = ("tissue", "camelyon", "mitosis")


def write_page(work: Path, plan: Mapping[str, Any]) -> None:
    """Print all rows and write WORK/pretraining_runs.md."""
    parts = [_runs(work, plan), _curves(work), _rankme(work), *(_patches(work, name) for name in SETS), _regions(work)]
    text = "# Pretraining runs\n\n" + "\n".join(part for part in parts if part)
    replace_file(work / "pretraining_runs.md", text.encode())


def _runs(work: Path, plan: Mapping[str, Any]) -> str:
    rows = []
    for name in RUNS:
        checks, metrics = (_rows(work / name / f"{what}.csv") for what in ("checks", "metrics"))
        if not checks or not metrics:
            continue
        first, last, at_end = checks[0], checks[-1], metrics[-1]
        share = float(last["watched_loss"]) / float(last["constant_loss"])
        rate = sum(float(each["images_per_s"]) for each in metrics) / len(metrics)
        steps = plan["steps"][name]
        rows.append(
            (
                name, f"{at_end['step']} of {steps}", at_end["images"], f"{rate:.0f}",
                f"{float(first['watched_loss']):.4f} (step {first['step']})", f"{float(last['watched_loss']):.4f}",
                f"{float(last['constant_loss']):.4f}", f"{share:.3f}", f"{float(first['rankme']):.1f}",
                f"{float(last['rankme']):.1f}",
            )
        )  # fmt: skip
        row(BENCH, f"{name}: held-out loss", float(last["watched_loss"]), "loss", {"of the best constant's": share})
    if not rows:
        return ""
    head = (
        "run", "steps", "images", "images/s", "held-out loss, first", "last", "best constant", "last of constant",
        "RankMe, first", "last",
    )  # fmt: skip
    return "## Runs\n\n" + _table(head, rows)


def _curves(work: Path) -> str:
    """Each run's held-out loss and the means of its losses, check by check."""
    parts = []
    for name in RUNS:
        checks, metrics = (_rows(work / name / f"{what}.csv") for what in ("checks", "metrics"))
        if not checks or not metrics:
            continue
        plain = ("step", "epoch", "images", "lr", "images_per_s", "waited_share")
        losses = [column for column in metrics[0] if column not in plain]
        rows, begin = [], 0
        for check in checks:
            end = int(check["step"])
            window = [each for each in metrics if begin < int(each["step"]) <= end]
            means = [_mean(window, column) for column in losses]
            told = [f"{float(check[column]):.4f}" for column in ("watched_loss", "constant_loss")]
            rows.append((check["step"], *means, *told, f"{float(check['rankme']):.1f}"))
            begin = end
        parts.append(f"### {name}\n\n" + _table(("step", *losses, "held-out loss", "best constant", "RankMe"), rows))
    return "## Curves\n\nMeans since the line above.\n\n" + "\n".join(parts) if parts else ""


def _rankme(work: Path) -> str:
    found = kept(work / "rankme.json")
    for name, value in found.items():
        row(BENCH, f"RankMe: {name}", value, "directions")
    rows = [(name, f"{value:.1f}") for name, value in found.items()]
    return "## RankMe\n\n" + _table(("encoder", "RankMe"), rows) if rows else ""


def _patches(work: Path, name: str) -> str:
    found = kept(work / "patches" / name / "scores.json")
    if not found:
        return ""
    rows = []
    for each in found["rows"]:
        if each["score"] != SCORE:
            continue
        case = f"{name} {each['test']}: {each['encoder']}, {each['method']}"
        if each["mean"] is None:
            rows.append(
                (each["test"], each["encoder"], each["method"], f"– ({each['reason']})", "–", each["images"] or "–")
            )
            continue
        row(BENCH, case, each["mean"], SCORE, **_ends(each))
        told = (f"{each['mean']:.3f}", _interval(each), each["images"])
        rows.append((each["test"], each["encoder"], each["method"], *told))
    text = f"## {name}\n\n" + _table(("tested on", "encoder", "probe", "balanced accuracy", "95 %", "images"), rows)
    return text + _pairs(found["pairs"], name, SCORE)


def _regions(work: Path) -> str:
    found = kept(work / "regions.json")
    rows = []
    for name, each in found.items():
        if name == "pairs":
            continue
        area, seen = each["auroc"], each["attention"]
        row(BENCH, f"regions: {name}, {HEAD}", area["value"], "AUROC", **_ends(area))
        told = f"{seen['value']:.3f}" if seen else "–"
        rows.append((name, f"{area['value']:.3f}", _interval(area), told, each["regions"]))
    if not rows:
        return ""
    text = f"## Regions of crc01, {HEAD}\n\n" + _table(
        ("encoder", "AUROC", "95 %", "attention's AUROC", "regions"), rows
    )
    return text + _pairs(found["pairs"], "regions", "AUROC")


def _pairs(pairs: Sequence[Mapping[str, Any]], name: str, unit: str) -> str:
    rows = []
    for each in pairs:
        where = ", ".join(each[key] for key in ("method", "test") if key in each) or HEAD
        row(BENCH, f"{name}, {where}: {each['first']} less {each['second']}", each["mean"], unit, **_ends(each))
        rows.append((each["first"], each["second"], where, f"{each['mean']:+.3f}", _interval(each, sign="+")))
    return "\n" + _table(("encoder", "less", "by", "difference", "95 %"), rows) if rows else ""


def _ends(each: Mapping[str, Any]) -> dict[str, float]:
    return {name: each[name] for name in ("low", "high") if each[name] is not None}


def _interval(each: Mapping[str, Any], *, sign: str = "") -> str:
    return f"{each['low']:{sign}.3f} to {each['high']:{sign}.3f}" if each["low"] is not None else "–"


def _mean(rows: Sequence[Mapping[str, str]], column: str) -> str:
    values = [float(each[column]) for each in rows]
    return f"{sum(values) / len(values):.4f}" if values else "–"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [each for each in csv.DictReader(file) if None not in each.values()]
