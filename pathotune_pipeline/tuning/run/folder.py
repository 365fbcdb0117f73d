"""What an adaptation leaves on disk.

adapted.json           the card: encoder, method, settings, classes, scores, versions; written last
adapter.safetensors    the adapter, for `extract --adapter`; of vpt-shallow, vpt-deep, pathotune and lora
model.safetensors      the whole network, for `extract --encoder local:FOLDER`; of partial, full and cnn
head.safetensors       the classifier on the features: weight [C, D], bias [C]; of all but knn
history.csv            one line for each epoch
splits.csv             name, part, group, domain and label of each patch
predictions.csv        class probabilities of the patches that validate and test
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathotune_pipeline.adapt.attach import AdaptedNetwork
from pathotune_pipeline.adapt.file import save_adapter
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.export import write_encoder
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.errors import OutputExistsError
from pathotune_pipeline.evaluation.run_scores import JudgedRun, score_runs
from pathotune_pipeline.tuning.patches.patch_set import PatchSet
from pathotune_pipeline.tuning.run.adapt import COURSE, AdaptResult
from pathotune_pipeline.tuning.run.learner import PatchLearner
from pathotune_pipeline.tuning.run.parts import Parts
from pathotune_pipeline.tuning.run.spec import NETWORKS

CARD = "adapted.json"
ADAPTER = "adapter.safetensors"
HEAD = "head.safetensors"
_OWN = (ADAPTER, HEAD, "model.safetensors", "config.json", "card.json", "history.csv", "splits.csv", "predictions.csv")


def check_out(out: Path, *, overwrite: bool, card: str = CARD) -> None:
    """Make sure that a result may be written to a folder; the state of a training that was cut off may lie there.

    Args:
        out: the folder.
        overwrite: whether an older result may be replaced.
        card: the file that a finished result has.

    Raises:
        OutputExistsError: a finished result lies there, or something else.
    """
    if (out / card).is_file():
        if overwrite:
            return  # it stays until there is a new one
        raise OutputExistsError(f"{out}: holds a finished adaptation. Give another --out, or --overwrite.")
    others = sorted(path.name for path in out.iterdir() if path.name != COURSE) if out.is_dir() else []
    if out.is_file() or (others and not (out / COURSE).is_file() and not overwrite):
        raise OutputExistsError(
            f"{out}: other things lie there, such as {(others or [out.name])[0]}. Give another --out."
        )


def write_result(
    out: Path, result: AdaptResult, *, patches: PatchSet, parts: Parts, encoder: EncoderSpec
) -> dict[str, Any]:
    """Write an adaptation to one task; `adapted.json` comes last, so that a folder with it is whole.

    Args:
        out: folder, made where it is absent.
        result: what was learnt.
        patches: that it was learnt from.
        parts: which of them for what.
        encoder: what was adapted.

    Returns:
        The card, as the file holds it.

    Raises:
        SpecError: the network cannot be built from a folder.
    """
    probs = {name: result.predict(patches, index) for name, index in parts.named().items() if name != "train"}
    scores = {name: scores_of(_judged(patches, parts.named()[name], each)) for name, each in probs.items() if len(each)}
    card = _card(result, patches, parts, scores)
    head = _head(result)
    begin(out)
    if isinstance(result.model, PatchLearner):
        _write_network(out, result, result.model, encoder, {key: card[key] for key in ("patches", "train", "scores")})
    if head is not None:
        from safetensors.torch import save

        write_atomically(out / HEAD, save(head))
    write_rows(out / "history.csv", history_rows(result.history))
    write_rows(out / "splits.csv", _splits(patches, parts))
    write_rows(out / "predictions.csv", _predictions(patches, parts, probs))
    finish(out, card)
    return card


def scores_of(run: JudgedRun) -> dict[str, Any]:
    """Balanced accuracy, AUROC, kappa and weighted F1 with intervals from resampled groups.

    Args:
        run: what was judged.

    Returns:
        {"images", "groups", "unit", "level", score: {"value", "low", "high"}}; undefined values are None.
    """
    scored = score_runs([run])
    first = next(iter(scored.values()))
    found: dict[str, Any] = {name: getattr(first, name) for name in ("images", "groups", "unit", "level")}
    return found | {name: {"value": each.mean, "low": each.low, "high": each.high} for name, each in scored.items()}


def history_rows(history: Sequence[EpochRecord]) -> Iterable[Sequence[Any]]:
    """Lines of history.csv."""
    losses = list(dict.fromkeys(name for record in history for name in record.losses))
    yield ["epoch", *losses, "validation", "best", "lr", "seconds"]
    for each in history:
        values = [each.losses.get(name, "") for name in losses]
        yield [each.epoch, *values, each.validation, int(each.best), each.lr, round(each.seconds, 3)]


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV, all or nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


def finish(out: Path, card: Mapping[str, Any], *, name: str = CARD) -> None:
    """Write the card, with which the folder is whole, and drop the state of the training."""
    write_atomically(out / name, (json.dumps(card, indent=1, allow_nan=False) + "\n").encode())
    (out / COURSE).unlink(missing_ok=True)


def begin(out: Path, files: Sequence[str] = (CARD, *_OWN)) -> None:
    """Make the folder, without the files of an older result; of these names the card is the first."""
    out.mkdir(parents=True, exist_ok=True)
    for name in files:
        (out / name).unlink(missing_ok=True)


def _card(result: AdaptResult, patches: PatchSet, parts: Parts, scores: Mapping[str, Any]) -> dict[str, Any]:
    counted = {name: patches.counts(index) for name, index in parts.named().items()}
    groups = np.array(patches.groups, dtype=object)
    known = {name: len(set(groups[index]) - {""}) for name, index in parts.named().items()}
    told = result.told()
    return {
        **told,
        "classes": list(result.classes[0]),
        "patches": {"parts": parts.source, "counts": counted, "groups": known},
        "scores": dict(scores),
        "notes": [*patches.notes, *parts.notes, *told["notes"]],
    }


def _write_network(
    out: Path, result: AdaptResult, learner: PatchLearner, encoder: EncoderSpec, training: Mapping[str, Any]
) -> None:
    network, card = learner.body.network, result.encoder
    if isinstance(network, AdaptedNetwork):
        save_adapter(out / ADAPTER, network, backbone=card, name=out.name, text=result.text, training=training)
    elif result.spec.method in NETWORKS:
        of = learner.body.encoder.spec if result.spec.method == "cnn" else encoder
        changed = f"Weights trained by `pathotune adapt --method {result.spec.method}` from {card.name}."
        write_encoder(out, network.state_dict(), card=card, spec=of, changed=changed)


def _head(result: AdaptResult) -> dict[str, Tensor] | None:
    from pathotune_pipeline.tuning.run.probe import LinearProbe

    if isinstance(result.model, PatchLearner):
        return {name: tensor.detach().cpu().contiguous() for name, tensor in result.model.heads[0].state_dict().items()}
    probe = getattr(result.model, "probe", None)
    if not isinstance(probe, LinearProbe):
        return None
    return {"weight": torch.from_numpy(probe.weight).contiguous(), "bias": torch.from_numpy(probe.bias).contiguous()}


def _judged(patches: PatchSet, index: np.ndarray, probs: np.ndarray) -> JudgedRun:
    places = index.tolist()
    names, groups = (tuple(column[place] for place in places) for column in (patches.names, patches.groups))
    return JudgedRun(names, patches.labels[index], groups, probs)


def _splits(patches: PatchSet, parts: Parts) -> Iterable[Sequence[Any]]:
    yield ["name", "part", "group", "domain", "label"]
    for part, index in parts.named().items():
        for place in index.tolist():
            label = patches.classes[patches.labels[place]]
            yield [patches.names[place], part, patches.groups[place], patches.domains[place], label]


def _predictions(patches: PatchSet, parts: Parts, probs: Mapping[str, np.ndarray]) -> Iterable[Sequence[Any]]:
    yield ["name", "part", "group", "domain", "label", *(f"prob_{name}" for name in patches.classes)]
    for part, rows in probs.items():
        for place, row in zip(parts.named()[part].tolist(), rows.tolist(), strict=True):
            label = patches.classes[patches.labels[place]]
            yield [patches.names[place], part, patches.groups[place], patches.domains[place], label, *row]
