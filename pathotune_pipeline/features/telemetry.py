"""What reading and encoding cost, summed over slides: who waited for whom, and how fast tiles went through."""

from __future__ import annotations

from collections.abc import Iterable

from pathotune_pipeline.features.outcome import Outcome

SUMMED = ("read_s", "encode_s", "read_wait_s", "encode_wait_s")


class Tally:
    """Sums over the slides that a run made, as their outcomes come."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(SUMMED, 0.0)
        self._tiles = self._bytes = 0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome in, if this run made it."""
        if not outcome.new or outcome.status != "committed":
            return
        self._tiles += outcome.tiles
        self._bytes += int(outcome.facts.get("bytes_read", 0))
        for name in SUMMED:
            self._seconds[name] += outcome.stages.get(name, 0.0)

    def summary(self, seconds: float) -> dict[str, float]:
        """The stream of the run so far.

        Args:
            seconds: wall time of the run.

        Returns:
            tiles; seconds; tiles_per_s; read_s, encode_s and what each waited for the other, summed over threads;
            device_busy, the share of their time that encoders had something to do; bytes_read. Empty without tiles.
        """
        if not self._tiles or seconds <= 0:
            return {}
        encoding = self._seconds["encode_s"] + self._seconds["encode_wait_s"]
        return {
            "tiles": self._tiles,
            "seconds": round(seconds, 3),
            "tiles_per_s": round(self._tiles / seconds, 2),
            **{name: round(value, 3) for name, value in self._seconds.items()},
            "device_busy": round(self._seconds["encode_s"] / encoding, 4) if encoding else 0.0,
            "bytes_read": self._bytes,
        }


def summary(outcomes: Iterable[Outcome], seconds: float) -> dict[str, float]:
    """`Tally.summary` of outcomes of one set."""
    tally = Tally()
    for outcome in outcomes:
        tally.add(outcome)
    return tally.summary(seconds)


def sentence(stream: dict[str, float]) -> str:
    """A summary in a line; empty for an empty one."""
    if not stream:
        return ""
    return (
        f"{stream['tiles_per_s']:.1f} tiles/s, encoders busy {stream['device_busy']:.0%}, "
        f"readers waited {stream['read_wait_s']:.0f} s and encoders {stream['encode_wait_s']:.0f} s, "
        f"{stream['bytes_read'] / 1e6:.1f} MB read"
    )
