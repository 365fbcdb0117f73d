"""Which patches train, validate and test: as their source says, or drawn by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.spec import setting
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.splits import PAPER_SPLIT, grouped_split
from pathotune_pipeline.tuning.run.spec import AdaptSpec


class AdaptRunSpec(AdaptSpec):
    """How an encoder is brought to a task, and which of the patches are for what."""

    test_share: float = setting(
        0.2,
        "Share of the patches that is tested, drawn by group; 0 tests none. A source with splits has its own.",
        ge=0,
        lt=1,
    )
    val_share: float = setting(
        0.2, "Share of what is not tested that validates, drawn by group; 0 validates with none.", ge=0, lt=1
    )
    split_seed: int = setting(0, "Seed of that draw.", ge=0)
    paper_split: bool = setting(
        False, "Draw patches one by one, not by slide or patient, as some papers did: scores are then too good."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Places in a PatchSet, int64, ascending; validation and test may be empty.

    Attributes:
        train: to learn from.
        val: to choose with.
        test: to be judged on.
        source: "the source's own", or how they were drawn.
        notes: what a reader of scores should know of them.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    source: str
    notes: tuple[str, ...] = ()

    def named(self) -> dict[str, np.ndarray]:
        """Each part by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def part_patches(patches: PatchSet, spec: AdaptRunSpec) -> Parts:
    """Cut labelled patches in parts.

    Where the source says which are for training, it says for the others too; validation it does not name is drawn from
    training.

    Args:
        patches: those without a label are in no part.
        spec: shares and seed.

    Raises:
        UsageError: the source names parts, and none is for training.
        ManifestError: a class is in too few groups for every part to have it.
    """
    unit, notes = ("patch by patch", (PAPER_SPLIT,)) if spec.paper_split else ("by group", ())
    own = {name: patches.where(split=name, labelled=True) for name in ("train", "val", "test")}
    if len(own["val"]) + len(own["test"]) and not len(own["train"]):
        raise UsageError(
            "The patches' source names parts, and none of them is train. Name it, or leave the column out."
        )
    if len(own["train"]):
        if len(own["val"]) or not spec.val_share:
            return Parts(own["train"], own["val"], own["test"], source="the source's own")
        cut = _cut(patches, {"train": 1 - spec.val_share, "val": spec.val_share}, spec, index=own["train"])
        source = f"the source's own; validation drawn {unit} from training"
        return Parts(cut["train"], cut["val"], own["test"], source, notes)
    rest = 1 - spec.test_share
    shares = {"train": rest * (1 - spec.val_share), "val": rest * spec.val_share, "test": spec.test_share}
    wanted = {name: share for name, share in shares.items() if share}
    none = np.zeros(0, np.int64)
    if len(wanted) == 1:
        return Parts(patches.where(labelled=True), none, none, source="all train")
    cut = _cut(patches, wanted, spec, index=None)
    return Parts(cut["train"], cut.get("val", none), cut.get("test", none), f"drawn {unit}", notes)


def _cut(
    patches: PatchSet, shares: dict[str, float], spec: AdaptRunSpec, *, index: np.ndarray | None
) -> dict[str, np.ndarray]:
    return grouped_split(patches, shares, seed=spec.split_seed, index=index, paper_split=spec.paper_split)
