"""Slides to vectors: each slide's tiles through a slide encoder, committed slide by slide. What is there is not done again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pathotune_pipeline.bags.dataset import read_bag
from pathotune_pipeline.embeddings.plan import (
    EmbeddingRecipe,
    TileFacts,
    check_tile_encoder,
    deviations,
    recorded,
)
from pathotune_pipeline.engine.device import one_cpu_thread_here, pick_device
from pathotune_pipeline.errors import CorruptDataError, UsageError
from pathotune_pipeline.features.outcome import Outcome, count
from pathotune_pipeline.features.reviewed import rejected_among
from pathotune_pipeline.provenance import now, package_versions, short
from pathotune_pipeline.slide_encoders import SlideEncoderSpec, StagedSlideEncoder, create_slide_encoder
from pathotune_pipeline.store.layout import WHOLE_SET, SetName
from pathotune_pipeline.store.leases import LeaseSpec, LeaseWatch, take_lease
from pathotune_pipeline.store.ledger import enter
from pathotune_pipeline.store.runs import RunLog
from pathotune_pipeline.store.store import CommitRecord, FeatureStore

_POLL_S = 0.2


@dataclass(slots=True)
class EncodeResult:
    """What a run made of a feature set.

    Attributes:
        embeddings: name of the set.
        outcomes: one a slide, in the order of their ids.
        run_id: of the run's record in the store.
        notes: what has to be said of the result, one sentence each.
        rejected: ids of slides that reviewers rejected: no vector is made of them.
    """

    embeddings: SetName
    outcomes: list[Outcome]
    run_id: str
    notes: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {**count(self.outcomes), "rejected": len(self.rejected)}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "embeddings": str(self.embeddings),
            "run": self.run_id,
            "counts": self.counts(),
            "notes": self.notes,
            "rejected": self.rejected,
            "outcomes": [outcome.as_dict() for outcome in self.outcomes],
        }


def encode_slides(
    store: FeatureStore,
    features_set: SetName,
    spec: SlideEncoderSpec,
    *,
    threads: int = 1,
    on_wait: Callable[[], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> EncodeResult:
    """One vector of every slide in a feature set, into the store. Unreadable tiles and rejected slides do not take part.

    Of several runs that make one set the first works, and the others wait for it and then find it done. On a CPU each slide
    has one thread: the bits do not depend on how many there are.

    Args:
        store: with the features.
        features_set: of the tiles.
        spec: which slide encoder.
        threads: slides at once on a CPU; each holds some arrays as wide as its tokens.
        on_wait: told once where another run makes this set just now.
        on_outcome: told each new outcome as it comes.

    Raises:
        UsageError: the set is empty, or the slide encoder does not go with it.
        WeightsError: the slide encoder's weights cannot be had.
        StoreUnwritableError: the store became full or read-only. What is committed stays; run again for the rest.
    """
    records = list(store.records(features_set).values())
    if not records:
        raise UsageError(f"{features_set}: nothing is committed. Run `pathotune extract` first.")
    tiles, device = TileFacts.of(store, records[0]), pick_device(spec.device)
    rejected = rejected_among(store, (record.slide_id for record in records))
    records = [record for record in records if record.slide_id not in rejected]
    encoder = create_slide_encoder(spec, in_dim=tiles.dim)
    check_tile_encoder(encoder.card, tiles)
    recipe = EmbeddingRecipe.of(features_set, encoder.card)
    work = _Work(store, recipe, encoder.requires_grad_(requires_grad=False).to(device), spec, device)
    notes = [*deviations(encoder.card, tiles), *([encoder.card.note] if encoder.card.note else [])]
    log = RunLog(store.runs, "encode-slides", {"slide_encoder": recorded(spec)})
    with _alone(store, recipe.embeddings_set, log.run_id, on_wait):
        known = work.known(records)
        told = {outcome.slide_id: outcome for outcome in known}
        todo = [record for record in records if record.slide_id not in told]
        log.note(
            embeddings=str(recipe.embeddings_set), made_from=str(features_set), slides=len(records), planned=len(todo)
        )
        for outcome in _each(work, todo, threads):
            told[outcome.slide_id] = outcome
            log.outcome(outcome.as_dict())
            if on_outcome:
                on_outcome(outcome)
    outcomes = [told[record.slide_id] for record in records]
    result = EncodeResult(recipe.embeddings_set, outcomes, log.run_id, notes, sorted(rejected))
    failures = {outcome.slide_id: outcome.reason for outcome in result.outcomes if outcome.status == "failed"}
    log.finish(counts=result.counts(), failures=failures, notes=notes, rejected=result.rejected)
    enter(store, "encode-slides", run=log.run_id, embeddings=str(result.embeddings), counts=result.counts())
    store.close_staging()
    return result


@contextmanager
def _alone(
    store: FeatureStore, embeddings_set: SetName, run_id: str, on_wait: Callable[[], None] | None
) -> Iterator[None]:
    """Wait until no other run makes this set, and make it as long as the block runs."""
    name, lease_s = f"{embeddings_set}/{WHOLE_SET}", LeaseSpec().lease_s
    watch = LeaseWatch(store.place, lease_s=lease_s)
    while (lease := take_lease(store.place, name, lease_s, run=run_id)) is None:
        if on_wait:
            on_wait()
            on_wait = None
        if watch.state(name) == "held":
            time.sleep(_POLL_S)
    with lease:
        yield


def _each(work: _Work, records: Sequence[CommitRecord], threads: int) -> Iterator[Outcome]:
    """Outcomes as they come. What stops one slide for good stops all: those that have not begun are left."""
    on_cpu = work.device.type == "cpu"
    workers = max(1, min(threads if on_cpu else 2, len(records)))  # with a GPU one reads while the other encodes
    with ThreadPoolExecutor(workers, initializer=one_cpu_thread_here if on_cpu else None) as pool:
        futures = [pool.submit(work.do, record) for record in records]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(slots=True)
class _Work:
    """Everything that one slide's work needs."""

    store: FeatureStore
    recipe: EmbeddingRecipe
    encoder: StagedSlideEncoder
    spec: SlideEncoderSpec
    device: torch.device
    _turn: Any = None

    def __post_init__(self) -> None:
        self._turn = nullcontext() if self.device.type == "cpu" else threading.Lock()

    def known(self, records: Iterable[CommitRecord]) -> list[Outcome]:
        """Outcomes of the slides that need no work: their vector is there, or they have no tile to make one of."""
        there, found = self.store.committed(self.recipe.embeddings_set), []
        versions = Counter(key for key, _ in there)
        for record in records:
            key, prints = _key(record), self.recipe.fingerprint(record.fingerprint)
            if (key, short(prints)) in there:
                if versions[key] > 1:  # older features may be the slide's again: then their vector is, too
                    self.store.renew(self.recipe.embeddings_set, key, prints)
                found.append(Outcome(record.slide_id, "committed", new=False, tiles=_readable(record)))
            elif _readable(record) == 0:
                reason = str(record.facts.get("reason") or "none of its tiles could be read")
                found.append(Outcome(record.slide_id, "empty", reason=reason, new=False))
        return found

    def do(self, record: CommitRecord) -> Outcome:
        """One slide; its own troubles stay with it."""
        began = time.perf_counter()
        try:
            self._commit(record, self._vector(record))
        except (CorruptDataError, torch.OutOfMemoryError) as error:
            first = str(error).strip().splitlines()[0]
            return Outcome(record.slide_id, "failed", reason=first, seconds=time.perf_counter() - began)
        seconds = time.perf_counter() - began
        return Outcome(record.slide_id, "committed", tiles=_readable(record), seconds=seconds)

    def _vector(self, record: CommitRecord) -> np.ndarray:
        bag = read_bag(self.store, record, case_id="")
        stride_x, stride_y = self._stride(record)
        coords = torch.as_tensor(bag.coords)
        if stride_x != stride_y:  # pixels that are not square: y in pixels as wide as x's
            coords = coords * torch.tensor([1.0, stride_x / stride_y], dtype=torch.float64)
        features = torch.as_tensor(np.asarray(bag.features, np.float32))
        with self._turn, torch.inference_mode():
            # Places stay on the CPU: they are worked out in float64, which not every device has.
            made = self.encoder(features.to(self.device), coords, stride_x).float().cpu().numpy()
        if not np.isfinite(made).all():
            raise CorruptDataError(
                f"{self.encoder.name} made NaN or infinity of its {len(bag)} tiles. Look at its features."
            )
        return np.ascontiguousarray(made)

    def _stride(self, record: CommitRecord) -> tuple[float, float]:
        geometry: Any = self.store.group(record.made_from("tiles")).attrs["geometry"]
        x, y = geometry["stride_level0"]
        return float(x), float(y)

    def _commit(self, record: CommitRecord, vector: np.ndarray) -> None:
        recipe, key = self.recipe, _key(record)
        prints = recipe.fingerprint(record.fingerprint)
        chain = {name: record.facts[name] for name in ("identity", "case_id", *_CHAIN) if name in record.facts}
        head = {
            "slide_id": record.slide_id,
            "set": str(recipe.embeddings_set),
            "fingerprint": prints,
            **chain,
            "features_set": str(recipe.features_set),
            "features_group": record.group,
            "features_fingerprint": record.fingerprint,
            "tiles": _readable(record),
            "dim": len(vector),
        }
        made_with = {
            "slide_encoder": recipe.card.model_dump(mode="json"),
            "settings": {"slide_encoder": recorded(self.spec)},
            "versions": package_versions(),
            "made": now(),
        }
        with self.store.stage(record.slide_id, key, recipe.embeddings_set, prints) as staged:
            staged.put("embedding", vector)
            staged.commit(head, {**head, **made_with})


_CHAIN = ("tiles_group", "tissue_group", "tiles_fingerprint", "tissue_fingerprint")


def _readable(record: CommitRecord) -> int:
    return int(record.facts["tiles"]) - int(record.facts["invalid_tiles"])


def _key(record: CommitRecord) -> str:
    return record.group.partition("/")[0]
