"""An encoder with an adapter on it, which is an encoder like any other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathotune_pipeline.adapt.card import AdapterCard
from pathotune_pipeline.adapt.file import load_adapter, read_adapter_card
from pathotune_pipeline.encoders.card import NO_ADAPTER, AdapterFacts, EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import SpecError

if TYPE_CHECKING:
    import torch


def create_adapted_encoder(
    spec: EncoderSpec, *, device: torch.device | str = "cpu", base: Encoder | None = None
) -> Encoder:
    """Build the encoder a Spec names, with its adapter where it names one.

    Args:
        spec: with one encoder and at most one adapter (`EncoderSpec.of_each`).
        device: where it runs, where there is no base.
        base: the same encoder without the adapter, as this function made it: its weights are shared, not copied, and it
            is left as it is.

    Raises:
        UnknownNameError: no encoder of that name.
        SpecError: several adapters, or a text that the adapter does not have.
        UsageError: the adapter's file is absent, no adapter, or of another encoder.
        CorruptDataError: the adapter's file is damaged.
        WeightsError: the encoder's weights are absent, gated, or do not fit.
    """
    if len(spec.adapter) > 1:
        raise SpecError(f"--adapter: one goes on an encoder here, and {len(spec.adapter)} were given. Give one.")
    given = next((each for each in spec.adapter if each != NO_ADAPTER), None)
    found = None if given is None else find_adapter(given)  # before gigabytes are loaded
    if base is None:
        base = create_encoder(spec.with_values(adapter=()), device=device)
    if found is None:
        return Encoder(base.module, base.card, spec, base.device)
    adapted = load_adapter(found.path, base.module, base.card)
    if found.text is not None:
        adapted.select_text(found.text)
    return Encoder(adapted.for_inference(), adapted_card(base.card, found.card, found.text), spec, base.device)


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """An adapter's file that was looked into.

    Attributes:
        path: of the file.
        card: of the adapter.
        text: number of its text that goes with the tiles; None where it has none.
    """

    path: Path
    card: AdapterCard
    text: int | None


def find_adapter(given: str) -> FoundAdapter:
    """The adapter that FILE or FILE#N names; a file whose own name ends so is itself. Its tensors are not read.

    Raises:
        SpecError: it holds several texts and none is chosen, or it has no text of that number.
        UsageError: nothing lies there, or it is no adapter.
        CorruptDataError: the file is damaged.
    """
    path, number = Path(given).expanduser(), None
    head, mark, tail = given.rpartition("#")
    if mark and tail.isdecimal() and not path.is_file():
        path, number = Path(head).expanduser(), int(tail)
    card = read_adapter_card(path)
    return FoundAdapter(path, card, _text_number(card, number, path))


def adapted_card(base: EncoderCard, adapter: AdapterCard, text: int | None = None) -> EncoderCard:
    """The card of an encoder with an adapter on it.

    Args:
        base: of the encoder.
        adapter: of the adapter.
        text: number of its text that goes with the tiles.
    """
    recipe = adapter.recipe()
    if text is not None and adapter.text is not None and len(adapter.text.texts) > 1:
        recipe["text"] = text
    facts = AdapterFacts(
        name=adapter.name,
        method=adapter.spec.method,
        parameters=adapter.parameters,
        sha256=adapter.sha256,
        text=adapter.text.texts[text] if adapter.text is not None and text is not None else None,
        text_encoder=adapter.text.encoder if adapter.text is not None else None,
        note="; ".join(note for note in (adapter.note, adapter.text.note if adapter.text else "") if note),
        recipe=recipe,
    )
    marked = adapter.name if "text" not in recipe else f"{adapter.name}#{text}"
    return base.with_values(name=f"{base.name}+{marked}", adapter=facts.model_dump())


def _text_number(card: AdapterCard, asked: int | None, path: Path) -> int | None:
    texts = card.text.texts if card.text is not None else ()
    if asked is None and len(texts) <= 1:
        return 0 if texts else None
    listed = "; ".join(f"#{number} {text!r}" for number, text in enumerate(texts))
    if asked is None:
        raise SpecError(
            f"--adapter {path}: it holds {len(texts)} texts, one for each of its tasks: {listed}. Say which, such as "
            f"--adapter {path}#0."
        )
    if asked >= len(texts):
        raise SpecError(
            f"--adapter {path}#{asked}: it has no text of that number" + (f"; it has {listed}." if texts else ".")
        )
    return asked
