"""LoRA's changes put into an encoder's weights."""

from __future__ import annotations

from pathlib import Path

from pathotune_pipeline.adapt.file import load_adapter, read_adapter_card
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.export import write_encoder
from pathotune_pipeline.errors import OutputExistsError, SpecError


def merge_lora(encoder: EncoderSpec, adapter: Path, out: Path) -> None:
    """Write an encoder with LoRA's changes in its weights, as a folder that `local:` takes.

    Args:
        encoder: that the adapter was trained on.
        adapter: file of a LoRA adapter.
        out: folder; must not be there yet, or be empty.

    Raises:
        SpecError: the adapter is none of LoRA's, or the encoder's network cannot be built from a folder.
        UsageError: the file is no adapter, or one of another encoder.
        OutputExistsError: something lies at `out`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(f"{out}: is there already. Give another --out.")
    stored = read_adapter_card(adapter)
    if stored.spec.method != "lora":
        raise SpecError(
            f"--lora {adapter}: it is an adapter of {stored.spec.method}, which has no weights to be merged. "
            "Use it as it is: extract --adapter."
        )
    base = create_encoder(encoder.with_values(precision="fp32"))
    adapted = load_adapter(adapter, base.module, base.card)
    changed = (
        f"{base.card.name} with LoRA's changes of adapter {stored.name!r} (tensors {stored.sha256[:12]}) merged in."
    )
    state = adapted.for_inference().state_dict()
    write_encoder(out, state, card=base.card, spec=encoder, changed=changed)
