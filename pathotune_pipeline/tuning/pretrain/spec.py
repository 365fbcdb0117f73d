"""What a pretraining run is told: the network, the images, how they are cropped, and how it trains."""

from __future__ import annotations

from typing import Literal

from pathotune_pipeline.encoders.card import Precision
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.tuning.pretrain.curriculum import Strategy

Triple = tuple[float, float, float]
STORED = "store:"
"""Teachers whose name begins so are feature sets of a store."""


class NetworkSpec(Spec):
    """The encoder that is trained: a new vision transformer of timm's, or one with weights to begin from."""

    base: str | None = setting(
        None, "Encoder to begin from: local:PATH or timm:NAME; empty begins a new one from random weights."
    )
    architecture: str = setting(
        "vit_tiny_patch16_224", "timm's name of a new network; the sizes below take the place of its own."
    )
    input_px: int = setting(224, "Side of the square a new network sees, in pixels.", gt=0)
    patch_px: int = setting(16, "Side of a new network's patches, in pixels; divides input_px.", gt=0)
    embed_dim: int = setting(192, "Width of a new network's tokens.", gt=0)
    depth: int = setting(12, "Blocks of a new network.", gt=0)
    heads: int = setting(3, "Attention heads of a new network; divides embed_dim.", gt=0)
    pooling: Literal["mean", "cls"] = setting(
        "mean", "Feature of a new network: the mean of its patch tokens, or its class token."
    )
    mean: Triple = setting((0.5, 0.5, 0.5), "Mean of RGB in 0 to 1 that a new network's pixels are freed of.")
    std: Triple = setting((0.5, 0.5, 0.5), "Standard deviation of RGB that a new network's pixels are divided by.")

    def check(self) -> None:
        """Raise what makes no sense together.

        Raises:
            SpecError: sizes that do not divide each other.
        """
        if self.input_px % self.patch_px:
            raise SpecError(f"patch_px {self.patch_px} does not divide input_px {self.input_px}. Change one of them.")
        if self.embed_dim % self.heads:
            raise SpecError(f"heads {self.heads} does not divide embed_dim {self.embed_dim}. Change one of them.")
        if self.embed_dim % 4:
            raise SpecError(f"embed_dim {self.embed_dim}: sine and cosine positions need a multiple of 4.")
        if min(self.std) <= 0:
            raise SpecError(f"std {self.std}: give numbers above 0.")


class DecoderSpec(Spec):
    """The light decoder that turns tokens back into pixels; it is thrown away in the end."""

    width: int = setting(
        512, "Width of the decoder's tokens; a multiple of 4.", gt=0, multiple_of=4, flag="--decoder-width"
    )
    blocks: int = setting(8, "Blocks of the decoder.", ge=0, flag="--decoder-blocks")
    heads: int = setting(16, "Attention heads of the decoder; divides its width.", gt=0, flag="--decoder-heads")

    def check(self) -> None:
        """Raise what makes no sense together.

        Raises:
            SpecError: heads that do not divide the width.
        """
        if self.width % self.heads:
            raise SpecError(f"decoder: heads {self.heads} does not divide width {self.width}. Change one of them.")


class ViewSpec(Spec):
    """How an image becomes what the network sees: a random crop, resized, turned over."""

    crop_min: float = setting(0.2, "Least share of an image's area in a random crop.", gt=0, le=1)
    crop_max: float = setting(1.0, "Largest share of an image's area in a random crop.", gt=0, le=1)
    crop_ratio: float = setting(4 / 3, "Largest ratio of a crop's sides; 1 keeps crops square.", ge=1)
    flips: bool = setting(True, "Turn views over at random, along both axes and the diagonal.")
    jitter: float = setting(0.0, "Largest change of brightness and of each colour's share, 0 to 1.", ge=0, lt=1)

    def check(self) -> None:
        """Raise what makes no sense together.

        Raises:
            SpecError: the smallest crop is larger than the largest.
        """
        if self.crop_min > self.crop_max:
            raise SpecError(f"crop_min {self.crop_min} is above crop_max {self.crop_max}. Exchange them.")


