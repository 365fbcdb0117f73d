"""PatchSpec: where labelled patches come from, what their labels mean, and at which size they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from pathotune_pipeline.slides.slide import SlideSpec
from pathotune_pipeline.spec import Spec, setting

Kind = Literal["auto", "folder", "table", "coco", "annotations"]


class PatchSpec(Spec):
    """Which labelled patches are read, and how."""

    source: Path | None = setting(
        None,
        "Labelled patches: a folder of class folders, a CSV, a COCO JSON, or a folder of annotations of slides.",
        flag="patches",
        hashed=False,
    )
    kind: Kind = setting(
        "auto",
        "What the source is: folder, table, coco or annotations; auto tells by what lies there.",
        flag="patch-kind",
    )
    images: Path | None = setting(
        None,
        "Folder of the images or slides that the source names; empty: the source's own folder.",
        flag="patch-images",
        hashed=False,
    )
    slide_table: Path | None = setting(
        None,
        "CSV with a line for each slide and columns for its group, domain or split, where the source does not say them.",
        flag="patch-slide-table",
        hashed=False,
    )
    path_column: str | None = setting(
        None, "Column of the file; empty: path, filename, file, image or slide.", flag="patch-path-column"
    )
    label_column: str | None = setting(
        None, "Column of the class; empty: label, class or target.", flag="patch-label-column"
    )
    group_column: str | None = setting(
        None, "Column of what splits keep together; empty: group, patient, case or slide.", flag="patch-group-column"
    )
    domain_column: str | None = setting(
        None, "Column of the domain; empty: domain, tumortype, tumor or scanner.", flag="patch-domain-column"
    )
    split_column: str | None = setting(
        None, "Column of the part that the source puts a patch in; empty: split or dataset.", flag="patch-split-column"
    )
    group_pattern: str | None = setting(
        None,
        "Regular expression whose first group, found in a patch's path, is its group where no column says one.",
        flag="patch-group-pattern",
    )
    rename: dict[str, str] = setting({}, "Labels as the source writes them, and what they are called here.")
    classes: tuple[str, ...] = setting(
        (), "Classes in their order, after renaming; empty takes all that are found, by name.", flag="patch-classes"
    )
    other_labels: Literal["fail", "skip", "unlabelled"] = setting(
        "fail",
        "Patches whose label is none of the classes: fail, skip them, or keep them unlabelled.",
        flag="patch-other-labels",
    )
    unreadable: Literal["fail", "skip"] = setting(
        "fail", "Patches that are missing or cannot be read: fail, or skip and count them.", flag="patch-unreadable"
    )
    side_px: int | None = setting(
        None, "Side of the patches in pixels; empty takes the encoder's own.", flag="patch-px", gt=0
    )
    mpp: float | None = setting(
        None,
        "um/px of patches cut from slides; empty takes the encoder's own, or level 0 as it is where that has none.",
        flag="patch-mpp",
        gt=0,
    )
    edge: Literal["white", "refuse"] = setting(
        "white",
        "Patches that reach over a slide's edge: white beyond it, or refused like unreadable ones.",
        flag="patch-edge",
    )
    boxes: Literal["auto", "xywh", "corners"] = setting(
        "auto",
        "Boxes of a COCO JSON: x, y, width, height as COCO has them, two corners as MIDOG has them, or told by the numbers.",
        flag="patch-boxes",
    )
    min_cover: float = setting(
        0.75,
        "Least share of a tile that annotations of its class must cover; only tiles under annotations.",
        flag="patch-min-cover",
        gt=0.5,
        le=1,
    )
    overlap_px: int = setting(
        0, "Pixels that neighbouring tiles under annotations share.", flag="patch-overlap-px", ge=0
    )
    max_per_slide: int | None = setting(
        None,
        "Most tiles of one class of one slide under annotations; of more, so many are drawn; empty takes all.",
        flag="patch-max-per-slide",
        gt=0,
    )
    sample_seed: int = setting(0, "Decides which tiles under annotations are drawn.", flag="patch-sample-seed", ge=0)
    cache: Path | None = setting(
        None,
        "Folder that keeps decoded patches, so that the next run maps them from disk; empty decodes them into memory.",
        flag="patch-cache",
        hashed=False,
    )
    max_gb: float = setting(
        8.0, "Most memory for patches without a cache, in GB; more is refused.", flag="patch-max-gb", hashed=False, gt=0
    )
    threads: int | None = setting(
        None, "Threads that read patches; empty: one for each core.", flag="patch-threads", hashed=False, gt=0
    )

    slide: SlideSpec = SlideSpec()

    @field_validator("rename", mode="before")
    @classmethod
    def _numbers_as_text(cls, names: Any) -> Any:
        """Labels are text, and YAML reads `1: mitosis` as a number."""
        if not isinstance(names, dict):
            return names
        return {str(name) if type(name) is int else name: to for name, to in names.items()}
