"""Bag: one slide's features; BagBatch: several of them end to end, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """The features of one slide.

    Attributes:
        features: [N, D] float16 or float32, tiles in raster order (TransMIL's result depends on the order).
        coords: [N, 2] int64, (x, y) of each tile's upper left corner in level-0 px.
        bag_id: the slide's id.
        group: the patient. All bags of a group stay on one side of every split.
        target: class name, class index, number, or survival ("34.5", "34.5+" where the event was not seen); for several
            targets a mapping from their names. None where it is not known.

    Raises:
        UsageError: the shapes do not fit each other.
    """

    features: np.ndarray | Tensor
    coords: np.ndarray | Tensor
    bag_id: str
    group: str
    target: str | int | float | Mapping[str, str | int | float] | None = None

    def __post_init__(self) -> None:
        shape, places = tuple(self.features.shape), tuple(self.coords.shape)
        if len(shape) != 2 or places != (shape[0], 2):
            raise UsageError(
                f"bag {self.bag_id}: features are {shape} and coords {places}; they must be [N, D] and [N, 2]."
            )

    def __len__(self) -> int:
        return int(self.features.shape[0])

    @property
    def dim(self) -> int:
        """Numbers in one tile's feature."""
        return int(self.features.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class BagBatch:
    """Bags laid end to end.

    Attributes:
        features: [sum of N, D] float; with `scale`, as they are stored, and half precision too.
        offsets: [B + 1] int64, on the CPU so that nothing waits for a GPU; bag b holds rows offsets[b] to offsets[b + 1].
        coords: [sum of N, 2] int64, or None.
        targets: [B] int64 class indices, or [B, W] float32 of other tasks, NaN where not known; or None.
        bag_ids: B ids, or empty.
        scale: mean and deviation, [D] each, that are still to be taken from features; None where nothing is.
    """

    features: Tensor
    offsets: Tensor
    coords: Tensor | None = None
    targets: Tensor | None = None
    bag_ids: tuple[str, ...] = ()
    scale: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, *features: Tensor) -> Self:
        """A batch of bare feature tensors, each [N_b, D]."""
        return cls(torch.cat(features), _offsets([len(each) for each in features]))

    @classmethod
    def of_bag(cls, bag: Bag) -> Self:
        """A batch of one bag with its features as they are stored; nothing is copied where memory can be shared.

        Raises:
            UsageError: the bag is empty.
        """
        check_alike([bag])
        features, coords = as_stored(bag.features), torch.as_tensor(bag.coords, dtype=torch.int64)
        return cls(features, _offsets([len(bag)]), coords=coords, bag_ids=(bag.bag_id,))

    @classmethod
    def joined(cls, batches: Sequence[Self]) -> Self:
        """Batches without targets and scale, one after the other; a single one is handed back as it is."""
        if len(batches) == 1:
            return batches[0]
        coords = [batch.coords for batch in batches if batch.coords is not None]
        return cls(
            torch.cat([batch.features for batch in batches]),
            _offsets([size for batch in batches for size in batch.sizes]),
            coords=torch.cat(coords) if len(coords) == len(batches) else None,
            bag_ids=tuple(name for batch in batches for name in batch.bag_ids),
        )

    @classmethod
    def of_padded(cls, features: Tensor, mask: Tensor, *, targets: Tensor | None = None) -> Self:
        """A batch of padded bags.

        Args:
            features: [B, N, D]; what stands outside the mask is not looked at.
            mask: [B, N] bool, true where there is an instance.
            targets: [B] int64 class indices, or None.

        Raises:
            UsageError: the shapes do not fit each other, or the mask is not boolean.
        """
        if features.ndim != 3 or mask.shape != features.shape[:2] or mask.dtype != torch.bool:
            raise UsageError(
                f"features are {tuple(features.shape)} and the mask is {tuple(mask.shape)} {mask.dtype}; "
                "they must be [B, N, D] and [B, N] bool."
            )
        return cls(features[mask], _offsets(mask.sum(dim=1).tolist()), targets=targets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Tensor]:
        """Each bag's features, [N_b, D]."""
        return iter(self.split(self.scaled().features))

    @property
    def lengths(self) -> Tensor:
        """Instances of each bag, [B] int64."""
        return self.offsets.diff()

    @property
    def sizes(self) -> list[int]:
        """Instances of each bag."""
        return [end - start for start, end in pairwise(self.offsets.tolist())]

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a tensor with one row per instance, [sum of N, ...], into one view per bag."""
        return values.split(self.sizes)

    def segments(self) -> Tensor:
        """The bag that each instance belongs to, [sum of N] int64."""
        return torch.repeat_interleave(self.lengths).to(self.features.device)

    def scaled(self) -> Self:
        """The batch with its scale applied to the features, in the scale's precision."""
        if self.scale is None:
            return self
        mean, std = self.scale
        return replace(self, features=self.features.to(mean.dtype).sub(mean).div_(std), scale=None)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on that device, its offsets on the CPU."""
        return replace(
            self,
            features=self.features.to(device),
            coords=None if self.coords is None else self.coords.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


def collate(bags: Sequence[Bag], *, targets: Sequence[int | np.ndarray] | None = None) -> BagBatch:
    """Lay bags end to end as float32; float64 tensors stay float64.

    Args:
        bags: at least one, all of one feature dimension.
        targets: class index of each bag, or of another task [W] float. Without it, the bags' own targets where all
            of them are indices.

    Raises:
        UsageError: there are no bags, one is empty, or dimensions differ.
    """
    if not bags:
        raise UsageError("A batch needs at least one bag; none was given.")
    check_alike(bags)
    if targets is None and all(isinstance(bag.target, int | np.integer) for bag in bags):
        targets = [int(bag.target) for bag in bags if isinstance(bag.target, int | np.integer)]
    return BagBatch(
        features=torch.cat([as_floats(bag.features) for bag in bags]),
        offsets=_offsets([len(bag) for bag in bags]),
        coords=torch.cat([torch.as_tensor(bag.coords, dtype=torch.int64) for bag in bags]),
        targets=None if targets is None else target_tensor(targets),
        bag_ids=tuple(bag.bag_id for bag in bags),
    )


def check_alike(bags: Sequence[Bag]) -> None:
    """Make sure that bags can be learnt from together.

    Raises:
        UsageError: one is empty, or dimensions differ.
    """
    for bag in bags:
        if len(bag) == 0:
            raise UsageError(f"bag {bag.bag_id} has no tiles. Leave it out, or look at its tissue mask.")
        if bag.dim != bags[0].dim:
            raise UsageError(
                f"bag {bag.bag_id} has {bag.dim}-d features and bag {bags[0].bag_id} {bags[0].dim}-d ones. "
                "Take all bags from one feature set."
            )


def as_stored(values: np.ndarray | Tensor) -> Tensor:
    """The same numbers as a tensor: floating types as they are, others as float32; read-only arrays are copied."""
    if isinstance(values, np.ndarray):
        kind = values.dtype if values.dtype in (np.float16, np.float32, np.float64) else np.float32
        array = np.asarray(values, dtype=kind)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return values if values.is_floating_point() else values.float()


def as_floats(values: np.ndarray | Tensor) -> Tensor:
    """float32 (float64 where it already is), whatever the kind of array; read-only ones are copied."""
    stored = as_stored(values)
    return stored if stored.dtype == torch.float64 else stored.float()


def target_tensor(targets: Sequence[int | np.ndarray]) -> Tensor:
    """Targets of bags as a batch holds them: class indices [B] int64, or of other tasks [B, W] float32."""
    if any(isinstance(each, np.ndarray) for each in targets):
        return torch.from_numpy(np.stack([np.asarray(each, np.float32) for each in targets]))
    return torch.tensor(list(targets), dtype=torch.int64)


def _offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
