"""What reading and encoding cost, summed over slides: who waited for whom, and how fast tiles went through."""

from __future__ import annotations

from collections.abc import Iterable

from pathotune_pipeline.features.outcome import Outcome

SUMMED = ("read_s", "encode_s", "read_wait_s", "encode_wait_s")


def summary(outcomes: Iterable[Outcome], seconds: float) -> dict[str, float]:
    """The stream of a run, of the slides that it made.

    Args:
        outcomes: of one set.
        seconds: wall time of the run.

    Returns:
        tiles; seconds; tiles_per_s; read_s, encode_s and what each waited for the other, summed over threads;
        device_busy, the share of their time that encoders had something to do; bytes_read. Empty where nothing was made.
    """
    made = [outcome for outcome in outcomes if outcome.new and outcome.status == "committed"]
    if not made:
        return {}
    sums = {name: sum(outcome.stages.get(name, 0.0) for outcome in made) for name in SUMMED}
    tiles = sum(outcome.tiles for outcome in made)
    encoding = sums["encode_s"] + sums["encode_wait_s"]
    return {
        "tiles": tiles,
        "seconds": round(seconds, 3),
        "tiles_per_s": round(tiles / seconds, 2) if seconds > 0 else 0.0,
        **{name: round(value, 3) for name, value in sums.items()},
        "device_busy": round(sums["encode_s"] / encoding, 4) if encoding > 0 else 0.0,
        "bytes_read": sum(int(outcome.facts.get("bytes_read", 0)) for outcome in made),
    }


def sentence(stream: dict[str, float]) -> str:
    """A summary in a line; empty for an empty one."""
    if not stream:
        return ""
    return (
        f"{stream['tiles_per_s']:.1f} tiles/s, encoders busy {stream['device_busy']:.0%}, "
        f"waits {stream['read_wait_s']:.1f} s reading and {stream['encode_wait_s']:.1f} s encoding, "
        f"{stream['bytes_read'] / 1e6:.1f} MB read"
    )
