"""What passes and what does not, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pathotune_pipeline.archive.audit import AuditRow
from pathotune_pipeline.doctor.checks import Check
from pathotune_pipeline.doctor.trial.repeat import Agreement
from pathotune_pipeline.doctor.trial.resume import Resumption
from pathotune_pipeline.doctor.trial.speed import Speed
from pathotune_pipeline.features.outcome import Outcome

NO_TILE = Check(
    "extraction",
    "bad",
    "no slide of the trial has a tile",
    "Try slides with tissue, another --mpp, or a lower --min-tissue; --trial-slides takes more of them.",
)
_MOST_FAULTS = 3


def of_audit(rows: Sequence[AuditRow]) -> list[Check]:
    """One for each slide that cannot be used, and one for all others."""
    found = [
        Check(
            f"slide {row.item.slide_id}",
            "bad",
            f"cannot be used: {'; '.join(row.refusals)}",
            "Give its mpp in a --manifest."
            if row.wants_mpp
            else "Scan or export it again, or leave it out of the archive.",
        )
        for row in rows
        if row.refusals
    ]
    good = [row for row in rows if not row.refusals]
    if good:
        warned = sum(bool(row.warnings) for row in good)
        told = f"{len(good)} can be opened and read" + (f", {warned} with warnings" if warned else "")
        found.append(Check("slides", "note" if warned else "ok", told, "See the table of slides." if warned else ""))
    return found


def of_outcomes(outcomes: Iterable[Outcome]) -> list[Check]:
    """One for each slide that failed, or has no tile."""
    return [
        Check(
            f"slide {outcome.slide_id}",
            "bad" if outcome.status == "failed" else "note",
            f"{outcome.status}: {outcome.reason}",
            "`pathotune audit` and `pathotune info` say more of it." if outcome.status == "failed" else "",
        )
        for outcome in outcomes
        if outcome.status != "committed"
    ]


def of_speed(speed: Speed, least: float, *, has_weights: bool) -> Check:
    """Whether slides become features about as fast as the encoder can go."""
    found = (
        f"{speed.ratio:.2f} of the bare encoder ({speed.extraction_rate:.1f} of {speed.bare_rate:.1f} tiles/s, "
        f"median of {len(speed.bare_s)})"
    )
    if speed.ratio >= least:
        return Check("speed", "ok", found)
    if not has_weights:
        told = "An encoder without weights costs so little that reading is what is measured: try the one that is to be used."
        return Check("speed", "note", f"{found}; under {least:g}", told)
    mend = (
        "Reading cannot keep up: look at the disk, try --threads, --stage on a fast disk, or --slides-at-once. Very short "
        "trials show what slides cost at their beginning: give more --minutes and --trial-tiles."
    )
    return Check("speed", "bad", f"{found}; {least:g} was asked for", mend)


def of_agreement(name: str, found: Agreement, tolerance: float | None) -> Check:
    """Whether features are the same again.

    Args:
        name: what was done twice.
        found: how far both agree.
        tolerance: most that may differ; None where the bits must be equal.
    """
    told = _told(found)
    if found.same_bits or (tolerance is not None and found.within(tolerance)):
        return Check(name, "ok", told)
    asked = "equal bits" if tolerance is None else f"at most {tolerance:g}"
    return Check(name, "bad", f"{told}; {asked} were asked for", _UNSTEADY)


def of_resumption(found: Resumption, tolerance: float | None) -> Check:
    """Whether a killed run came to what an undisturbed one comes to."""
    told = (
        f"killed after batch {found.killed_after_batch} with {found.committed_when_killed} of {found.slides} slides "
        f"committed; run again, {found.resumed} were computed: {_told(found.agreement)}"
    )
    if found.faults:
        return Check("kill and resume", "bad", f"{told}; the store has faults: {found.faults[0]}", _DISK)
    alike = found.agreement.same_bits or (tolerance is not None and found.agreement.within(tolerance))
    if alike and found.committed_when_killed + found.resumed == found.slides:
        return Check("kill and resume", "ok", told)
    return Check("kill and resume", "bad", told, _UNSTEADY if not alike else _DISK)


def not_resumed(error: Exception) -> Check:
    """A run that did not end as it should."""
    return Check("kill and resume", "bad", str(error), "Run `pathotune extract` by hand on the same slides, and see.")


_UNSTEADY = (
    "The encoder is not deterministic, or the machine computes wrongly: try --encoder stain-texture, which is. If that "
    "passes, look at the encoder (dropout, batch statistics); if not, at the memory and the GPU."
)
_DISK = "The disk does not keep what it is told to keep: try --out on another one."


def _told(found: Agreement) -> str:
    if found.same_bits:
        return f"equal bit for bit in {found.equal} slide{'s' if found.equal != 1 else ''}"
    told = f"{found.equal} of {found.slides} equal bit for bit"
    if found.largest:
        told += f", largest difference {found.largest:.2g} of the largest feature"
    if found.faults:
        more = f" and {len(found.faults) - _MOST_FAULTS} more" if len(found.faults) > _MOST_FAULTS else ""
        told += f"; {'; '.join(found.faults[:_MOST_FAULTS])}{more}"
    return told
