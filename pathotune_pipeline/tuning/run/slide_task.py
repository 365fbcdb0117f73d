"""From settings to a folder, by labels of whole slides: tiles read, patients parted, trained, judged, written.

The folder holds `adapter.safetensors` for `extract --adapter`, `head.safetensors`, the state of the head that was
trained along, `history.csv`, `splits.csv` and `predictions.csv` of slides, and the card `adapted.json`, written last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.adapt.attach import AdaptedNetwork
from pathotune_pipeline.adapt.file import save_adapter
from pathotune_pipeline.bags.splits import Fold, patient_holdout
from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.engine.checkpoint import write_atomically
from pathotune_pipeline.engine.course import EpochRecord
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.evaluation.run_scores import JudgedRun
from pathotune_pipeline.tuning.run.folder import (
    ADAPTER,
    HEAD,
    begin,
    check_out,
    finish,
    history_rows,
    scores_of,
    write_rows,
)
from pathotune_pipeline.tuning.run.slide_pool import SlidePool, SlideSource, read_pools
from pathotune_pipeline.tuning.run.slides import SlideAdaptResult, SlideAdaptSpec, adapt_slides, check_method


def run_slide_adaptation(
    encoder: EncoderSpec,
    source: SlideSource,
    spec: SlideAdaptSpec,
    *,
    out: Path,
    overwrite: bool = False,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> dict[str, Any]:
    """Train an adapter by the labels of a store's slides, and write the result.

    Args:
        encoder: what is adapted.
        source: slides, places of their tiles, labels.
        spec: method, head, sampling, parts.
        out: folder; a training that was cut off there is gone on with.
        overwrite: whether an older result may be replaced.
        on_epoch: told of each epoch.

    Returns:
        The result's card.

    Raises:
        UsageError: settings, store, table or slides do not allow it.
        SlideError: a slide cannot be read.
        OutputExistsError: something else lies at `out`.
        WeightsError: weights are absent or do not fit.
    """
    check_out(out, overwrite=overwrite)
    loaded = create_encoder(encoder.with_values(precision="fp32"), device=pick_device(encoder.device))
    check_method(loaded, spec)
    pools, notes = read_pools(source, tiles=spec.pool_tiles, seed=spec.split_seed)
    labels, groups = {pool.slide_id: pool.label for pool in pools}, {pool.slide_id: pool.group for pool in pools}
    fold = patient_holdout(labels, groups, test_share=spec.test_share, val_share=spec.val_share, seed=spec.split_seed)
    result = adapt_slides(loaded, pools, fold=fold, spec=spec, out=out, on_epoch=on_epoch)
    return _write(out, result, pools, fold, notes)


def _write(
    out: Path, result: SlideAdaptResult, pools: Sequence[SlidePool], fold: Fold, notes: Sequence[str]
) -> dict[str, Any]:
    from safetensors.torch import save

    own = {pool.slide_id: pool for pool in pools}
    parts = {name: [own[slide] for slide in slides] for name, slides in fold.parts().items()}
    probs = {name: result.predict(part) for name, part in parts.items() if part and name != "train"}
    told = result.told()
    card = {
        **told,
        "classes": list(result.classes),
        "slides": {name: dict(Counter(pool.label for pool in part)) for name, part in parts.items()},
        "tiles": int(sum(len(pool.tiles) for pool in pools)),
        "scores": {name: scores_of(_judged(parts[name], result.classes, each)) for name, each in probs.items()},
        "notes": [*notes, *told["notes"]],
    }
    begin(out)
    network = result.learner.body.network
    assert isinstance(network, AdaptedNetwork)  # no other method trains by slides
    training = {key: card[key] for key in ("slides", "train", "scores")}
    save_adapter(out / ADAPTER, network, backbone=result.encoder, name=out.name, text=result.text, training=training)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in result.learner.head.state_dict().items()}
    write_atomically(out / HEAD, save(head))
    write_rows(out / "history.csv", history_rows(result.history))
    write_rows(out / "splits.csv", _splits(parts))
    write_rows(out / "predictions.csv", _predictions(parts, probs, result.classes))
    finish(out, card)
    return card


def _judged(part: Sequence[SlidePool], classes: tuple[str, ...], probs: np.ndarray) -> JudgedRun:
    targets = np.array([classes.index(pool.label) for pool in part], np.int64)
    return JudgedRun(tuple(pool.slide_id for pool in part), targets, tuple(pool.group for pool in part), probs)


def _splits(parts: dict[str, list[SlidePool]]) -> Iterable[Sequence[Any]]:
    yield ["slide_id", "part", "case_id", "label", "tiles"]
    for name, part in parts.items():
        yield from ([pool.slide_id, name, pool.group, pool.label, len(pool.tiles)] for pool in part)


def _predictions(
    parts: dict[str, list[SlidePool]], probs: dict[str, np.ndarray], classes: tuple[str, ...]
) -> Iterable[Sequence[Any]]:
    yield ["slide_id", "part", "case_id", "label", *(f"prob_{name}" for name in classes)]
    for name, rows in probs.items():
        for pool, row in zip(parts[name], rows.tolist(), strict=True):
            yield [pool.slide_id, name, pool.group, pool.label, *row]
