"""Distillation: a student learns what several frozen encoders say of its crops, and from the average of itself.

"A Generalizable Pathology Foundation Model Using a Unified Knowledge Distillation Pretraining Framework", arXiv
2407.18449. What differs from the published code is listed in docs/pretraining.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.distill_heads import TeacherHead
from pathotune_pipeline.tuning.pretrain.distill_losses import class_loss, koleo_loss, patch_loss, resize_grid
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk, encoder_folder, trained_whole, write_encoder
from pathotune_pipeline.tuning.pretrain.self_distill import (
    SelfDistillation,
    draw_masks,
    encoded,
    let_sizes_vary,
    pooled,
)
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec, PretrainSpec, ViewSpec
from pathotune_pipeline.tuning.pretrain.teachers import StoredTeacher, Teacher, Told
from pathotune_pipeline.tuning.pretrain.views import random_views

AnyTeacher = Teacher | StoredTeacher
_NARROW_SHARE = 7 / 16
"""Side of narrow crops over that of wide ones: 98 px of 224 with patches of 14, 96 with patches of 16."""


@dataclass(frozen=True, slots=True)
class Crops:
    """What a step looks at, float32 in 0 to 1.

    Attributes:
        wide: [W * B, 3, P, P]: the first wide crop of every image, then the second.
        narrow: [V * B, 3, S, S] in the same order; None where the loss between crops has no weight.
    """

    wide: Tensor
    narrow: Tensor | None


class Distillation(nn.Module):
    """The student, a head for each teacher, and the student's own average where it learns from that too."""

    name = "distill"

    def __init__(self, trunk: Trunk, spec: DistillSpec, run: PretrainSpec, teachers: Sequence[AnyTeacher]) -> None:
        """Build it around a trunk, whose weights it trains.

        Raises:
            SpecError: every loss has weight zero, crops do not fit the network, or the base cannot be trained whole.
        """
        super().__init__()
        spec.check()
        self.spec, self.teachers = spec, tuple(teachers)
        self.student = trained_whole(trunk)
        self.narrow_px = _narrow_side(spec, trunk)
        if not (self.teachers or spec.dino_weight or spec.ibot_weight):
            raise SpecError(
                "pretrain distill: there is neither a teacher with a weight nor self-distillation. Name --teachers, or "
                "give --dino-weight or --ibot-weight."
            )
        let_sizes_vary(trunk.module)
        self.encoder = trunk.encoder
        self.feature_heads, self.patch_heads = nn.ModuleList(), nn.ModuleList()
        for teacher in self.teachers:
            head = TeacherHead(trunk.dim, teacher.card.dim, spec.head_bottleneck)
            shared = teacher.token_dim in (0, teacher.card.dim)
            self.feature_heads.append(head if teacher.class_weight or shared else nn.Identity())
            other = nn.Identity() if shared else TeacherHead(trunk.dim, teacher.token_dim, spec.head_bottleneck)
            self.patch_heads.append(other)
        self.own: SelfDistillation | None = None
        if spec.dino_weight or spec.ibot_weight:
            share = spec.temperature_epochs / run.epochs
            self.own = SelfDistillation(trunk.module, trunk.dim, spec, warmup_share=share)
        self.mask_token = nn.Parameter(torch.zeros(trunk.dim)) if spec.ibot_weight else None

    @property
    def trunk(self) -> Trunk:
        """What is kept in the end: the average, or the student where there is none or it was asked for."""
        if self.own is None or self.spec.result == "student":
            return self.student
        return replace(self.student, module=self.own.average, encoder=self.own.average)

    def cut(self, images: Tensor, spec: ViewSpec, draws: Draws) -> Crops:
        """Wide crops, two where they are held against each other, and narrow ones for that: see `Crops`."""
        mine = self.spec
        count, side = 2 if mine.dino_weight else 1, self.student.input_px
        wide = torch.cat([random_views(images, side, spec, draws) for _ in range(count)])
        if not (mine.dino_weight and mine.local_crops):
            return Crops(wide, None)
        closer = spec.with_values(crop_min=mine.local_min, crop_max=mine.local_max)
        parts = [random_views(images, self.narrow_px, closer, draws) for _ in range(mine.local_crops)]
        return Crops(wide, torch.cat(parts))

    def forward(self, crops: Crops, draws: Draws) -> dict[str, Tensor]:
        """Weighted losses by name; what has no weight is not computed.

        Args:
            crops: as `cut` gave them.
            draws: random numbers for these rows.
        """
        student, spec, wide = self.student, self.spec, crops.wide
        module, pixels = student.module, student.normalised(wide)
        mask = None
        if self.mask_token is not None:
            mask = draw_masks(draws, len(wide), student.grid, spec).to(wide.device)
        tokens = encoded(module, pixels, mask, self.mask_token)
        feature = pooled(module, tokens)
        losses: dict[str, Tensor] = {}
        for place, teacher in enumerate(self.teachers):
            losses |= self._taught(place, teacher, teacher.look(wide, draws), feature=feature, tokens=tokens)
        if self.own is not None:
            features = feature
            if crops.narrow is not None:
                features = torch.cat([feature, pooled(module, encoded(module, student.normalised(crops.narrow)))])
            losses |= self.own(tokens, features, pixels, mask)
        if spec.koleo_weight:
            parts = feature.chunk(2 if spec.dino_weight else 1)
            if len(parts[0]) < 2:
                raise SpecError(
                    "koleo_weight: spreads the images of a process's batch apart, which is one image. Raise batch_size, or "
                    "give a weight of 0."
                )
            losses["koleo"] = spec.koleo_weight * torch.stack([koleo_loss(part) for part in parts]).sum()
        return losses

    def _taught(
        self, place: int, teacher: AnyTeacher, told: Told, *, feature: Tensor, tokens: Tensor
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if teacher.class_weight:
            said = self.feature_heads[place](feature)
            losses[f"{teacher.name}.class"] = teacher.class_weight * class_loss(said, told.feature)
        if told.patches is not None:
            rows, columns = grid = self.student.grid
            shared = isinstance(self.patch_heads[place], nn.Identity)
            head = (self.feature_heads if shared else self.patch_heads)[place]
            target = resize_grid(told.patches, teacher.grid, grid)
            said = head(tokens[:, -rows * columns :])
            losses[f"{teacher.name}.patch"] = teacher.patch_weight * patch_loss(said, target)
        return losses

    def judge(self) -> TeacherJudge:
        """How far the student is from its teachers' features on watched images."""
        return TeacherJudge(self)

    def said(self, views: Tensor, draws: Draws | None = None) -> list[tuple[AnyTeacher, Tensor, Tensor]]:
        """Each teacher that teaches a feature, what the student says it is, and what it is, [B, D] both."""
        student = self.student
        feature = pooled(student.module, encoded(student.module, student.normalised(views)))
        pairs = zip(self.teachers, self.feature_heads, strict=True)
        return [(each, head(feature), each.look(views, draws).feature) for each, head in pairs if each.class_weight]

    def embed(self, views: Tensor) -> Tensor:
        """Features [B, D] of the views, as the encoder that is kept gives them."""
        return self.trunk.features(views)

    def begin_epoch(self, epoch: int, loss: float | None) -> None:
        """Every epoch is alike."""

    def begin_step(self, step: int, steps: int) -> None:
        """Set what changes in the course of the run."""
        if self.own is not None:
            self.own.begin_step(step, steps)

    def end_step(self) -> None:
        """Let the average follow the student."""
        if self.own is not None:
            self.own.follow(self.student.module)

    def state_of_course(self) -> dict[str, Any]:
        """The average's momentum and the temperature of what it says, for metrics.csv."""
        if self.own is None:
            return {}
        return {"momentum": self.own.momentum, "teacher_temperature": self.own.temperature}

    def artefact(self, out: Path) -> Path:
        """The encoder's folder, for `local:`."""
        return encoder_folder(out)

    def write(self, out: Path, record: Mapping[str, Any]) -> Path:
        """Write the encoder, with its teachers and their licences in the record; heads are left behind."""
        teachers = [teacher.card.model_dump(mode="json") for teacher in self.teachers]
        return write_encoder(self.trunk, self.artefact(out), {**record, "teachers": teachers})

    def recipe(self) -> dict[str, Any]:
        """What decides the result beside the run's settings: plain values."""
        places = {"teachers", "teacher_files", "teacher_store", "class_weights", "patch_weights"}
        settings = self.spec.model_dump(mode="json", exclude=places)
        return {"method": self.name, **settings, "teachers": [teacher.recipe() for teacher in self.teachers]}


class TeacherJudge:
    """One minus the cosine with the teachers' features, and what a constant of each teacher would come to."""

    def __init__(self, method: Distillation) -> None:
        self._method = method
        self._sums: dict[str, tuple[float, Tensor, int]] = {}

    def add(self, views: Tensor, draws: Draws, picture: Path | None) -> None:
        """Count views in; there is nothing to be drawn."""
        for teacher, said, told in self._method.said(views, draws):
            unit = F.normalize(told.cpu().double(), dim=1)
            agreed = float((F.normalize(said.cpu().double(), dim=1) * unit).sum())
            before = self._sums.get(teacher.name, (0.0, torch.zeros_like(unit[0]), 0))
            self._sums[teacher.name] = (before[0] + agreed, before[1] + unit.sum(0), before[2] + len(unit))

    def losses(self) -> tuple[float | None, float | None]:
        """The mean over teachers of the loss, and of that of the one vector that comes closest to a teacher's features."""
        if not self._sums:
            return None, None
        watched = [1 - agreed / count for agreed, _, count in self._sums.values()]
        constant = [1 - float(total.norm()) / count for _, total, count in self._sums.values()]
        return sum(watched) / len(watched), sum(constant) / len(constant)


def _narrow_side(spec: DistillSpec, trunk: Trunk) -> int:
    side = spec.local_px or max(1, round(trunk.grid[0] * _NARROW_SHARE)) * trunk.patch_px
    if side % trunk.patch_px:
        raise SpecError(f"local_px {side}: patches of {trunk.patch_px} px do not divide it. Give a multiple, or 0.")
    return side
