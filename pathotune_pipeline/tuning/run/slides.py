"""adapt_slides: prompts or LoRA trained from slides' labels, end to end, through the tiles that a bag is a sample of."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathotune_pipeline.bags.bag import BagBatch
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.engine.course import EpochRecord, FitResult, seeded
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.engine.loop import fit
from pathotune_pipeline.engine.optimizer import ParameterGroup
from pathotune_pipeline.engine.resume import CourseFile
from pathotune_pipeline.errors import SpecError, UsageError
from pathotune_pipeline.heads.head import create_head
from pathotune_pipeline.provenance import fingerprint
from pathotune_pipeline.spec import hashed_values, setting
from pathotune_pipeline.tuning.patches.augment import Augmentation
from pathotune_pipeline.tuning.run.adapt import COURSE, REVISION
from pathotune_pipeline.tuning.run.choice import validation_value
from pathotune_pipeline.tuning.run.learner import BodyLearner
from pathotune_pipeline.tuning.run.network import Body, build_body, check_encoder
from pathotune_pipeline.tuning.run.result import Learnt
from pathotune_pipeline.tuning.run.slide_pool import SlidePool, check_pools
from pathotune_pipeline.tuning.run.spec import ADAPTERS, AdaptSpec
from pathotune_pipeline.tuning.run.texts import embed_tasks

_DRAW = 0xBA6


class SlideAdaptSpec(AdaptSpec):
    """How an encoder is brought to a task by labels of whole slides."""

    batch: int = setting(4, "Slides whose gradients make one step.", ge=1, le=1024)
    head: str = setting("abmil", "Head on the tiles' features, trained together with the adapter.")
    tiles_per_slide: int = setting(16, "Tiles of a slide that a step sees, drawn anew each epoch.", ge=1)
    pool_tiles: int = setting(128, "Tiles of each slide that are read once and kept in memory, to draw from.", ge=1)
    test_share: float = setting(0.2, "Share of the patients held out; 0 holds none out.", ge=0, lt=1)
    val_share: float = setting(0.2, "Share of the other patients that chooses the epoch.", gt=0, lt=1)
    split_seed: int = setting(0, "Seed of that draw, and of the tiles in the pool.", ge=0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SlideAdaptResult(Learnt):
    """What an adaptation by slides gave; see also `Learnt`.

    Attributes:
        classes: names in the order of the probabilities.
        learner: adapter and head with the best epoch's weights, in evaluation mode.
    """

    classes: tuple[str, ...]
    learner: SlideLearner

    def predict(self, pools: Sequence[SlidePool]) -> np.ndarray:
        """Class probabilities of slides from all tiles of their pools: float64 [n, C]."""
        return self.learner.probabilities(pools, batch=self.spec.predict_batch)


class SlideLearner(BodyLearner):
    """An adapted encoder under a head for bags. A batch is one slide's tiles; the frozen part is no submodule."""

    def __init__(self, body: Body, head: nn.Module) -> None:
        super().__init__(body)
        self.head = head
        self.to(body.encoder.device)

    def groups(self) -> list[ParameterGroup]:
        """The adapter's groups, and the head at full pace."""
        return [*self.body.groups, ParameterGroup("head", list(self.head.parameters()))]

    def features(self, tiles: Tensor) -> Tensor:
        """float32 [n, D] of uint8 tiles [n, P, P, 3]."""
        encoder = self.body.encoder
        found: Tensor = self.body.network(encoder.prepare(tiles.to(encoder.device)))
        return found.float()

    def losses(self, batch: tuple[Tensor, int]) -> dict[str, Tensor]:
        """The head's own losses of one slide: its tiles uint8 [n, P, P, 3], and its class."""
        tiles, label = batch
        features = self.features(tiles)
        target = torch.tensor([label], device=features.device)
        offsets = torch.tensor([0, len(features)])
        found: dict[str, Tensor] = self.head.losses(BagBatch(features, offsets, targets=target), F.cross_entropy)  # type: ignore[operator]
        return found

    @torch.no_grad()
    def probabilities(self, pools: Sequence[SlidePool], *, batch: int = 64) -> np.ndarray:
        """Class probabilities from all tiles of each pool, as they are, in evaluation mode: float64 [n, C]."""
        training, rows = self.training, []
        self.eval()
        for pool in pools:
            parts = [
                self.features(torch.from_numpy(pool.tiles[start : start + batch]))
                for start in range(0, len(pool.tiles), batch)
            ]
            output = self.head(BagBatch.of(torch.cat(parts)))
            rows.append(output.logits[0].double().softmax(0).cpu().numpy())
        self.train(training)
        return np.stack(rows) if rows else np.zeros((0, 0))


class SlideBatches:
    """An epoch's slides in an order, and each one's tiles, that seed and epoch decide."""

    def __init__(self, pools: Sequence[SlidePool], labels: Sequence[int], spec: SlideAdaptSpec) -> None:
        self._pools, self._labels, self._spec = pools, labels, spec
        self._augment = Augmentation(spec.augment)

    def __call__(self, epoch: int) -> _SlideEpoch:
        return _SlideEpoch(self, epoch)

    def __len__(self) -> int:
        return len(self._pools)

    def walk(self, epoch: int) -> Iterator[tuple[Tensor, int]]:
        """Tiles uint8 [n, P, P, 3] and class of each slide."""
        rng = np.random.default_rng([self._spec.train.seed, _DRAW, epoch])
        for place in rng.permutation(len(self._pools)).tolist():
            tiles = self._pools[place].tiles
            chosen = np.sort(rng.permutation(len(tiles))[: self._spec.tiles_per_slide])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            yield self._augment(torch.from_numpy(tiles[chosen]), generator), self._labels[place]


