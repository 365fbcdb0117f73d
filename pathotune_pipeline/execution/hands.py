"""What is in whose hands: items on their way, worker processes, and calls of `map`."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pathotune_pipeline.execution.deadline import Deadline


@dataclass(eq=False, slots=True)
class Item:
    """An item on its way: its place in the list, and how often a worker died under it."""

    index: int
    item: Any
    owner: Map
    deaths: int = 0
    future: Any = None
    lost: bool = False  # its worker is no longer there


@dataclass(eq=False, slots=True)
class Worker:
    """A worker process and what it has in hand."""

    address: str
    slots: int
    gpus: float
    items: set[Item] = field(default_factory=set)
    taken: bool = False  # by an item that must have it to itself

    def resources(self, *, alone: bool) -> dict[str, float] | None:
        """What an item takes of the worker's GPU: all, or a share; shares are powers of two, which add up exactly."""
        if not self.gpus:
            return None
        return {"GPU": self.gpus if alone else self.gpus / 2 ** math.ceil(math.log2(self.slots))}


class Map:
    """One call of `map`: what it has still to hand out, and what has come to an end and not been told of."""

    def __init__(self, function: Callable[[Any], Any], items: Iterable[Any], until: Deadline) -> None:
        self.function, self._until = function, until
        self.ended: deque[Item] = deque()
        self.in_hand = 0
        self._left = operator.length_hint(items)
        self._fresh = (Item(index, item, self) for index, item in enumerate(items))
        self._next: Item | None = None

    @property
    def left(self) -> int:
        """About how many items are still to be handed out."""
        return 0 if self._until.over() else max(0, self._left)

    def waits(self) -> bool:
        """Whether there is something to hand out, and may still be."""
        if self._until.over():
            return False
        if self._next is None:
            self._next = next(self._fresh, None)
        return self._next is not None

    def take(self) -> Item:
        """The next item; call it where `waits`."""
        item, self._next = self._next, None
        if item is None:
            raise LookupError("nothing waits to be handed out")
        self.in_hand += 1
        self._left -= 1
        return item
