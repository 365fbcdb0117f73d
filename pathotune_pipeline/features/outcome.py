"""What became of one slide."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

MADE = ("committed", "empty")
"""Statuses of slides that the store now has."""
Status = Literal["committed", "empty", "failed", "left"]


class Packed(Mapping[str, Any]):
    """Plain values by name, held as JSON and read anew each time they are asked for; `unpacked` reads them once for all."""

    __slots__ = ("_text",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._text = json.dumps(dict(values), separators=(",", ":")).encode()

    def unpacked(self) -> dict[str, Any]:
        """All of them."""
        return dict(json.loads(self._text))

    def __getitem__(self, name: str) -> Any:
        return self.unpacked()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.unpacked())

    def __len__(self) -> int:
        return len(self.unpacked())

    def __repr__(self) -> str:
        return f"Packed({self.unpacked()!r})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slide. Every slide of a run has exactly one.

    Attributes:
        slide_id: whose.
        status: committed (features are in the store), empty (read, and no tile to encode), failed, left (the time was over
            before its turn, and the next run takes it).
        reason: why it is empty or failed.
        new: whether this run did the work; False where the store had it.
        tiles: tiles committed.
        invalid_tiles: of them, how many could not be read and are marked so.
        seconds: wall time of the slide's job.
        stages: seconds by stage; read_s, encode_s and how long each waited for the other are sums over threads.
        transient: whether trying again may help (a lost worker, a disk that did not answer).
        identity: the slide's content hash where it was read.
        facts: what the report shows: mpp, level, enlargement, reader.
        features: name of the set that it tells of.
        others: outcomes of further sets that the same job made; what is told of a run has none.
    """

    slide_id: str
    status: Status
    reason: str = ""
    new: bool = True
    tiles: int = 0
    invalid_tiles: int = 0
    seconds: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    transient: bool = False
    identity: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    features: str = ""
    others: tuple[Outcome, ...] = ()

    def each(self) -> list[Outcome]:
        """This outcome and its others, each by itself."""
        return [replace(self, others=()), *self.others]

    def packed(self) -> Outcome:
        """The same in a third of the memory: a run over a large archive holds one for each slide to its end."""
        return replace(self, stages=Packed(self.stages), facts=Packed(self.facts), features=sys.intern(self.features))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the others."""
        plain = asdict(replace(self, others=(), stages={}, facts={}))
        del plain["others"]
        return {**plain, "stages": _plain(self.stages), "facts": _plain(self.facts)}


def count(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many slides of each status, how many of them new, and how many in all."""
    listed = list(outcomes)
    by_status = Counter(outcome.status for outcome in listed)
    return {
        "slides": len(listed),
        "committed": by_status["committed"],
        "empty": by_status["empty"],
        "failed": by_status["failed"],
        "left": by_status["left"],
        "computed": sum(outcome.new and outcome.status in MADE for outcome in listed),
        "tiles": sum(outcome.tiles for outcome in listed),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return values.unpacked() if isinstance(values, Packed) else dict(values)
