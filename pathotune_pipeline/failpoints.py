"""Named places at which a test may kill or stop the process: `PATHOTUNE_FAILPOINT=name`, `name:nth` or `name:nth:stop`.

`name@slide` is reached with that slide alone: it makes one that ends every process that reads it.
A crash test that says where it crashes is repeatable. Without the variable a failpoint costs one look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "PATHOTUNE_FAILPOINT"
NAMES = frozenset(
    {
        "slide.begun",
        "tissue.committed",
        "tiles.committed",
        "features.batch",
        "features.chunk",
        "store.staged",
        "store.placed",
        "store.committed",
        "cache.written",
        "course.saved",
        "patches.written",
        "forget.noted",
        "forget.record",
        "forget.data",
        "forget.marks",
        "forget.run",
        "forget.file",
        "forget.cleared",
        "gc.record",
        "gc.group",
        "study.fitted",
        "study.cell",
        "pretrain.step",
        "pretrain.checkpoint",
    }
)
_hits: Counter[str] = Counter()


def failpoint(name: str, of: str = "") -> None:
    """Kill (or stop) this process, as SIGKILL (SIGSTOP) does, when the environment names this place and its turn has come.

    Args:
        name: of the place.
        of: id of the slide that is at it.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    place, _, rest = wanted.partition(":")
    place, _, whose = place.partition("@")
    turn, _, how = rest.partition(":")
    if place != name or whose not in ("", of):
        return
    _hits[name] += 1
    if _hits[name] == int(turn or 1):
        os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)
