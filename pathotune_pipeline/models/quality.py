"""When a model holds its tongue: rules on a slide's quality, and the settings of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tissue.quality import Quality


class PredictSpec(Spec):
    """When a model abstains, and what its table says."""

    min_tiles: int = setting(8, "A slide with fewer readable tiles is abstained on.", ge=1)
    max_invalid: float = setting(
        0.05, "A slide with a larger share of unreadable tiles is abstained on.", ge=0, le=1, flag="max-unreadable"
    )
    max_blur: float = setting(0.5, "A slide with a larger share of blurred tissue is abstained on.", ge=0, le=1)
    max_folds: float = setting(0.3, "A slide with a larger share of folded tissue is abstained on.", ge=0, le=1)
    max_pen: float = setting(0.2, "A slide with a larger share under pen is abstained on.", ge=0, le=1)
    abstain_flagged: bool = setting(False, "Abstain on every slide that the extraction flagged, whatever for.")
    calibrated: bool = setting(
        False, "Give probabilities at the temperature fitted on validation; of classes, where the model has one."
    )
    by: Literal["slide", "case"] = setting(
        "slide", "One row for each slide, or for each case: the mean over its predicted slides."
    )
    device: str = setting("auto", "Where heads and encoder run: auto, cpu, cuda, cuda:1, mps.", hashed=False)


def objections(
    spec: PredictSpec, *, tiles: int, invalid: int, quality: Quality | None, flags: Sequence[str] = ()
) -> list[str]:
    """Why a slide is not predicted, a sentence part each; empty where it may be.

    Args:
        spec: the rules.
        tiles: of the slide.
        invalid: of them, how many could not be read.
        quality: as it was measured; None where it was not, and then its rules pass.
        flags: remarks of the extraction.
    """
    readable = tiles - invalid
    found = []
    if readable < spec.min_tiles:
        found.append(f"{readable} readable tiles, under {spec.min_tiles}")
    if tiles and invalid > spec.max_invalid * tiles:
        found.append(f"{invalid} of {tiles} tiles cannot be read")
    if quality is not None:
        measured = (
            (quality.blur_share, spec.max_blur, "of the tissue is blurred"),
            (quality.fold_share, spec.max_folds, "of the tissue is folded"),
            (quality.pen_share, spec.max_pen, "of the slide is under pen"),
        )
        found += [f"{share:.0%} {what}, over {limit:.0%}" for share, limit, what in measured if share > limit]
    if spec.abstain_flagged:
        found += [f"flagged: {flag}" for flag in flags]
    return found
