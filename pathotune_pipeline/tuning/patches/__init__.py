"""Labelled patches: where they come from, how they are split, drawn and augmented."""

from pathotune_pipeline.tuning.patches.augment import Augmentation, AugmentSpec
from pathotune_pipeline.tuning.patches.batches import PatchBatches, ordered_batches
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.read import read_patches
from pathotune_pipeline.tuning.patches.spec import PatchSpec
from pathotune_pipeline.tuning.patches.splits import (
    NestedPart,
    PatchFold,
    check_parts,
    grouped_folds,
    grouped_split,
    nested_fractions,
)

__all__ = [
    "AugmentSpec",
    "Augmentation",
    "NestedPart",
    "PatchBatches",
    "PatchFold",
    "PatchSet",
    "PatchSpec",
    "check_parts",
    "grouped_folds",
    "grouped_split",
    "nested_fractions",
    "ordered_batches",
    "read_patches",
]
