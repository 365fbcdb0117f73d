"""What a worker process has loaded: encoders that stay on their device, and whether they are those of the plan."""

from __future__ import annotations

import threading

from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import WeightsError
from pathotune_pipeline.features.plan import Recipe
from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.tissue.segmenter import segmenter_recipe

_residents: dict[str, Resident] = {}
_lock = threading.Lock()


def loaded_encoder(recipe: Recipe) -> Resident:
    """This process's resident copy of the recipe's encoder, loaded when first asked for.

    Raises:
        WeightsError: the weights found here are not those that the run was planned with.
        SpecError: this machine has no such device.
    """
    spec, mode = recipe.spec.encoder, recipe.spec.engine.compile
    key = f"{spec.model_dump_json()} {mode}"
    with _lock:
        if key not in _residents:
            encoder = create_encoder(spec, device=pick_device(spec.device))
            _residents[key] = Resident(encoder, compile_mode=mode)
        resident = _residents[key]
    if resident.encoder.recipe() != recipe.encoder:
        raise WeightsError(
            f"{recipe.card.name}: the weights on this worker differ from those that the run was planned with. "
            "Give every machine the same files."
        )
    return resident


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
