"""What a worker process has loaded: encoders that stay on their device, and whether they are those of the plan."""

from __future__ import annotations

import threading
from pathlib import Path

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import CorruptDataError, UsageError, WeightsError
from pathotune_pipeline.features.plan import Recipe
from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.tissue.segmenter import segmenter_recipe

_residents: dict[str, Resident] = {}
_bases: dict[str, Encoder] = {}
"""Encoders as they are, never compiled themselves: those with adapters share their weights."""
_lock = threading.Lock()


def loaded_encoder(recipe: Recipe) -> Resident:
    """This process's resident copy of the recipe's encoder, loaded when first asked for.

    Raises:
        WeightsError: the weights or the adapter found here are not those that the run was planned with, or the adapter's
            file is not here.
        SpecError: this machine has no such device.
    """
    spec, mode, adapted = recipe.spec.encoder, recipe.spec.engine.compile, recipe.card.adapter is not None
    key = f"{spec.model_dump_json()} {mode}"
    with _lock:
        resident = _residents.get(key)
        # An adapter is trained again into the same file, and then is another.
        if resident is None or (adapted and resident.encoder.recipe() != recipe.encoder):
            resident = _residents[key] = Resident(_load(spec), compile_mode=mode)
    if resident.encoder.recipe() != recipe.encoder:
        what = "weights or the adapter" if adapted else "weights"
        raise WeightsError(
            f"{recipe.card.name}: the {what} on this worker differ from those that the run was planned with. "
            "Give every machine the same files."
        )
    return resident


def _load(spec: EncoderSpec) -> Encoder:
    plain = spec.with_values(adapter=())
    key = plain.model_dump_json()
    if key not in _bases:
        _bases[key] = create_adapted_encoder(plain, device=pick_device(plain.device))
    try:
        return create_adapted_encoder(spec, base=_bases[key])
    except (UsageError, CorruptDataError) as error:  # what is told is recorded, and folders may bear names
        folder = f"{Path(spec.adapter[0]).expanduser().parent}/"
        raise WeightsError(
            f"{str(error).replace(folder, '')} This is said by a worker: an adapter's file must lie under the same path on "
            "every machine."
        ) from None


def check_segmenter(recipe: Recipe) -> None:
    """Make sure that a segmenter found here is the one that the run was planned with.

    Raises:
        WeightsError: it is not.
    """
    if segmenter_recipe(recipe.spec.tissue) != recipe.segmenter:
        raise WeightsError(
            f"--segmenter {recipe.spec.tissue.segmenter}: its file on this worker differs from that the run was planned "
            "with. Give every machine the same files."
        )
