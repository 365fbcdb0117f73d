"""An adapter's card as people read it."""

from __future__ import annotations

from pathotune_pipeline.adapt.card import AdapterCard


def describe_adapter(card: AdapterCard) -> str:
    """What an adapter is, what it goes on, and what has to be said of it."""
    backbone = card.backbone
    lines = [
        f"adapter    {card.name}: {card.spec.method}, {card.parameters:,} parameters, sha256 {card.sha256[:12]}",
        f"goes on    {backbone.name} ({backbone.architecture}, {backbone.dim} numbers a tile), weights "
        f"{(backbone.weights_sha256 or 'unknown')[:12]}",
    ]
    if card.text is not None:
        many = len(card.text.texts) > 1
        for number, text in enumerate(card.text.texts):
            lines.append(f"{f'text #{number}' if many else 'text':<11}{text}")
        note = f" ({card.text.note})" if card.text.note else ""
        lines.append(f"read by    {card.text.encoder}{note}")
    lines += [f"{name:<11}{value}" for name, value in card.training.items() if isinstance(value, str | int | float)]
    if card.note:
        lines.append(f"note       {card.note}")
    return "\n".join(lines)
