"""What a study asks: which parts of the data its cells learn from, and how sure its scores are told to be."""

from __future__ import annotations

from pydantic import field_validator

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.spec import Spec, setting


class GridSpec(Spec):
    """How a study cuts its images into parts, and how often it trains."""

    train_domains: tuple[str, ...] = setting((), "Domains to train on; none named: every one.")
    folds: int = setting(
        1, "Hold-outs by slide or patient: 1 holds out test_share, more make every group a test group once.", ge=1
    )
    test_share: float = setting(0.2, "Share of the groups that is held out where folds is 1.", gt=0, lt=1)
    val_share: float = setting(0.2, "Share of the groups not held out that chooses the epoch.", gt=0, lt=1)
    seeds: int = setting(5, "Trainings of each cell, each with its own draw of the validation part.", ge=1)
    split_seed: int = setting(0, "Of the hold-outs, which are the same for every method, fraction and seed.", ge=0)
    min_per_class: int = setting(
        2, "Training images that each class needs; a cell with fewer is told as not run.", ge=1
    )
    steps: int | None = setting(
        None,
        "Optimiser steps of each training, however few its images: a method's epochs, warm-up and patience are stretched "
        "to them; empty keeps its epochs.",
        ge=1,
    )
    bootstrap: int = setting(1000, "Draws of the bootstrap over groups.", hashed=False, ge=1000)


class ScalingSpec(GridSpec):
    """How scores grow with the share of the training groups: nested parts, one test set for all."""

    fractions: tuple[float, ...] = setting(
        (0.01, 0.1, 1.0), "Shares of the training and validation groups; each holds the smaller ones of its seed."
    )

    @field_validator("fractions")
    @classmethod
    def _are_shares(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if not fractions or not all(0 < each <= 1 for each in fractions) or len(set(fractions)) < len(fractions):
            raise ValueError("fractions are above 0, at most 1, and each stands once")
        return tuple(sorted(fractions))


class DomainsSpec(GridSpec):
    """Train on one domain; test on what is held out of it and on every other domain."""


def check_names(said: tuple[str, ...], known: tuple[str, ...], *, what: str) -> None:
    """Make sure that names exist.

    Raises:
        SpecError: one does not.
    """
    for name in said:
        if name not in known:
            raise SpecError(f"{what} {name!r} is not among the data's: {', '.join(known) or 'there are none'}.")


class ProtocolSpec(Spec):
    """eva's protocol: a head on frozen features, one number of steps for all data, best validation, several runs."""

    steps: int = setting(12_500, "Optimiser steps of one run.", ge=1)
    batch: int | None = setting(None, "Images or slides in a batch; empty: 256 images, 32 slides.", ge=1)
    lr: float | None = setting(None, "Learning rate of AdamW; empty: 0.0003 for images, 0.001 for slides.", gt=0)
    weight_decay: float = setting(0.01, "Decoupled weight decay.", ge=0)
    max_epochs: int | None = setting(None, "Most epochs; empty: as steps allow for images, 100 for slides.", ge=1)
    patience: int | None = setting(
        None,
        "Epochs without a better validation before stopping; empty: a fifth of the epochs for images, 20 for slides.",
        ge=1,
    )
    runs: int | None = setting(None, "Runs, which differ in seed alone; empty: 5 for images, 20 for slides.", ge=1)
    max_tiles: int | None = setting(None, "Most tiles of a slide, drawn once for all runs; empty takes all.", ge=1)
    val_share: float = setting(0.15, "Share of the groups that validates where the data name no such part.", gt=0, lt=1)
    test_share: float = setting(
        0.15, "Share of the groups that is tested where the data name no part at all.", gt=0, lt=1
    )
    split_seed: int = setting(0, "Of the parts and of the tiles where they are drawn.", ge=0)
    bootstrap: int = setting(1000, "Draws of the bootstrap over groups.", hashed=False, ge=1000)


class RetrievalSpec(Spec):
    """Retrieval with frozen features: whether the patches most like one are of its class."""

    tops: tuple[int, ...] = setting((1, 3, 5), "Numbers of patches that are retrieved for a query.")
    test_share: float = setting(
        0.2, "Share of the groups that asks where the data name neither a test nor a validation part.", gt=0, lt=1
    )
    split_seed: int = setting(0, "Of that part.", ge=0)
    bootstrap: int = setting(1000, "Draws of the bootstrap over groups.", hashed=False, ge=1000)

    @field_validator("tops")
    @classmethod
    def _are_numbers(cls, tops: tuple[int, ...]) -> tuple[int, ...]:
        if not tops or min(tops) < 1 or len(set(tops)) < len(tops):
            raise ValueError("tops are 1 or more, and each stands once")
        return tuple(sorted(tops))
