"""Settings to a run: the network, the method, the images, and the processes that train together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pathotune_pipeline.engine.course import seeded
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.spec import Spec
from pathotune_pipeline.tuning.pretrain.distill import Distillation
from pathotune_pipeline.tuning.pretrain.mae import MaskedAutoencoder
from pathotune_pipeline.tuning.pretrain.network import build_trunk
from pathotune_pipeline.tuning.pretrain.objective import Objective
from pathotune_pipeline.tuning.pretrain.puzzle_tuning import PuzzleTuning
from pathotune_pipeline.tuning.pretrain.run import PretrainResult, pretrain
from pathotune_pipeline.tuning.pretrain.sources import Source, StoredSource, open_source
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec, MaeSpec, PretrainSpec, PuzzleSpec
from pathotune_pipeline.tuning.pretrain.stored import StoredTiles, open_stored
from pathotune_pipeline.tuning.pretrain.teachers import load_teachers
from pathotune_pipeline.tuning.pretrain.team import joined


def build_objective(
    spec: PretrainSpec, method: Spec, device: torch.device | None = None, *, stored: StoredTiles | None = None
) -> Objective:
    """The method that a Spec names, around the network that another asks for.

    The same settings give the same weights, whatever the state of the process's random numbers.

    Args:
        spec: network, decoder and course.
        method: a MaeSpec, PuzzleSpec or DistillSpec.
        device: where teachers are put; by default the CPU.
        stored: the tiles of feature sets that teach, by `open_stored`.

    Raises:
        SpecError: settings that make no sense together.
        WeightsError: the weights of the base or of a teacher are absent or do not fit.
    """
    spec.check()
    place = device or torch.device("cpu")
    teachers = load_teachers(method, place, stored) if isinstance(method, DistillSpec) else []
    trunk = build_trunk(spec.network, spec.seed)
    with seeded(spec.seed + 1):
        match method:
            case MaeSpec():
                return MaskedAutoencoder(trunk, method, spec.decoder)
            case PuzzleSpec():
                return PuzzleTuning(trunk, method, spec)
            case DistillSpec():
                return Distillation(trunk, method, spec, teachers)
    raise SpecError(
        f"no method of pretraining has settings of type {type(method).__name__}. Give a MaeSpec, a PuzzleSpec or a "
        "DistillSpec."
    )


def start(
    name: str,
    spec: Spec,
    method: Spec,
    out: Path,
    *,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> PretrainResult | None:
    """Run a method as this process, alone or as one of those that `torchrun` started.

    Args:
        name: of the method, for messages.
        spec: a PretrainSpec.
        method: the method's settings.
        out: folder of the run.
        on_row: told of each line of metrics.csv, in the first process.

    Returns:
        What came of it, in the first process; None in the others.

    Raises:
        SpecError: settings that make no sense.
    """
    if not isinstance(spec, PretrainSpec):
        raise SpecError(f"pretrain {name}: the settings are a {type(spec).__name__}; a PretrainSpec is needed.")
    with joined(spec.device) as (team, device):
        stored = open_stored(spec, method) if isinstance(method, DistillSpec) else None
        objective = build_objective(spec, method, device, stored=stored)
        if stored is not None:
            source: Source = StoredSource(spec.data, stored, seed=spec.seed)
        else:
            source = open_source(spec.data, input_px=objective.trunk.input_px, seed=spec.seed)
        first = team.rank == 0
        result = pretrain(objective, source, spec, out, team=team, device=device, on_row=on_row if first else None)
    return result if first else None
