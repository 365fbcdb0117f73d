"""Train a model for use: one patient-grouped split, one head or several seeds of it, a folder with a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pathotune_pipeline.bags.split_files import read_splits
from pathotune_pipeline.bags.splits import Fold, patient_holdout
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.crossval import CrossvalProgress, CrossvalSpec
from pathotune_pipeline.evaluation.result import CrossvalResult
from pathotune_pipeline.evaluation.study import Study, run_study
from pathotune_pipeline.models.card import NOT_STATED, card_writer
from pathotune_pipeline.spec import setting


class ModelSpec(CrossvalSpec):
    """Which head a model is made of, and what is held out."""

    folds: int = setting(1, "Cuts of the patients: one; `crossval` makes several.", ge=1, le=1)
    seeds: int = setting(3, "Heads with other initial weights, whose answers are averaged.", ge=1)
    seed0: int = setting(0, "The first seed, also of the split; the others follow it.", ge=0)
    val_share: float = setting(0.2, "Share of the patients not held out that chooses the epoch.", gt=0, lt=1)
    test_share: float = setting(0.2, "Share of the patients held out to judge the model; 0 holds none out.", ge=0, lt=1)


def train_model(
    study: Study,
    spec: ModelSpec,
    *,
    licence: str = NOT_STATED,
    adapter: str | None = None,
    on_progress: Callable[[CrossvalProgress], None] | None = None,
) -> tuple[dict[str, CrossvalResult], list[str]]:
    """Train, judge on the held-out part, and write the model folder, all or nothing.

    Args:
        study: from what, and where to; of several targets each gets a folder of its name, with the same heads.
        spec: head, training, split, seeds.
        licence: of the data, for the card.
        adapter: FILE or FILE#N that the features were made with, to be kept in the folder.
        on_progress: told of each trained head.

    Returns:
        The result of each target, and what a reader should know.

    Raises:
        UsageError: the store, the set, the table or the split do not allow it.
    """
    for name in ("site", "assignments"):
        if getattr(spec, name):
            raise UsageError(f"--{name} makes several folds, and a model is trained on one cut. It goes with crossval.")
    if spec.splits:
        folds = {(each.seed, each.fold) for each in read_splits(Path(spec.splits)).folds}
        if len(folds) > 1:
            raise UsageError(
                f"--splits {spec.splits}: it has {len(folds)} folds, and a model is trained on one cut. Give the file of one "
                "fold, or use crossval, whose folder is a model too."
            )
    split = None if spec.splits else hold_out
    finish = card_writer(study, licence=licence, adapter=adapter)
    return run_study(study, spec, split=split, finish=finish, on_progress=on_progress)


def hold_out(spec: CrossvalSpec, strata: Mapping[str, str], groups: Mapping[str, str]) -> Iterator[tuple[int, Fold]]:
    """The same cut for every seed: its members see the same slides.

    Args:
        spec: of a model; the split comes from its first seed.
        strata: bag id -> what shall be as frequent in every part.
        groups: bag id -> patient.
    """
    test_share = spec.test_share if isinstance(spec, ModelSpec) else 0.0
    fold = patient_holdout(strata, groups, test_share=test_share, val_share=spec.val_share, seed=spec.seed0)
    for seed in spec.seed_range():
        yield seed, fold
