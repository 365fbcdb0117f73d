"""PatchSet: labelled images of one size, with what each may be grouped by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pathotune_pipeline.errors import UsageError

UNLABELLED = -1
"""The label of a patch that has none."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchSet:
    """Labelled images of one size.

    Attributes:
        images: uint8 [N, H, W, 3], RGB; in memory, or mapped from the cache and then read-only.
        labels: int64 [N], places in `classes`; -1 where there is none.
        classes: names.
        groups: what must not be torn apart by a split, for each patch: slide or patient; "" where it is not known.
        domains: scanner, centre, tumour type, ..., for each patch; "" where there is none.
        splits: the part that the source itself puts each patch in ("train", "val", "test", a fold's name), or "".
        names: of each patch, unique.
        notes: what a reader of results should know: patches left out, padded, without a group.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.labels)
        lengths = [len(each) for each in (self.images, self.groups, self.domains, self.splits, self.names)]
        if set(lengths) != {count}:
            raise UsageError(
                f"{count} labels, and {lengths} images, groups, domains, splits and names: give one for each patch."
            )
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise UsageError(f"images: {self.images.dtype} {self.images.shape}, uint8 [N, H, W, 3] is needed.")
        if self.labels.dtype != np.int64 or self.labels.ndim != 1:
            raise UsageError(f"labels: {self.labels.dtype} {self.labels.shape}, int64 [N] is needed.")
        if count and not (self.labels.min() >= UNLABELLED and self.labels.max() < len(self.classes)):
            raise UsageError(
                f"labels reach from {self.labels.min()} to {self.labels.max()}, and there are {len(self.classes)} "
                f"classes. Give places in the classes, or {UNLABELLED} for none."
            )
        twice = [name for name, times in Counter(self.names).items() if times > 1]
        if twice:
            raise UsageError(
                f"patch {twice[0]!r} is there {Counter(self.names)[twice[0]]} times. Give each its own name."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {count}" for name, count in self.counts().items())
        return f"PatchSet({len(self)} patches of {self.side_px} px; {counts})"

    @property
    def side_px(self) -> int:
        """Height of the images; they are square where they come from `read_patches`."""
        return int(self.images.shape[1])

    @property
    def units(self) -> np.ndarray:
        """What splits keep together, str [N]: the group, or the patch itself where it has none."""
        return np.array(
            [group or f"\0{name}" for group, name in zip(self.groups, self.names, strict=True)], dtype=object
        )

    def where(self, *, domain: str | None = None, split: str | None = None, labelled: bool = False) -> np.ndarray:
        """Places of patches.

        Args:
            domain: only those of this domain.
            split: only those that the source puts in this part.
            labelled: only those with a label.

        Returns:
            int64 [K], ascending.
        """
        keep = np.ones(len(self), bool)
        if domain is not None:
            keep &= np.array(self.domains, dtype=object) == domain
        if split is not None:
            keep &= np.array(self.splits, dtype=object) == split
        if labelled:
            keep &= self.labels != UNLABELLED
        return np.flatnonzero(keep).astype(np.int64)

    def counts(self, index: np.ndarray | None = None) -> dict[str, int]:
        """Patches of each class, of those at `index` or of all."""
        labels = self.labels if index is None else self.labels[index]
        return {name: int(np.count_nonzero(labels == place)) for place, name in enumerate(self.classes)}

    def subset(self, index: np.ndarray | Sequence[int]) -> PatchSet:
        """The patches at these places, in this order, with the same classes. Images are copied."""
        places = np.asarray(index, np.int64)
        chosen = places.tolist()
        return replace(
            self,
            images=self.images[places],
            labels=self.labels[places],
            groups=tuple(self.groups[i] for i in chosen),
            domains=tuple(self.domains[i] for i in chosen),
            splits=tuple(self.splits[i] for i in chosen),
            names=tuple(self.names[i] for i in chosen),
        )

    def with_labels(self, labels: np.ndarray, classes: Sequence[str] | None = None) -> PatchSet:
        """The same patches under other labels, int64 [N]; other classes where they are given."""
        return replace(
            self,
            labels=np.asarray(labels, np.int64),
            classes=self.classes if classes is None else tuple(classes),
        )

    def load(self, side_px: int) -> PatchSet:
        """The same patches at another size, in memory; itself where they have it. See `fit_square`."""
        if self.images.shape[1:3] == (side_px, side_px):
            return self
        images = np.empty((len(self), side_px, side_px, 3), np.uint8)
        for place, image in enumerate(self.images):
            images[place] = fit_square(image, side_px)
        return replace(self, images=images)


def fit_square(image: np.ndarray, side_px: int) -> np.ndarray:
    """The middle square of an image at a size: nothing is distorted, and of an oblong image the ends are cut off.

    Area means where it shrinks (`cv2.INTER_AREA`), bicubic where it grows (`cv2.INTER_CUBIC`).

    Args:
        image: uint8 [h, w, 3].
        side_px: of the result.

    Returns:
        uint8 [side_px, side_px, 3].
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == side_px:
        return square
    way = cv2.INTER_AREA if side > side_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side_px, side_px), interpolation=way))
