"""Cell: one training of a study, known by what decides its result; and what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import quote

import numpy as np

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.evaluation.run_scores import JudgedRun
from pathotune_pipeline.provenance import canonical_json, fingerprint, short

REVISION = 1
"""Raised when the same settings give other results, so that older cells are computed again."""

Status = Literal["done", "failed", "not run"]
Predict = Callable[[np.ndarray], np.ndarray]
"""Indices [n] int64 to class probabilities [n, C] float."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """What a study splits: N images or slides, and what is known of each.

    Attributes:
        names: each once.
        targets: [N] int64 index into `classes`.
        classes: names.
        groups: slide or patient; "" where it is not known.
        domains: scanner, tumour type, laboratory; "" where none is told.
        splits: "train", "val", "test" of a given split, or "".
        fingerprint: of all that a model can see of them.
    """

    names: tuple[str, ...]
    targets: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[str, ...]
    fingerprint: str

    def __post_init__(self) -> None:
        columns = (self.names, self.targets, self.groups, self.domains, self.splits)
        if len({len(column) for column in columns}) > 1 or len(set(self.names)) != len(self.names):
            raise UsageError(
                f"A study needs one class, group, domain and split for each of its {len(self.names)} names, and each name "
                f"once; found {[len(column) for column in columns]} with {len(set(self.names))} names."
            )

    def __len__(self) -> int:
        return len(self.names)

    def run(self, index: np.ndarray, probs: np.ndarray) -> JudgedRun:
        """What a model said of some of them.

        Args:
            index: [n] int64.
            probs: [n, C] float.
        """
        places = index.tolist()
        return JudgedRun(
            tuple(self.names[place] for place in places),
            self.targets[index],
            tuple(self.groups[place] for place in places),
            np.asarray(probs, np.float32).astype(np.float64),  # as it is kept, so that a result read again is the same
        )


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of a study's tables.

    Attributes:
        encoder: as the study's file calls it; "" where a method brings its own network.
        method: as the study's file calls it.
        recipe: what decides its results, plain values; not its name.
    """

    encoder: str
    method: str
    recipe: Mapping[str, Any] = field(hash=False)

    @property
    def title(self) -> str:
        """As figures name it."""
        return f"{self.encoder}, {self.method}" if self.encoder else self.method


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Which items a cell learns from, chooses with, and is judged on.

    Attributes:
        train: [n] int64, sorted.
        val: [n] int64, sorted.
        tests: test set's name -> [n] int64, sorted.
        held_out: those of them that were held out of what is trained on; the others are other domains.
    """

    train: np.ndarray
    val: np.ndarray
    tests: Mapping[str, np.ndarray]
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One training, and what it is judged on.

    Attributes:
        contender: encoder and method.
        domain: what it trains on; "" for all there is.
        fraction: of the training groups.
        fold: which hold-out, from 0.
        seed: of the draw of the fraction and of the training.
        parts: of the items.
        fingerprint: SHA-256 of everything that decides the result.
        not_run: why it cannot be computed; "" where it can.
    """

    contender: Contender
    domain: str
    fraction: float
    fold: int
    seed: int
    parts: Parts
    fingerprint: str
    not_run: str = ""

    @property
    def file_name(self) -> str:
        """Of its result: readable, and another one for any other result."""
        words = (self.contender.encoder, self.contender.method, self.domain)
        told = "~".join(quote(word, safe=" ")[:40].replace(" ", "_") for word in words if word)
        return f"{told}~f{self.fraction:g}~k{self.fold}~s{self.seed}@{short(self.fingerprint)}.json"

    @property
    def title(self) -> str:
        """As messages name it."""
        where = f" on {self.domain}" if self.domain else ""
        return f"{self.contender.title}{where}, fraction {self.fraction:g}, fold {self.fold}, seed {self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a training gave.

    Attributes:
        predict: any of the items to class probabilities.
        facts: plain values for the table: "trainable" and "parameters" (numbers), "epochs", "best_epoch", ...
    """

    predict: Predict
    facts: Mapping[str, Any] = field(default_factory=dict)


class Fit(Protocol):
    """Trains a cell's model. Same cell, same result; an error fails this cell alone."""

    def __call__(self, cell: Cell) -> Fitted: ...


@dataclass(frozen=True, slots=True, eq=False)
class CellRecord:
    """What became of a cell.

    Attributes:
        status: "done", "failed" or "not run".
        reason: why not done; "" where it is.
        tests: test set -> what was said of it; empty where not done.
        facts: of the training.
        seconds: wall time.
        run: which run of the study made it.
    """

    status: Status
    reason: str = ""
    tests: Mapping[str, JudgedRun] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    run: str = ""


def cell_fingerprint(items: Items, contender: Contender, parts: Parts, *, seed: int) -> str:
    """The SHA-256 of what decides a cell's result: what is seen, how it is learnt, from what, judged on what.

    Names of methods and studies are not in it, so that a renamed row, or the same cell of another study, is not
    computed again.
    """
    tests = {name: _names_sha256(items, index) for name, index in sorted(parts.tests.items())}
    return fingerprint(
        "study-cell",
        REVISION,
        {
            "items": items.fingerprint,
            "recipe": dict(contender.recipe),
            "train": _names_sha256(items, parts.train),
            "val": _names_sha256(items, parts.val),
            "tests": tests,
            "seed": seed,
        },
    )


def items_fingerprint(columns: Mapping[str, Sequence[Any]]) -> str:
    """The SHA-256 of a table: names, labels, groups, domains, splits and a hash of what each looks like."""
    return hashlib.sha256(canonical_json({name: list(values) for name, values in columns.items()}).encode()).hexdigest()


def _names_sha256(items: Items, index: np.ndarray) -> str:
    return hashlib.sha256("\0".join(items.names[place] for place in index.tolist()).encode()).hexdigest()
