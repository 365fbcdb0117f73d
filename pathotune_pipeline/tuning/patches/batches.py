"""Batches of patches: which patches an epoch sees, and in what order, decided by seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.tuning.patches.patch_set import UNLABELLED, PatchSet

Balance = Literal["none", "class", "group", "class-group"]
Batch = tuple[Tensor, Tensor, Tensor]
"""Pixels uint8 [B, H, W, 3], labels int64 [B], places in the PatchSet int64 [B]; on the device."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""From uint8 [B, H, W, 3] and a generator on the CPU to uint8 [B, P, P, 3]."""

_ORDER = 0x0DE
_PIXELS = 0xA06


@dataclass(frozen=True, eq=False)
class PatchBatches:
    """Batches of one epoch, for `engine.loop.fit`: call it with the epoch's number.

    The batches of an epoch depend on `seed` and that number, and on nothing that came before: training that goes on
    after a kill sees what it would have seen. Batches of an epoch differ in size by one patch at most, so none is tiny.

    With `balance` an epoch has `draws` patches, dealt as evenly as whole numbers allow: over classes ("class"), over
    groups ("group"), or over classes and within each over the groups that hold it ("class-group"). Within a class or
    group, patches are dealt from a shuffled deck that is shuffled again when it is used up. So draws are without
    replacement until then: of a large class an epoch sees each patch once at most, of a small one each about equally
    often. A model so trained has learnt with other class frequencies than the data's; its probabilities have, too.

    Attributes:
        patches: where they are taken from.
        index: int64 [K], the places that are trained on; each needs a label.
        batch_size: most patches of a batch.
        balance: "none" takes each once an epoch.
        augment: applied to each batch, with a generator of its own; None leaves pixels as they are.
        seed: of order and augmentation.
        draws: patches of an epoch; None: as many as `index` has.
        device: where batches lie.
    """

    patches: PatchSet
    index: np.ndarray
    batch_size: int = 64
    balance: Balance = "none"
    augment: Augment | None = None
    seed: int = 0
    draws: int | None = None
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        index = np.asarray(self.index, np.int64)
        object.__setattr__(self, "index", index)
        if not len(index) or self.batch_size < 1 or (self.draws is not None and self.draws < 1):
            raise UsageError(
                f"{len(index)} patches, batch_size={self.batch_size}, draws={self.draws}: give one or more of each."
            )
        bare = int(np.count_nonzero(self.patches.labels[index] == UNLABELLED))
        if bare:
            raise UsageError(f"{bare} of {len(index)} patches to train on have no label. Leave them out of the index.")

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self._draws // self.batch_size)

    @property
    def _draws(self) -> int:
        return self.draws or len(self.index)

    def order(self, epoch: int) -> np.ndarray:
        """Places of the patches of an epoch in their order: int64 [draws]."""
        rng = np.random.default_rng([self.seed, _ORDER, epoch])
        dealt = _deal(self._decks, self._draws, rng)
        return dealt[rng.permutation(len(dealt))]

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, from 0."""
        for number, places in enumerate(np.array_split(self.order(epoch), len(self))):
            pixels, labels, index = take(self.patches, places, self.device)
            if self.augment is not None:
                pixels = self.augment(pixels, _generator(self.seed, epoch, number))
            yield pixels, labels, index

    @cached_property
    def _decks(self) -> _Decks:
        """Patches in the nested decks that `balance` deals from."""
        index, labels = self.index, self.patches.labels[self.index]
        if self.balance == "none":
            return index
        if self.balance == "class":
            return _split(index, labels)
        units = np.unique(self.patches.units[index], return_inverse=True)[1]
        if self.balance == "group":
            return _split(index, units)
        return [_split(index[each], units[each]) for each in _split(np.arange(len(index)), labels)]


def ordered_batches(
    patches: PatchSet, index: np.ndarray, *, batch_size: int = 256, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Patches in the order of `index`, untouched: for validation and prediction. Labels may be -1."""
    places = np.asarray(index, np.int64)
    for start in range(0, len(places), batch_size):
        yield take(patches, places[start : start + batch_size], device)


def take(patches: PatchSet, places: np.ndarray, device: torch.device | str) -> Batch:
    """Patches at some places as tensors on a device."""
    # Fancy indexing copies, so a read-only map from the cache becomes memory that torch may own.
    parts = (patches.images[places], patches.labels[places], np.asarray(places, np.int64))
    pixels, labels, index = (torch.from_numpy(part).to(device, non_blocking=True) for part in parts)
    return pixels, labels, index


_Decks = np.ndarray | Sequence["_Decks"]


def _split(values: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
    """Values by key, in the order of the keys."""
    order = np.argsort(keys, kind="stable")
    return np.split(values[order], np.flatnonzero(np.diff(keys[order])) + 1)


def _deal(decks: _Decks, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` patches, as evenly as can be from the decks, and so on within each."""
    if isinstance(decks, np.ndarray):
        rounds = [rng.permutation(decks) for _ in range(-(-count // len(decks)))]
        return np.concatenate(rounds)[:count] if rounds else decks[:0]
    share, rest = divmod(count, len(decks))
    more = set(rng.permutation(len(decks))[:rest].tolist())
    return np.concatenate([_deal(deck, share + (place in more), rng) for place, deck in enumerate(decks)])


def _generator(seed: int, epoch: int, number: int) -> torch.Generator:
    """A generator that seed, epoch and the batch's number decide."""
    state = np.random.SeedSequence([seed, _PIXELS, epoch, number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))
