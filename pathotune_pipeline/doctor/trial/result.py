"""What a trial found, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pathotune_pipeline.doctor.checks import Check
from pathotune_pipeline.doctor.trial.choose import TriedSlide
from pathotune_pipeline.doctor.trial.repeat import Agreement
from pathotune_pipeline.doctor.trial.resume import Resumption
from pathotune_pipeline.doctor.trial.speed import Speed


@dataclass(slots=True)
class TrialResult:
    """A site's qualification.

    Attributes:
        started, finished: in UTC, ISO 8601.
        encoder: name, licence, weights' checksum, length of a feature, device, precision and batch size.
        recipe: tile side, mpp, name of the feature set, most tiles of a slide.
        settings: of the extraction, as records have them: no folder is in them.
        asked: the trial's own settings.
        archive: how many slides the site has, and how many files were passed over.
        machine: processor, cores, memory, versions of libraries.
        verdicts: what was tried, and whether it passed: a "bad" one fails the trial.
        checks: of the machine, as `pathotune doctor` has them; a "bad" one fails the trial too.
        slides: what became of each.
        speed: None where nothing could be timed.
        repeats: what was done twice, and how far the features agree.
        resumption: None where it could not be tried.
    """

    started: str
    finished: str = ""
    encoder: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    archive: dict[str, int] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Check] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    slides: list[TriedSlide] = field(default_factory=list)
    speed: Speed | None = None
    repeats: dict[str, Agreement] = field(default_factory=dict)
    resumption: Resumption | None = None

    @property
    def failures(self) -> list[Check]:
        """Why it did not pass."""
        return [each for each in (*self.verdicts, *self.checks) if each.state == "bad"]

    @property
    def passed(self) -> bool:
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `trial.json`; a number beyond all bounds is null."""
        plain = asdict(self)
        if self.speed is not None:
            plain["speed"] |= {
                "ratio": self.speed.ratio,
                "tiles_per_s": self.speed.extraction_rate,
                "bare_tiles_per_s": self.speed.bare_rate,
            }
        return {"passed": self.passed, "failures": [asdict(each) for each in self.failures], **_finite(plain)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
