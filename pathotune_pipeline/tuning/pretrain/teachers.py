"""Frozen encoders that a student is held against: loaded, checked, and asked for features and patch tokens in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pathotune_pipeline.adapt.backbone import trunk_of
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.spec import STORED, DistillSpec
from pathotune_pipeline.tuning.pretrain.stored import StoredTiles


@dataclass(frozen=True, slots=True)
class Told:
    """What a teacher says of views; nothing of it has a graph.

    Attributes:
        feature: float32 [B, D]: the encoder's feature, as an extraction has it.
        patches: float32 [B, N, T] patch tokens in raster order; None where they were not asked for.
    """

    feature: Tensor
    patches: Tensor | None


class Teacher:
    """A frozen encoder. It is no `nn.Module`, so that nothing trains, saves or moves it with the student.

    Attributes:
        name: of its card; its losses are named after it.
        card: facts of the encoder.
        class_weight: of the loss on its feature.
        patch_weight: of the loss on its patch tokens; 0 where they are not looked at.
        token_dim: width of its patch tokens; 0 where they are not looked at.
        grid: (rows, columns) of its patches; (0, 0) where they are not looked at.
    """

    def __init__(self, encoder: Encoder, *, class_weight: float, patch_weight: float) -> None:
        """Take an encoder.

        Raises:
            SpecError: its patch tokens are wanted and it has none.
        """
        self.card: EncoderCard = encoder.card
        self.name = encoder.card.name
        self.class_weight, self.patch_weight = class_weight, patch_weight
        self._encoder = encoder
        self.token_dim, self.grid = 0, (0, 0)
        if patch_weight:
            trunk = self._trunk = _token_trunk(encoder)
            rows, columns = trunk.patch_embed.grid_size
            if self.card.input_px:  # a network that takes any size is given that of its card
                rows, columns = (self.card.input_px // side for side in trunk.patch_embed.patch_size)
            self.token_dim, self.grid = int(trunk.embed_dim), (int(rows), int(columns))

    @torch.no_grad()
    def look(self, views: Tensor, draws: Draws | None = None) -> Told:
        """What it says of float [B, 3, P, P] views in 0 to 1, resized and normalised as its card asks."""
        pixels = views.float().permute(0, 2, 3, 1) * 255
        if self.card.mean is None:  # it takes bytes
            pixels = pixels.round().to(torch.uint8)
        kept: list[Tensor] = []
        # a copy of the trunk's last step: one pass gives the feature and the tokens it is made of
        hook = self._trunk.norm.register_forward_hook(lambda *seen: kept.append(seen[2])) if self.patch_weight else None
        try:
            with torch.autocast(views.device.type, enabled=False):
                feature = self._encoder.module(self._encoder.prepare(pixels)).float()
        finally:
            if hook:
                hook.remove()
        if not kept:
            return Told(feature, None)
        return Told(feature, kept[-1][:, int(self._trunk.num_prefix_tokens) :].float())

    def recipe(self) -> dict[str, Any]:
        """What of it decides the student: by its contents, since a teacher may be moved between two parts of a run."""
        return {
            "encoder": self._encoder.fingerprint(),
            "class_weight": self.class_weight,
            "patch_weight": self.patch_weight,
        }


def _token_trunk(encoder: Encoder) -> Any:
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    trunk: Any = trunk_of(encoder.module)
    if not isinstance(trunk, (VisionTransformer, Eva)):
        raise SpecError(
            f"teacher {encoder.card.name}: is a {type(trunk).__name__}, which has no patch tokens that could be taught. "
            "Give it a patch weight of 0, or name a vision transformer."
        )
    return trunk


class StoredTeacher:
    """A feature set of a store: what an encoder has said of the tiles, of which it need not be asked again.

    Attributes are those of `Teacher`.
    """

    token_dim = 0
    grid = (0, 0)

    def __init__(self, name: str, tiles: StoredTiles, *, class_weight: float, patch_weight: float) -> None:
        """Take a set.

        Raises:
            SpecError: its patch tokens are wanted, which a set does not have.
        """
        if patch_weight:
            raise SpecError(
                f"teacher {name}: a feature set has no patch tokens that could be taught. Give it a patch weight of 0."
            )
        self.name, self.class_weight, self.patch_weight = name, class_weight, patch_weight
        self.card = tiles.card(name)
        self._tiles = tiles

    def look(self, views: Tensor, draws: Draws | None = None) -> Told:
        """What the set has of the tiles that these draws are for; the same for each of their views.

        Args:
            views: float [V * B, 3, P, P]: the first view of every tile, then the second.
            draws: of the batch; its numbers name the tiles.

        Raises:
            SpecError: without draws, what the tiles are is not known.
        """
        if draws is None:
            raise SpecError(f"teacher {self.name}: a feature set is asked for the tiles of a batch. Give its draws.")
        numbers, watched = draws.image_numbers()
        found = self._tiles.features(self.name, numbers, watched=watched)
        feature = torch.from_numpy(found).to(views.device).repeat(len(views) // len(found), 1)
        return Told(feature, None)

    def recipe(self) -> dict[str, Any]:
        """What of it decides the student: by its contents, wherever the store lies."""
        return {
            "features": self._tiles.digest(self.name),
            "class_weight": self.class_weight,
            "patch_weight": self.patch_weight,
        }


def load_teachers(
    spec: DistillSpec, device: torch.device, stored: StoredTiles | None = None
) -> list[Teacher | StoredTeacher]:
    """The teachers that have a weight, on a device; one without any is not even loaded.

    Args:
        spec: names, files and weights.
        device: where encoders are put.
        stored: the tiles of the feature sets among the teachers, by `open_stored`.

    Raises:
        SpecError: lists of unlike lengths, or two teachers of one name.
        UnknownNameError: there is no such encoder.
        WeightsError: its weights are absent, gated, or do not fit.
    """
    spec.check()
    teachers: list[Teacher | StoredTeacher] = []
    for place, name in enumerate(spec.teachers):
        class_weight, patch_weight = spec.weights_of(place)
        if name.startswith(STORED) and (class_weight or patch_weight):
            if stored is None:
                raise SpecError(f"teachers: {name} is a feature set, whose tiles must be opened first (open_stored).")
            teachers.append(StoredTeacher(name, stored, class_weight=class_weight, patch_weight=patch_weight))
        elif class_weight or patch_weight:
            weights = spec.teacher_files[place] if spec.teacher_files else ""
            asked = EncoderSpec(name=name, weights=weights or None, precision=spec.teacher_precision)
            encoder = create_encoder(asked, device=device)
            teachers.append(Teacher(encoder, class_weight=class_weight, patch_weight=patch_weight))
    names = [teacher.name for teacher in teachers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(
            f"teachers: {twice[0]} is there twice. Name each once; rename a folder where two are called so."
        )
    return teachers
