"""A study opened: its data read, its encoders loaded, its cells cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.evaluation.run_scores import SCORES
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.patches.read import read_patches
from pathotune_pipeline.tuning.studies.cell import Cell, Contender, Fit
from pathotune_pipeline.tuning.studies.eva import rules_for
from pathotune_pipeline.tuning.studies.file import SlideSource, StudyFile
from pathotune_pipeline.tuning.studies.grid import Grid, domains_grid, scaling_grid
from pathotune_pipeline.tuning.studies.material import items_of
from pathotune_pipeline.tuning.studies.methods import PatchFit
from pathotune_pipeline.tuning.studies.protocol import PatchHeads, SlideHeads, patch_division, protocol_grid
from pathotune_pipeline.tuning.studies.slide_bags import read_slide_bags
from pathotune_pipeline.tuning.studies.spec import GridSpec, ProtocolSpec, ScalingSpec

Kind = Literal["scaling", "domains", "protocol"]


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What was asked; plain, so that it can be handed to another process.

    Attributes:
        kind: of study.
        file: the study's YAML.
        out: folder of its cells and tables.
        flags: settings of the kind's own section that go over the file's.
    """

    kind: Kind
    file: Path
    out: Path
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class OpenStudy:
    """A study whose data are read and whose cells are known.

    Attributes:
        grid: its cells.
        fit: trains one.
        draws: of the bootstrap.
        about: for the page: "kind", "title", "note", "settings".
        baseline: the row that others are compared with; None of a single row.
    """

    grid: Grid
    fit: Fit
    draws: int
    about: Mapping[str, Any]
    baseline: Contender | None = None


def open_study(request: StudyRequest) -> OpenStudy:
    """Read a study's data, load its encoders, and cut its cells.

    Raises:
        UsageError: a setting, a label table or a split is wrong.
        WeightsError: an encoder's weights are absent or do not fit.
    """
    file = StudyFile.read(request.file)
    if request.kind == "scaling":
        return _open_grid(file, request, file.scaling_spec(request.flags))
    if request.kind == "domains":
        return _open_grid(file, request, file.domains_spec(request.flags))
    spec = file.protocol_spec(request.flags)
    if file.slides is None:
        return _open_patch_heads(file, request, spec)
    return _open_slide_heads(file, file.slides, request, spec)


def _open_grid(file: StudyFile, request: StudyRequest, spec: GridSpec) -> OpenStudy:
    rows, encoders = file.rows(), file.encoder_specs()  # what is wrong with them is said before images are read
    patches = _labelled(read_patches(file.patches))
    fit = PatchFit(patches, encoders, rows, steps=spec.steps)
    cut: Callable[..., Grid] = scaling_grid if isinstance(spec, ScalingSpec) else domains_grid
    grid = cut(patches, fit.contenders, spec)
    return _opened(file, request, spec, fit=fit, grid=grid, notes=patches.notes)


def _open_patch_heads(file: StudyFile, request: StudyRequest, spec: ProtocolSpec) -> OpenStudy:
    specs = file.encoder_specs()
    if not specs:
        raise SpecError("study protocol compares encoders. Name at least one under `encoders`.")
    patches = _labelled(read_patches(file.patches))
    items, division = items_of(patches), patch_division(patches, spec)
    encoders = {name: create_adapted_encoder(each, device=pick_device(each.device)) for name, each in specs.items()}
    heads = PatchHeads(encoders, patches, items, request.out, spec)
    grid = protocol_grid(items, heads.contenders(), division, rules=rules_for("patch", spec))
    return _opened(file, request, spec, fit=heads, grid=grid, notes=patches.notes)


def _open_slide_heads(file: StudyFile, slides: SlideSource, request: StudyRequest, spec: ProtocolSpec) -> OpenStudy:
    found = read_slide_bags(slides, spec)
    heads = SlideHeads(found.bags, found.recipes, found.items, spec)
    grid = protocol_grid(found.items, heads.contenders(), found.division, rules=rules_for("slide", spec))
    return _opened(file, request, spec, fit=heads, grid=grid, notes=found.notes)


def _opened(
    file: StudyFile,
    request: StudyRequest,
    spec: GridSpec | ProtocolSpec,
    *,
    fit: Fit,
    grid: Grid,
    notes: tuple[str, ...],
) -> OpenStudy:
    about = {
        "kind": request.kind,
        "headline": SCORES[0],
        "title": file.title or f"Study: {request.kind}",
        "note": file.note,
        "item": "image" if file.slides is None else "slide",
        "settings": {request.kind: spec.model_dump(mode="json")},
    }
    baseline = _baseline(file, grid.cells)
    return OpenStudy(replace(grid, notes=(*notes, *grid.notes)), fit, spec.bootstrap, about, baseline)


def _baseline(file: StudyFile, cells: Sequence[Cell]) -> Contender | None:
    """The row that the file names, or the first; None of a single row.

    Raises:
        SpecError: there is no such row.
    """
    rows = {cell.contender.title: cell.contender for cell in cells}
    if file.baseline and file.baseline not in rows:
        told = f"{nearest(file.baseline, rows)} Rows: {'; '.join(rows)}."
        raise SpecError(f"baseline: there is no row {file.baseline!r}.{told}")
    return None if len(rows) < 2 else rows[file.baseline] if file.baseline else next(iter(rows.values()))


def _labelled(patches: PatchSet) -> PatchSet:
    return patches.subset(patches.where(labelled=True)) if (patches.labels < 0).any() else patches
