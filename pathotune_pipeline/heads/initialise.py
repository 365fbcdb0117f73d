"""Begin a head with weights from elsewhere: a trained head's folder, or a file of its authors' weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathotune_pipeline.errors import UsageError, WeightsError
from pathotune_pipeline.heads.files import read_head_files
from pathotune_pipeline.heads.head import MILHead
from pathotune_pipeline.heads.published import SOURCES, load_published, read_published


@dataclass(frozen=True, slots=True)
class Initial:
    """What a head began with.

    Attributes:
        source: the folder or file, as it was given.
        head: the earlier head's name, or whose weights these are.
        feature_set: that the earlier head was trained on, or empty.
        taken: parameters that were taken.
        fresh: parameters that began at random.
        left: parameters of the source that have no place here.
    """

    source: str
    head: str
    feature_set: str
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]

    def sentence(self) -> str:
        """For a reader of the results."""
        parts = [f"trained on {self.feature_set}"] if self.feature_set else []
        parts += [f"{len(self.taken)} parameters were taken"]
        parts += [f"began at random: {', '.join(self.fresh)}"] if self.fresh else []
        parts += [f"left behind: {', '.join(self.left)}"] if self.left else []
        return (
            f"Every model began from {self.head} in {self.source} ({'; '.join(parts)}). "
            "If that head has seen slides of this study, the scores are too high."
        )

    def record(self) -> dict[str, Any]:
        """Plain values for a JSON record."""
        return asdict(self)

    @classmethod
    def of_record(cls, values: dict[str, Any]) -> Initial:
        """What `record` gave, back from JSON."""
        plain: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
        return cls(**plain)


def initialise(head: MILHead, source: Path, *, name: str, classes: Sequence[str]) -> tuple[Initial, Tensor, Tensor]:
    """Fill a fresh head from a trained one.

    From a trained head's folder: parameters of the same name are taken. Those whose shape hangs on the number of
    classes are taken only where the classes are the same, in the same order, and begin at random otherwise. The
    earlier head may be of another kind, as long as they share something. From a file: the weights of the head's
    authors, all of them (`heads.published`).

    Args:
        head: changed in place.
        source: folder of a trained head, or a .safetensors, .pt, .pth or .ckpt file.
        name: of the head, as registered.
        classes: names in the order of the logits.

    Returns:
        What was taken, and the mean and deviation [in_dim] of the features that the weights were trained behind (0
        and 1 for published ones).

    Raises:
        CorruptDataError: the trained head cannot be read.
        WeightsError: nothing is there, or features of another dimension, a shared parameter of another shape, or
            nothing shared.
        UsageError: no published weights are known for this kind of head.
    """
    if source.is_dir():
        return _from_trained(head, source, classes)
    if not source.exists():
        raise WeightsError(f"init_from {source}: no such folder or file. Give a trained head's folder.")
    if name not in SOURCES:
        raise UsageError(f"init_from {source}: a file, but no published weights are known for {name}. Give a folder.")
    load_published(head, read_published(source), source=SOURCES[name])
    said = Initial(str(source), f"published {SOURCES[name]} weights", "", tuple(head.state_dict()), (), ())
    return said, torch.zeros(head.in_dim), torch.ones(head.in_dim)


def by_class(head: MILHead) -> set[str]:
    """The parameters whose shape hangs on the number of classes."""
    with torch.random.fork_rng(devices=[]):
        wider = type(head)(head.in_dim, head.n_classes + 1, head.settings).state_dict()
    return {key for key, value in head.state_dict().items() if key not in wider or wider[key].shape != value.shape}


def _from_trained(head: MILHead, folder: Path, classes: Sequence[str]) -> tuple[Initial, Tensor, Tensor]:
    try:
        earlier, record = read_head_files(folder)
    except FileNotFoundError as error:
        raise WeightsError(
            f"init_from {folder}: no trained head is in it (head.safetensors, head.json). "
            "Of a cross-validation, give one model's folder, as models/seed0-fold0."
        ) from error
    if record["in_dim"] != head.in_dim:
        raise WeightsError(
            f"init_from {folder}: it takes {record['in_dim']}-d features; these are {head.in_dim}-d. "
            "Begin from a head of the same encoder."
        )
    mean, std = earlier.pop("mean"), earlier.pop("std")
    earlier = {key.removeprefix("head."): value for key, value in earlier.items()}
    own = head.state_dict()
    shared = own.keys() & earlier.keys()
    if list(record["classes"]) != list(classes):
        shared -= by_class(head)
    uneven = [
        f"{k} {list(earlier[k].shape)} for {list(own[k].shape)}"
        for k in own
        if k in shared and earlier[k].shape != own[k].shape
    ]
    kind = str(record["spec"]["head"])
    if uneven or not shared:
        raise WeightsError(
            f"init_from {folder}: {kind} does not fit {type(head).__name__}: "
            f"{'; '.join(uneven) or 'they share no parameter'}. Give the new head the earlier one's settings."
        )
    head.load_state_dict({key: earlier[key] if key in shared else value for key, value in own.items()})
    taken, fresh = (tuple(k for k in own if (k in shared) == wanted) for wanted in (True, False))
    left = tuple(sorted(earlier.keys() - shared))
    return Initial(str(folder), kind, str(record["feature_set"]), taken, fresh, left), mean, std