class ImageSpec(Spec):
    """The pixels a run learns from: images in memory, tiles at random places of slides, or both."""

    images: tuple[str, ...] = setting(
        (), "Folders of images, or CSV files with a column path; all are held in memory.", hashed=False
    )
    slides: str | None = setting(None, "Folder of slides; random tiles come straight from them.", hashed=False)
    manifest: str | None = setting(None, "Table of slides, instead of a folder or beside it.", hashed=False)
    slide_share: float = setting(
        0.5, "Share of each batch that comes from slides, where there are images too.", ge=0, le=1
    )
    source_px: int = setting(
        0, "Side of tiles, and of the windows cut from larger images, in pixels; 0 takes the network's input.", ge=0
    )
    mpps: tuple[float, ...] = setting((2.0, 1.0, 0.5, 0.25), "um/px of the tiles from slides.", min_length=1)
    weights: tuple[float, ...] | None = setting(
        None, "Share of each of mpps, in any unit; empty draws all alike.", flag="--mpp-weights"
    )
    min_tissue: float = setting(0.4, "Least share of a tile that must be tissue.", ge=0, le=1)
    held_out: float = setting(0.05, "Share of the images that is only watched, never learnt from.", ge=0, lt=1)
    readers: int = setting(1, "Threads that read tiles from slides, in each process.", ge=1, hashed=False)
    store: str | None = setting(None, "Store whose tissue masks are used where it has them.", hashed=False)

    def check(self) -> None:
        """Raise where there is nothing to learn from.

        Raises:
            SpecError: neither images nor slides are named.
        """
        if not self.images and self.slides is None and self.manifest is None:
            raise SpecError("nothing to learn from was named. Give --images, --slides or --manifest.")


class PretrainSpec(Spec):
    """A pretraining run: network, decoder, images, views, and the course of the training."""

    network: NetworkSpec = NetworkSpec()
    decoder: DecoderSpec = DecoderSpec()
    data: ImageSpec = ImageSpec()
    views: ViewSpec = ViewSpec()
    epochs: int = setting(200, "Passes over epoch_images images.", ge=1)
    epoch_images: int = setting(0, "Images an epoch; 0 takes the number of images in memory.", ge=0)
    batch_size: int = setting(256, "Images a step, over all processes; with accumulate, over so many times more.", ge=1)
    accumulate: int = setting(1, "Batches whose gradients are averaged into one step.", ge=1)
    base_lr: float = setting(
        1.5e-4, "Learning rate for 256 images a step; it grows in proportion to their number.", gt=0
    )
    min_lr: float = setting(0.0, "Learning rate at the end.", ge=0)
    warmup_epochs: int = setting(20, "Epochs over which the learning rate rises from 0.", ge=0)
    weight_decay: float = setting(0.05, "Decoupled weight decay; biases, norms and tokens have none.", ge=0)
    weight_decay_end: float | None = setting(
        None, "Weight decay that half a cosine leads to at the end; empty keeps it constant.", ge=0
    )
    grad_clip: float = setting(0.0, "Largest gradient norm; 0 does not clip.", ge=0)
    precision: Precision = setting("fp32", "fp32, or bf16 autocast with fp32 weights.")
    seed: int = setting(0, "Seed of everything random.", ge=0)
    device: str = setting("auto", "Where it trains: auto, cpu, cuda, cuda:1, mps.", hashed=False)
    log_steps: int = setting(50, "Steps between two lines of metrics.csv.", ge=1, hashed=False)
    check_steps: int = setting(
        500, "Steps between two checkpoints, and between two lines of checks.csv.", ge=1, hashed=False
    )
    watch_images: int = setting(512, "Held-out images on which loss and RankMe are measured.", ge=2, hashed=False)

    def check(self) -> None:
        """Raise what makes no sense together.

        Raises:
            SpecError: the rate would rise all the time; or see `NetworkSpec`, `DecoderSpec` and `ViewSpec`.
        """
        if self.warmup_epochs >= self.epochs:
            raise SpecError(f"warmup_epochs {self.warmup_epochs}: must be below epochs, {self.epochs}. Lower it.")
        self.network.check()
        self.decoder.check()
        self.views.check()


