"""From settings to a folder: patches read, cut in parts, learnt from, judged, written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.encoders.export import folder_layout
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.patches.read import read_patches
from pathotune_pipeline.tuning.patches.spec import PatchSpec
from pathotune_pipeline.tuning.run.adapt import adapt_patches
from pathotune_pipeline.tuning.run.folder import check_out, write_result
from pathotune_pipeline.tuning.run.network import check_encoder
from pathotune_pipeline.tuning.run.parts import AdaptRunSpec, part_patches
from pathotune_pipeline.tuning.run.spec import NETWORKS, PROBES


def run_adaptation(
    encoder: EncoderSpec,
    patches: PatchSpec,
    spec: AdaptRunSpec,
    *,
    out: Path,
    overwrite: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> dict[str, Any]:
    """Bring an encoder to the task that labelled patches state, and write the result.

    Args:
        encoder: what to begin with.
        patches: where they come from.
        spec: method and parts.
        out: folder; a training that was cut off there is gone on with.
        overwrite: whether an older result may be replaced.
        on_epoch: told of each epoch.

    Returns:
        The result's card.

    Raises:
        UsageError: settings or patches do not allow it.
        OutputExistsError: something else lies at `out`.
        WeightsError: weights are absent or do not fit.
    """
    check_out(out, overwrite=overwrite)
    if encoder.also or getattr(encoder, "adapter", ()):
        raise SpecError("One encoder without an adapter is adapted at a time. Leave the others, or --adapter, out.")
    loaded = None if spec.method == "cnn" else _load(encoder, spec, out)
    card = loaded.card if loaded else None
    found = read_patches(
        patches, side_px=card.input_px or card.tile_px if card else None, mpp=card.mpp if card else None
    )
    parts = part_patches(found, spec)
    result = adapt_patches(
        loaded or encoder, found, train=parts.train, val=parts.val, spec=spec, out=out, on_epoch=on_epoch
    )
    return write_result(out, result, patches=found, parts=parts, encoder=encoder)


def _load(encoder: EncoderSpec, spec: AdaptRunSpec, out: Path) -> Encoder:
    """The encoder; what does not go with it, or could not be written in the end, is said before patches are read."""
    probed = spec.method in PROBES
    loaded = create_encoder(
        encoder if probed else encoder.with_values(precision="fp32"), device=pick_device(encoder.device)
    )
    if not probed:
        check_encoder(loaded, spec)
    if spec.method in NETWORKS:
        folder_layout(loaded.card, encoder, name=out.name)
    return loaded
