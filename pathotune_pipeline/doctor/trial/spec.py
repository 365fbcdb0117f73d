"""TrialSpec: how much is tried, and what passes."""

from __future__ import annotations

from pathotune_pipeline.spec import Spec, setting


class TrialSpec(Spec):
    """How much `doctor --trial` tries, and what passes."""

    slides: int = setting(
        3, "Slides that are tried: the largest, the smallest and those between.", hashed=False, flag="trial-slides",
        ge=1, le=100,
    )  # fmt: skip
    tiles: int = setting(512, "Most tiles of a slide that are encoded.", hashed=False, flag="trial-tiles", ge=1)
    minutes: float = setting(
        10.0, "Minutes that the trial should take; fewer tiles are encoded where encoding is slow.", hashed=False, gt=0
    )
    pairs: int = setting(
        3, "Times that the extraction and the bare encoder take turns.", hashed=False, flag="trial-pairs", ge=1, le=50
    )
    least_speed: float = setting(
        0.5, "Least speed of the extraction as a share of the bare encoder's.", hashed=False, gt=0, le=1
    )
    tolerance: float = setting(
        0.01,
        "On a GPU: most that a feature may differ from run to run, as a share of the largest; on a CPU bits are equal.",
        hashed=False,
        ge=0,
        le=1,
    )
