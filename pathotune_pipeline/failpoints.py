"""Named places at which a test may kill the process: `PATHOTUNE_FAILPOINT=name` or `name:nth`.

A crash test that says where it crashes is repeatable. Without the variable a failpoint costs one look-up.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "PATHOTUNE_FAILPOINT"
NAMES = frozenset(
    {
        "tissue.committed",
        "tiles.committed",
        "features.batch",
        "features.chunk",
        "store.staged",
        "store.placed",
        "store.committed",
    }
)
_hits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process, as SIGKILL does, when the environment names this place and its turn has come."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    place, _, turn = wanted.partition(":")
    if place != name:
        return
    _hits[name] += 1
    if _hits[name] == int(turn or 1):
        os.kill(os.getpid(), signal.SIGKILL)
