"""PuzzleTuning: an encoder, or prompts on a frozen one, learn to put pixels of a puzzle back where they were.

"PuzzleTuning: Explicitly Bridge Pathological and Natural Image with Puzzles", arXiv 2311.06712. What differs from the
published code is listed in docs/pretraining.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathotune_pipeline.adapt.attach import AdaptedNetwork, attach
from pathotune_pipeline.adapt.backbone import trunk_of
from pathotune_pipeline.adapt.file import save_adapter
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.tuning.pretrain.curriculum import Curriculum, Stage, Standing, piece_sizes
from pathotune_pipeline.tuning.pretrain.draws import Draws
from pathotune_pipeline.tuning.pretrain.network import Trunk, encoder_folder, trained_whole, write_encoder
from pathotune_pipeline.tuning.pretrain.puzzle import by_patch, make_puzzle
from pathotune_pipeline.tuning.pretrain.restore import PixelDecoder, Restored, patch_targets, restoration_loss
from pathotune_pipeline.tuning.pretrain.restoring import Restoring
from pathotune_pipeline.tuning.pretrain.spec import PretrainSpec, PuzzleSpec


class PuzzleTuning(Restoring, nn.Module):
    """The encoder with or without prompts, the decoder, and where the curriculum stands.

    Attributes:
        adapted: the frozen encoder with its prompts, in explicit mode; None in implicit mode.
    """

    name = "puzzle"

    def __init__(self, trunk: Trunk, spec: PuzzleSpec, run: PretrainSpec) -> None:
        """Build it around a trunk.

        Raises:
            SpecError: explicit mode without a trained base, or pieces that do not fit the network.
        """
        super().__init__()
        if spec.mode == "explicit" and trunk.base is None and not spec.untrained_base:
            raise SpecError(
                "pretrain puzzle: explicit mode keeps the encoder as it is and trains prompts, so it needs a trained one. Give "
                "--base, such as local:DIR of `pretrain mae`; or --mode implicit; or --untrained-base if random weights are meant."
            )
        self.spec, self.patch_norm = spec, spec.patch_norm
        self.curriculum = Curriculum(
            spec.strategy,
            piece_sizes(trunk.input_px, trunk.patch_px),
            epochs=run.epochs,
            warmup=run.warmup_epochs,
            fix_share=spec.fix_share,
            piece_px=spec.piece_px,
            seed=run.seed,
        )
        self.adapted: AdaptedNetwork | None = None
        self.base = trunk
        if spec.mode == "explicit":
            prompts = AdapterSpec(method="vpt-deep", n_prompts=spec.prompts, prompt_init=spec.prompt_init)
            self.adapted = attach(trunk.encoder, prompts)
            self.trunk = replace(trunk, module=trunk_of(self.adapted.network), encoder=self.adapted)
        else:
            self.trunk = trained_whole(trunk)
        self.encoder = self.trunk.encoder
        self.decoder = PixelDecoder(run.decoder, token_dim=trunk.dim, grid=trunk.grid, patch_px=trunk.patch_px)
        self._stage, self._standing = self.curriculum.plain, Standing()

    def get_extra_state(self) -> Tensor:
        """Where the curriculum stands, for a checkpoint: float64 [5], side, share; place, share, mark of a driven one."""
        stage, standing = self._stage, self._standing
        mark = math.nan if standing.mark is None else standing.mark
        return torch.tensor(
            [stage.piece_px, stage.fix_share, standing.place, standing.fix_share, mark], dtype=torch.float64
        )

    def set_extra_state(self, state: Tensor) -> None:
        """Put back what `get_extra_state` gave."""
        side, share, place, driven, mark = state.tolist()
        self._stage = Stage(int(side), share)
        self._standing = Standing(int(place), driven, None if math.isnan(mark) else mark)

    @property
    def stage(self) -> Stage:
        """What puzzles are like now: the epoch's in training, always the warm-up's where images are watched."""
        return self._stage if self.training else self.curriculum.plain

    def begin_epoch(self, epoch: int, loss: float | None) -> None:
        """Take the curriculum's next stage."""
        self._stage, self._standing = self.curriculum.stage(epoch, self._standing, loss)

    def forward(self, views: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            views: float32 [B, 3, P, P] in 0 to 1.
            draws: random numbers for these rows.
        """
        restored = self.restore(views, draws)
        return {"restoration": restoration_loss(restored.patches, restored.target, restored.taken)}

    def restore(self, views: Tensor, draws: Draws) -> Restored:
        """Make a puzzle of the views and restore them."""
        trunk, stage = self.trunk, self.stage
        group = self.spec.group if self.training else 0
        puzzle = make_puzzle(views, draws, piece_px=stage.piece_px, fix_share=stage.fix_share, group=group)
        moved = by_patch(
            puzzle.moved,
            pieces_a_row=trunk.input_px // stage.piece_px,
            patches_a_piece=stage.piece_px // trunk.patch_px,
        )
        prefix, embedded = trunk.tokens(trunk.normalised(puzzle.pixels))
        encoded = trunk.blocks(torch.cat([prefix, embedded], 1))
        first, patches = encoded[:, : prefix.shape[1]], encoded[:, prefix.shape[1] :]
        if self.spec.hint:
            patches = torch.where(moved[:, :, None], patches, embedded.detach().to(patches.dtype))
        restored = self.decoder(self.decoder.embed(first), self.decoder.embed(patches))
        target = patch_targets(trunk.normalised(views), trunk.patch_px, normalise=self.patch_norm)
        return Restored(restored, target, moved.float(), given=puzzle.pixels)

    def embed(self, views: Tensor) -> Tensor:
        """Features [B, D] of the views, with the prompts where there are any."""
        return self.trunk.features(views)

    def state_of_course(self) -> dict[str, Any]:
        """Side of the pieces and share of those that stay, for metrics.csv."""
        return {"piece_px": self._stage.piece_px, "fix_share": self._stage.fix_share}

    def artefact(self, out: Path) -> Path:
        """The prompts' file, for `--adapter`; in implicit mode the encoder's folder, for `local:`."""
        return encoder_folder(out) if self.adapted is None else out / f"{out.resolve().name}-prompts.safetensors"

    def write(self, out: Path, record: Mapping[str, Any]) -> Path:
        """Write prompts or encoder; the decoder is left behind. An untrained base is written beside its prompts."""
        place = self.artefact(out)
        if self.adapted is None:
            return write_encoder(self.trunk, place, record)
        card = self.base.base
        if card is None:
            folder = out / f"{out.resolve().name}-untrained-base"
            if not folder.exists():
                write_encoder(self.base, folder, {"note": "random weights, written for the prompts beside them"})
            card = create_encoder(EncoderSpec(name=f"local:{folder}")).card
        save_adapter(place, self.adapted, backbone=card, name=place.stem, training=record)
        return place

    def recipe(self) -> dict[str, Any]:
        """What decides the result beside the run's settings: plain values."""
        return {"method": self.name, **self.spec.model_dump(mode="json")}