class MaeSpec(Spec):
    """Masked autoencoding."""

    mask_share: float = setting(0.75, "Share of the patches that is hidden, rounded to whole patches.", gt=0, lt=1)
    patch_norm: bool = setting(True, "Restore each patch freed of its own mean and spread (norm_pix_loss).")
    contrast: float = setting(
        0.0, "Weight of telling two masked views of an image from those of others; 0 makes one view.", ge=0
    )
    temperature: float = setting(0.1, "Temperature of that; lower ones look at the nearest views alone.", gt=0)


class PuzzleSpec(Spec):
    """PuzzleTuning."""

    mode: Literal["explicit", "implicit"] = setting(
        "explicit", "explicit trains prompts on a frozen base; implicit trains the whole encoder."
    )
    untrained_base: bool = setting(False, "Let explicit mode begin from random weights, where prompts say little.")
    prompts: int = setting(20, "Prompts in each block, in explicit mode.", ge=1, le=1024)
    prompt_init: Literal["uniform", "zeros"] = setting(
        "uniform", "First values of the prompts; zeros, as published, stay equal to one another."
    )
    strategy: Strategy = setting("loop", "Course of the puzzles over the epochs.")
    fix_share: float = setting(0.25, "Share of the pieces that stay in place.", ge=0, lt=1)
    piece_px: int = setting(0, "Side of the pieces with strategy fixed; 0 takes the network's patch.", ge=0)
    group: int = setting(0, "Images among which pieces travel, in each process; 0 takes all of its batch.", ge=0)
    hint: bool = setting(True, "Show the decoder the embedded pixels of the pieces that stayed in place.")
    patch_norm: bool = setting(False, "Restore each patch freed of its own mean and spread.")