@dataclass(frozen=True, slots=True)
class _SlideEpoch:
    batches: SlideBatches
    epoch: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return self.batches.walk(self.epoch)


def adapt_slides(
    encoder: EncoderSpec | Encoder,
    pools: Sequence[SlidePool],
    *,
    fold: Fold,
    spec: SlideAdaptSpec,
    out: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> SlideAdaptResult:
    """Train an adapter and a head from slides' labels: gradients go through the sampled tiles into the adapter.

    The encoder stays as it is. `spec.batch` slides make a step, one after the other, so that memory holds the
    activations of one slide's tiles.

    Args:
        encoder: what is adapted.
        pools: of slides.
        fold: ids of those that train and validate.
        spec: method, head, sampling.
        out: folder where the training's state is kept after each epoch, and gone on from; None keeps none.
        on_epoch: told of each epoch.

    Raises:
        SpecError: the method trains no adapter, or does not go with the encoder.
        UsageError: the slides do not allow it, or `out` holds the state of another training.
        PathotuneError: the loss is not finite.
    """
    began = time.perf_counter()
    if isinstance(encoder, EncoderSpec):
        encoder = create_encoder(encoder.with_values(precision="fp32"), device=pick_device(encoder.device))
    check_method(encoder, spec)
    side_px = check_pools(pools)
    classes = tuple(sorted({pool.label for pool in pools}))
    train, val = ([pool for pool in pools if pool.slide_id in part] for part in map(set, (fold.train, fold.val)))
    if len({pool.label for pool in train}) < 2:
        raise UsageError(f"{len(train)} slides train, of classes {sorted({p.label for p in train})}: two are needed.")
    device = encoder.device
    texts = embed_tasks([(classes, {})], spec)
    with seeded(spec.train.seed, device):
        body = build_body(encoder, spec, texts=texts[1] if texts else None, device=device, side_px=side_px)
        learner = SlideLearner(body, create_head(spec.head, in_dim=body.dim, n_classes=len(classes)))
    if spec.checkpointing:
        body.save_memory()
    found = _train(
        learner, train, val, classes=classes, spec=spec, kept=_kept(out, learner, (train, val), spec), on_epoch=on_epoch
    )
    learner.load_state_dict(found.best_state)
    head = sum(p.numel() for p in learner.head.parameters())
    return SlideAdaptResult(
        spec=spec,
        encoder=body.encoder.card,
        classes=classes,
        learner=learner.eval(),
        history=found.history,
        best_epoch=found.best_epoch,
        stopped_early=found.stopped_early,
        trained_parameters=sum(p.numel() for p in learner.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in body.network.parameters()) + head,
        seconds=time.perf_counter() - began,
        text=texts[0] if texts else None,
    )


def check_method(encoder: Encoder, spec: SlideAdaptSpec) -> None:
    """Make sure that slides' labels can train what is asked for.

    Raises:
        SpecError: the method trains no adapter, or does not go with the encoder.
    """
    if spec.method not in ADAPTERS:
        raise SpecError(f"--method {spec.method}: slides' labels train {', '.join(ADAPTERS)}. For others give patches.")
    check_encoder(encoder, spec)


def _train(
    learner: SlideLearner,
    train: Sequence[SlidePool],
    val: Sequence[SlidePool],
    *,
    classes: tuple[str, ...],
    spec: SlideAdaptSpec,
    kept: CourseFile | None,
    on_epoch: Callable[[EpochRecord], None] | None,
) -> FitResult:
    labels, judged = ([classes.index(pool.label) for pool in part] for part in (train, val))

    def validate() -> float:
        probs = learner.probabilities(val, batch=spec.predict_batch)
        return validation_value(probs, np.array(judged), spec.train.select)

    settings = spec.train.for_method(spec.method)
    return fit(
        learner,
        SlideBatches(train, labels, spec),
        settings.with_values(accumulate=spec.batch * settings.accumulate),
        validate=validate if val else None,
        on_epoch=on_epoch,
        groups=learner.groups(),
        kept=kept,
    )


def _kept(
    out: Path | None, learner: SlideLearner, parts: Sequence[Sequence[SlidePool]], spec: SlideAdaptSpec
) -> CourseFile | None:
    if out is None:
        return None
    told: list[list[Any]] = []
    for part in parts:
        digest = [hashlib.sha256(np.ascontiguousarray(pool.tiles).tobytes()).hexdigest() for pool in part]
        told.append([[pool.slide_id, pool.label, sha256] for pool, sha256 in zip(part, digest, strict=True)])
    recipe = {"spec": hashed_values(spec), "encoder": learner.body.encoder.recipe(), "slides": told}
    return CourseFile(out / COURSE, key=fingerprint("adapt-slides", REVISION, recipe))
