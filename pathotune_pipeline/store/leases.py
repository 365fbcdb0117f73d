"""Leases: who is working on what, so that two runs on one store share the work instead of doing it twice.

A lease is a small file with its owner and a counter that the owner's process raises as long as it lives. Clocks of
different machines are never compared: an observer calls a lease dead when the counter has not moved for the time the
lease states, on the observer's own monotonic clock, or at once where it sees that the owning process has ended.
Leases save work and guard nothing: what two writers of one group commit is decided by its record (`store.write`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.store import layout
from pathotune_pipeline.store.files import parse_json
from pathotune_pipeline.store.owner import is_gone, owner_name
from pathotune_pipeline.store.place import Place

BEATS_A_LEASE = 5
"""How often the counter is raised in the time that a lease lives without it."""

State = Literal["free", "held", "dead"]


class LeaseSpec(Spec):
    """How runs that work on one store at once share the slides."""

    lease_s: float = setting(
        60.0,
        "Seconds without a sign of life after which a slide that another run works on is taken over.",
        hashed=False,
        ge=0.5,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as it was seen.

    Attributes:
        name: of the lease.
        data: the file's bytes.
        owner: the process that took it; "" where the file cannot be understood.
        lease_s: seconds that it lives without a beat; 0 where that is not known.
        run: the run for which it was taken, where one was named.
    """

    name: str
    data: bytes
    owner: str = ""
    lease_s: float = 0.0
    run: str = ""


class Lease:
    """A lease that this process holds. A context manager: leaving it gives the lease back."""

    def __init__(self, place: Place, name: str, lease_s: float, *, run: str = "") -> None:
        self._place, self.name, self.lease_s, self._run = place, name, lease_s, run
        self._token = f"{owner_name()}.{secrets.token_hex(4)}"
        self._beats = 0
        self.due = time.monotonic() + lease_s / BEATS_A_LEASE

    def _data(self) -> bytes:
        owner = self._token.partition(".")[0]
        facts = {"owner": owner, "token": self._token, "beat": self._beats, "lease_s": self.lease_s, "run": self._run}
        return json.dumps(facts).encode()

    def _take(self) -> bool:
        return self._place.create(_file(self.name), self._data(), durable=False)

    def _is_ours(self) -> bool:
        found = parse_json(self._place.read(_file(self.name)))
        return isinstance(found, dict) and found.get("token") == self._token

    def beat(self) -> bool:
        """Raise the counter. False where another has taken the lease over meanwhile."""
        if not self._is_ours():
            return False
        self._beats += 1
        self._place.replace(_file(self.name), self._data(), durable=False)
        return True

    def release(self) -> None:
        """Give the lease back, if it is still this one's."""
        _keeper.drop(self)
        with contextlib.suppress(OSError):  # it dies by itself
            if self._is_ours():
                self._place.delete(_file(self.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take_lease(place: Place, name: str, lease_s: float, *, run: str = "") -> Lease | None:
    """Take a lease.

    A run never waits for itself: what one of its workers held when it was lost, another takes over at once.

    Args:
        place: where the store lies.
        name: of the lease, such as "<set>/<slide>".
        lease_s: seconds that it shall live without a beat.
        run: a name of the run for which it is taken; "" for none.

    Returns:
        None where another holds it.

    Raises:
        StoreUnwritableError: the store is full, read-only or forbidden.
    """
    lease = Lease(place, name, lease_s, run=run)
    for _ in range(3):
        if lease._take():
            _keeper.add(lease)
            return lease
        held = look(place, name)
        if held is None:
            continue
        if not is_gone(held.owner) and (not run or held.run != run):
            return None
        break_lease(place, held)
    return None


def look(place: Place, name: str) -> Held | None:
    """A lease as it stands; None where nobody holds it."""
    data = place.read(_file(name))
    if data is None:
        return None
    found = parse_json(data)
    try:
        return Held(name, data, str(found["owner"]), float(found["lease_s"]), str(found.get("run", "")))
    except (TypeError, KeyError, ValueError):
        return Held(name, data)


def break_lease(place: Place, held: Held) -> bool:
    """Take a dead lease away, unless it has changed since it was seen. Returns whether it went."""
    return place.delete_if(_file(held.name), held.data)


def all_leases(place: Place) -> list[Held]:
    """Every lease in the store, in the order of their names."""
    names = [
        f"{folder}/{name.removesuffix('.json')}"
        for folder in sorted(place.names(layout.LEASES))
        for name in sorted(place.names(f"{layout.LEASES}/{folder}"))
        if name.endswith(".json") and name[0] != "."
    ]
    return [held for held in (look(place, name) for name in names) if held is not None]


class LeaseWatch:
    """Watches leases of others, and tells which are dead."""

    def __init__(self, place: Place, *, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to watch.

        Args:
            place: where the store lies.
            lease_s: seconds until a lease is dead that does not say how long it lives.
            clock: seconds that never go back.
        """
        self._place, self._lease_s, self._clock = place, lease_s, clock
        self._seen: dict[str, tuple[bytes, float]] = {}

    def state(self, name: str) -> State:
        """Look at a lease: free, held by a living process, or dead, and then taken away."""
        held = look(self._place, name)
        if held is None:
            self._seen.pop(name, None)
            return "free"
        if not self.is_dead(held):
            return "held"
        break_lease(self._place, held)
        return "dead"

    def is_dead(self, held: Held) -> bool:
        """Whether a lease just seen has not moved for as long as it lives, or its process has ended."""
        data, since = self._seen.get(held.name, (b"", 0.0))
        now = self._clock()
        if data != held.data:
            self._seen[held.name], since = (held.data, now), now
        return bool(is_gone(held.owner)) or now - since > (held.lease_s or self._lease_s)


def _file(name: str) -> str:
    return f"{layout.LEASES}/{name}.json"


class _Keeper:
    """One thread that raises the counters of every lease this process holds."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._leases: list[Lease] = []
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._leases.append(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pathotune-leases", daemon=True)
                self._thread.start()
            self._changed.notify()

    def drop(self, lease: Lease) -> None:
        with self._changed:
            if lease in self._leases:
                self._leases.remove(lease)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._leases:
                    self._thread = None
                    return
                now = time.monotonic()
                pause = min(lease.due for lease in self._leases) - now
                if pause > 0:
                    self._changed.wait(pause)
                    continue
                late = [lease for lease in self._leases if lease.due <= now]
            for lease in late:
                lease.due = now + lease.lease_s / BEATS_A_LEASE
                with contextlib.suppress(OSError):  # a full disk stops the run where it matters
                    if not lease.beat():
                        self.drop(lease)


_keeper = _Keeper()