class DistillSpec(Spec):
    """Distillation of several encoders, and of the student's own average, into one."""

    teachers: tuple[str, ...] = setting(
        (),
        "Encoders to learn from, as --encoder names them, or store:SET, a feature set of teacher_store; none leaves "
        "self-distillation.",
        hashed=False,
    )
    teacher_store: str | None = setting(
        None,
        "Store of the feature sets among the teachers; tiles are then those that the sets were made of.",
        hashed=False,
    )
    teacher_files: tuple[str, ...] = setting(
        (),
        "File or bundle of each teacher's weights, as --weights names it; '' for the hub or its cache.",
        hashed=False,
    )
    teacher_precision: Precision = setting("fp32", "Arithmetic of the teachers: fp32 or bf16.")
    class_weights: tuple[float, ...] | None = setting(
        None, "Weight of the loss on each teacher's feature; empty gives each 1.", hashed=False
    )
    patch_weights: tuple[float, ...] | None = setting(
        None, "Weight of the loss on each teacher's patch tokens; empty gives each 0.25.", hashed=False
    )
    head_bottleneck: int = setting(256, "Width at which heads pass the unit sphere.", gt=0)
    dino_weight: float = setting(1.0, "Weight of the loss between crops of an image.", ge=0)
    ibot_weight: float = setting(1.0, "Weight of the loss on hidden patches.", ge=0)
    koleo_weight: float = setting(0.1, "Weight, for each wide crop, of spreading a batch's features apart.", ge=0)
    local_crops: int = setting(8, "Narrow crops of each image, for the loss between crops.", ge=0)
    local_px: int = setting(
        0, "Side of narrow crops; 0 takes the multiple of the patch nearest to 7/16 of the network's input.", ge=0
    )
    local_min: float = setting(0.05, "Least share of an image's area in a narrow crop.", gt=0, le=1)
    local_max: float = setting(0.32, "Largest share of an image's area in a narrow crop.", gt=0, le=1)
    mask_chance: float = setting(0.5, "Share of the wide crops in which patches are hidden.", ge=0, le=1)
    mask_min: float = setting(0.1, "Least share of the patches that is hidden there.", gt=0, lt=1)
    mask_max: float = setting(0.5, "Largest share of the patches that is hidden there.", gt=0, lt=1)
    prototypes: int = setting(65536, "Prototypes that crops and patches are told by.", ge=2)
    head_hidden: int = setting(2048, "Width of the hidden layers of the prototypes' head.", gt=0)
    student_temperature: float = setting(0.1, "Temperature of what the student says.", gt=0)
    teacher_temperature_first: float = setting(0.04, "Temperature of what the average says, at first.", gt=0)
    teacher_temperature: float = setting(0.07, "The same after temperature_epochs.", gt=0)
    temperature_epochs: int = setting(30, "Epochs over which it rises.", ge=0)
    centre_momentum: float = setting(
        0.9, "Share of the old centre of what the average says, after a batch.", ge=0, lt=1
    )
    momentum: float = setting(
        0.992, "Share of the old weights in the average at first; half a cosine leads to 1.", ge=0, le=1
    )
    result: Literal["average", "student"] = setting(
        "average", "What is written with self-distillation: the student's moving average, or the student."
    )

    def check(self) -> None:
        """Raise what makes no sense together.

        Raises:
            SpecError: lists of unlike lengths, negative weights, or a least share above the largest one.
        """
        for name in ("teacher_files", "class_weights", "patch_weights"):
            given = getattr(self, name)
            if given and len(given) != len(self.teachers):
                raise SpecError(
                    f"{name}: {len(given)} for {len(self.teachers)} teachers. Give one for each, in their order."
                )
        if min((0.0, *(self.class_weights or ()), *(self.patch_weights or ()))) < 0:
            raise SpecError("class_weights, patch_weights: a weight is below 0. Give 0 or more.")
        stored = [name for name in self.teachers if name.startswith(STORED)]
        if stored and not self.teacher_store:
            raise SpecError(f"teachers: {stored[0]} is a feature set. Name its store with --teacher-store.")
        for name in ("local", "mask"):
            least, most = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if least > most:
                raise SpecError(f"{name}_min {least} is above {name}_max {most}. Exchange them.")

    def weights_of(self, place: int) -> tuple[float, float]:
        """Weights of the losses on a teacher's feature and on its patch tokens."""
        return (
            self.class_weights[place] if self.class_weights else 1.0,
            self.patch_weights[place] if self.patch_weights else 0.25,
        )


def check_asked(run: PretrainSpec, method: Spec) -> None:
    """Raise what the settings alone tell, before anything is loaded or read.

    Args:
        run: of the run.
        method: a MaeSpec, PuzzleSpec or DistillSpec.

    Raises:
        SpecError: settings that make no sense together, or nothing to learn from.
    """
    run.check()
    run.data.check()
    stored = isinstance(method, DistillSpec) and any(name.startswith(STORED) for name in method.teachers)
    if not run.data.images and not run.epoch_images and not stored:
        raise SpecError("epoch_images must be given where all images come from slides: a stream has no end.")
    if isinstance(method, DistillSpec):
        method.check()
    if stored:
        check_stored(run)


def check_stored(run: PretrainSpec) -> None:
    """Raise what does not go with teachers that are feature sets.

    Raises:
        SpecError: images beside slides, or views that are not whole tiles.
    """
    if run.data.images:
        raise SpecError(
            f"images: teachers that are feature sets ({STORED}SET) know their slides' tiles alone. Leave images out."
        )
    views = run.views
    if (views.crop_min, views.crop_max, views.crop_ratio) != (1, 1, 1):
        raise SpecError(
            f"crop_min {views.crop_min:g}, crop_ratio {views.crop_ratio:g}: a stored feature is of the whole tile. With teachers "
            f"that are feature sets ({STORED}SET) give crop_min 1 and crop_ratio 1."
        )
