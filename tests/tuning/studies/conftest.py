"""Items and methods whose results are known, for studies that train nothing."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.studies.cell import Cell, Contender, Fitted
from pathotune_pipeline.tuning.studies.grid import scaling_grid
from pathotune_pipeline.tuning.studies.ledger import Ledger
from pathotune_pipeline.tuning.studies.material import items_of
from pathotune_pipeline.tuning.studies.processes import Work
from pathotune_pipeline.tuning.studies.spec import ScalingSpec

DOMAINS = ("lab-a", "lab-b", "lab-c")


def make_patches(*, groups_a_domain: int = 12, images_a_group: int = 5, ungrouped: tuple[str, ...] = ()) -> PatchSet:
    """Of two classes, in three domains; every other group is of class 1, but for one image of each."""
    rows = [
        (domain, group, image)
        for domain in DOMAINS
        for group in range(groups_a_domain)
        for image in range(images_a_group)
    ]
    return PatchSet(
        images=np.zeros((len(rows), 2, 2, 3), np.uint8),
        labels=np.array([(group + (image == 0)) % 2 for _, group, image in rows]),
        classes=("normal", "atypical"),
        groups=tuple("" if domain in ungrouped else f"{domain}-{group}" for domain, group, _ in rows),
        domains=tuple(domain for domain, *_ in rows),
        splits=("",) * len(rows),
        names=tuple(f"{domain}/{group}-{image}" for domain, group, image in rows),
    )


@pytest.fixture
def patches() -> PatchSet:
    return make_patches()


class GuessingFit:
    """A method without training: right with a certainty that its recipe states; noise by image, method and seed."""

    def __init__(self, patches: PatchSet) -> None:
        self.patches, self.fitted = patches, list[str]()

    def __call__(self, cell: Cell) -> Fitted:
        self.fitted.append(cell.file_name)
        recipe = cell.contender.recipe
        if recipe.get("fails_in_fold") == cell.fold:
            raise ValueError("the optimiser\nran away")

        def predict(index: np.ndarray) -> np.ndarray:
            known = [f"{self.patches.names[place]} {cell.contender.method} {cell.seed}" for place in index.tolist()]
            noise = np.array([int(hashlib.sha256(each.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF for each in known])
            odds = (2 * self.patches.labels[index] - 1) * recipe["skill"] * cell.fraction + 4 * (noise - 0.5)
            positive = 1 / (1 + np.exp(-odds))
            return np.stack([1 - positive, positive], axis=1)

        return Fitted(predict, {"trainable": 10, "parameters": 100, "epochs": 3, "best_epoch": 1})


CONTENDERS = (Contender("vit", "linear", {"skill": 1.0}), Contender("vit", "lora", {"skill": 3.0}))


class DeadlyFit(GuessingFit):
    """Kills its process where the recipe says so."""

    def __call__(self, cell: Cell) -> Fitted:
        if cell.contender.recipe.get("kills_seed") == cell.seed:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(cell)


def open_deadly_work(out: Path, contenders: tuple[Contender, ...], spec: ScalingSpec) -> Work:
    """What each process of a study needs."""
    patches = make_patches()
    return Work(scaling_grid(patches, contenders, spec).cells, DeadlyFit(patches), Ledger(out, items_of(patches)))
