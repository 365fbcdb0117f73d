"""A modal network on disk: one safetensors file with its card, and no weights of the slide encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.adapt.modal.adapter import ModalNetwork, attach_modal
from pathotune_pipeline.adapt.modal.card import LabelCard, ModalCard
from pathotune_pipeline.adapt.modal.pathways import PathwayTable
from pathotune_pipeline.adapt.modal.projector import TextProjector
from pathotune_pipeline.adapt.tensor_file import TensorFile, changed, differences, plain_state, unfitting
from pathotune_pipeline.encoders.checkpoint import tensors_sha256
from pathotune_pipeline.errors import SpecError, UsageError

if TYPE_CHECKING:
    from pathotune_pipeline.slide_encoders import StagedSlideEncoder

_FILE = TensorFile(ModalCard, "pathotune_modal", "modal network", "pathotune slide-tune", "modal.safetensors")
_ADAPTER, _PROJECTOR = "adapter.", "projector."
_MEMBERS, _STARTS = f"{_ADAPTER}tokens.genes.members", f"{_ADAPTER}tokens.genes.starts"


@dataclass(frozen=True, slots=True)
class StoredModal:
    """What a file holds.

    Attributes:
        network: in eval mode.
        projector: the frozen projector of its texts; None where it was trained without.
        card: of the network.
    """

    network: ModalNetwork
    projector: TextProjector | None
    card: ModalCard


def save_modal(
    path: Path,
    network: ModalNetwork,
    *,
    name: str,
    slide_encoder: Mapping[str, Any] | None = None,
    projector: TextProjector | None = None,
    labels: LabelCard | None = None,
    training: Mapping[str, Any] | None = None,
) -> ModalCard:
    """Write a network, all or nothing; its folder is made.

    Args:
        path: ends in .safetensors.
        network: its adapter's tensors are stored as float32, with the numbers that standardise genes and clinical variables.
        name: for people.
        slide_encoder: plain values that decide the slide encoder's vectors; given where the network has one.
        projector: of its texts.
        labels: card of its texts; given where there is a projector.
        training: plain values for the card: data, settings, seeds, versions, metrics.

    Returns:
        the card, as the file holds it.

    Raises:
        UsageError: another suffix; a slide encoder without its recipe, or a projector without its card, or the reverse.
    """
    _FILE.check_name(path)
    if (network.encoder is None) != (slide_encoder is None):
        told = "is not told" if slide_encoder is None else "is told, and the network has none"
        raise UsageError(f"modal network file {path.name}: what decides the slide encoder's vectors {told}.")
    _check_labels(path, network, projector, labels)
    tensors = _with_prefix(_ADAPTER, plain_state(network.adapter))
    if projector is not None:
        tensors |= _with_prefix(_PROJECTOR, plain_state(projector))
    table = network.pathways
    card = ModalCard(
        name=name,
        spec=network.spec,
        slide_encoder=None if slide_encoder is None else dict(slide_encoder),
        genes=table.genes if table else (),
        pathways=table.pathways if table else (),
        clinical=network.clinical,
        labels=labels,
        parameters=sum(parameter.numel() for parameter in network.adapter.parameters()),
        sha256=tensors_sha256(tensors),
        training=dict(training or {}),
    )
    _FILE.write(path, tensors, card)
    return card


def read_modal_card(path: Path) -> ModalCard:
    """The card of a modal network's file; its tensors are not read.

    Raises:
        UsageError: nothing lies there, or it is no modal network of this package.
        CorruptDataError: the file is damaged.
    """
    return _FILE.read(path, tensors=False)[0]


def load_modal(
    path: Path, encoder: StagedSlideEncoder | None, slide_encoder: Mapping[str, Any] | None = None
) -> StoredModal:
    """Put a stored adapter around the slide encoder it was trained with.

    Args:
        path: of `save_modal`.
        encoder: the slide encoder; left as it is. None for a network without one.
        slide_encoder: plain values that decide its vectors, as `save_modal` was given them.

    Raises:
        UsageError: nothing lies there, it is no modal network, or one of another slide encoder.
        CorruptDataError: the file is damaged, or its tensors are not those its card tells of.
    """
    card, tensors = _FILE.read(path, tensors=True)
    if (card.slide_encoder is None) != (encoder is None):
        needs = "needs the slide encoder it was trained with" if encoder is None else "takes no slide encoder"
        raise UsageError(f"modal network file {path}: it {needs}.")
    facts = differences(card.slide_encoder or {}, slide_encoder or {})
    if facts:
        raise UsageError(
            f"modal network file {path}: it was trained with another slide encoder: {facts}. Use that one, or train again."
        )
    if tensors_sha256(tensors) != card.sha256:
        raise changed(path)
    try:
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten, and nobody's stream is moved
            network = attach_modal(encoder, card.spec, pathways=_table(card, tensors), clinical=card.clinical)
        network.adapter.load_state_dict(_without_prefix(_ADAPTER, tensors))
        projector = None
        if card.labels is not None:
            projector = TextProjector(card.labels.dim, card.spec.out_dim, seed=card.labels.projector_seed)
            projector.load_state_dict(_without_prefix(_PROJECTOR, tensors))
    except (SpecError, RuntimeError, KeyError, IndexError, ValueError) as error:
        raise unfitting(path, error) from error
    return StoredModal(network.eval(), projector, card)


def _check_labels(path: Path, network: ModalNetwork, projector: TextProjector | None, labels: LabelCard | None) -> None:
    if projector is None and labels is None:
        return
    found = None if projector is None else (projector.in_dim, projector.out_dim, projector.seed)
    told = None if labels is None else (labels.dim, network.spec.out_dim, labels.projector_seed)
    if found != told:
        raise UsageError(
            f"modal network file {path.name}: the projector (length in and out, seed) is {found}, and the card of the texts "
            f"with the network gives {told}. Give both, of one training."
        )


def _table(card: ModalCard, tensors: Mapping[str, Tensor]) -> PathwayTable | None:
    if not card.pathways:
        return None
    members, starts = tensors[_MEMBERS].numpy(), tensors[_STARTS].numpy()
    if len(starts) != len(card.pathways) or members.min() < 0 or members.max() >= len(card.genes):
        raise ValueError(f"{len(starts)} pathways over genes up to {members.max()}")
    return PathwayTable(card.genes, card.pathways, tuple(np.split(members, starts[1:])))


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
