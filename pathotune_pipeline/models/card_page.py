"""MODEL_CARD.md: the model card for people, written from the card's plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_RULES = """\
- It is research software and not a medical device. No patient's care may depend on its answers.
- It takes only features of the recipe below, of slides like those that it was trained on: same stain, organ and kind of
  specimen. It cannot tell when a slide is unlike them; `predict` abstains only for poor quality and too little tissue.
- Scores are of the data named here. On slides from other scanners or hospitals they are usually lower: measure that with
  `pathotune evaluate` before you believe anything.
- Attention shows what the head weighed, not why, and not what is ill.
"""


def card_page(card: Mapping[str, Any]) -> str:
    """The page.

    Args:
        card: `ModelCard.as_dict()`.
    """
    features, data = card["features"], card["data"]
    parts = [
        f"# {card['head']} for {', '.join(each['name'] for each in card['targets'])}",
        f"**{card['intended_use'].capitalize()}.** Model `{card['fingerprint'][:12]}`, made {card['made']} with "
        f"pathotune_pipeline {card['versions'].get('pathotune_pipeline', '')}; {len(card['members'])} trained head"
        f"{'s, whose answers are averaged' if len(card['members']) > 1 else ''}.",
        "## What it answers",
        _table(("target", "kind", "answers"), ((t["name"], t["kind"], _answers(t)) for t in card["targets"])),
        "## Use, and limits",
        _RULES.rstrip(),
        "## How well",
        f"Scores are of {card['judged_on']}. Intervals: 95 %, patients resampled.",
        *(_scores(name, scores) for name, scores in card["scores"].items()),
        *(_scores(f"{name}, external test set", scores) for name, scores in card["scores_external"].items()),
        "## Data",
        _table(
            ("part", "slides" if card["training"].get("unit") != "fuse" else "patients as bags", "patients"),
            ((part, data["slides"][part], data["cases"][part]) for part in data["slides"]),
        ),
        f"Store `{data.get('store', '')}`; commits `{data['commits_sha256'][:12]}`, label table "
        f"`{data.get('labels_sha256', '')[:12]}` (SHA-256). `splits.csv` says where each slide was, `slides.csv` lists them by "
        "id, patient and content.",
        *([_list(data["notes"])] if data["notes"] else []),
        "## Features",
        f"`{features['name']}`: {features['dim']} numbers a tile of {features['tile_px']} px at {features['mpp']} um/px, encoder "
        f"`{features['encoder'].get('name', 'not known')}`. Features of another recipe are refused.",
        *_adapter(features["encoder"].get("adapter")),
        "## Licences",
        _table(("what", "licence"), card["licences"].items()),
        "## Training",
        _table(
            ("setting", "value"), ((name, value) for name, value in card["training"].items() if value not in ({}, None))
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _adapter(facts: Mapping[str, Any] | None) -> list[str]:
    """What is on the encoder, and what has to be said of it."""
    if not facts:
        return []
    text = f', with the text "{_cell(facts["text"])}" read by `{facts["text_encoder"]}`' if facts.get("text") else ""
    return [
        f"On the encoder is the adapter `{facts['name']}` ({facts['method']}, {facts['parameters']:,} numbers trained, SHA-256 "
        f"`{facts['sha256'][:12]}`){text}." + (f" Note: {_cell(facts['note'])}." if facts.get("note") else "")
    ]


def _answers(target: Mapping[str, Any]) -> str:
    if target["classes"]:
        return ", ".join(target["classes"])
    return (
        "risk, and survival at " + ", ".join(f"{t:g}" for t in target["horizons"]) if target["horizons"] else "a number"
    )


def _scores(name: str, scores: Mapping[str, Any]) -> str:
    def said(score: Mapping[str, Any]) -> str:
        if score["value"] is None:
            return f"not defined: {score['reason']}"
        bounds = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
        return f"{score['value']:.3f}{bounds}"

    return _table((name or "score", "value"), ((key, said(score)) for key, score in scores.items()))


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(header)
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_cell(each)}" for each in sentences)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
