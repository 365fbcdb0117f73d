"""What is to be learnt: the kind of a target, how a table writes it, and class names with their indices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from pathotune_pipeline.errors import ManifestError, SpecError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.spec import Spec, setting

Kind = Literal[
    "auto", "binary", "multiclass", "multilabel", "ordinal", "regression", "survival-discrete", "survival-cox"
]
KINDS: tuple[str, ...] = get_args(Kind)
SURVIVAL = ("survival-discrete", "survival-cox")
LABEL_SEPARATOR = ";"
"""Between the labels of one slide in a multi-label column; a single `NO_LABELS` says that none applies."""
NO_LABELS = "-"
_SEEN = frozenset({"1", "1.0", "true", "yes", "event", "dead", "deceased", "1:deceased"})
_CENSORED = frozenset({"0", "0.0", "false", "no", "censored", "alive", "living", "0:living"})


class TargetSpec(Spec):
    """One target: what kind of thing its column holds, and how it is learnt."""

    kind: Kind = setting("auto", "Kind; auto is binary for two classes and multiclass for more.")
    event: str = setting("", "Survival: the column that says whether the event was seen (1) or not (0).")
    order: tuple[str, ...] = setting((), "Ordinal: grades from the lowest; empty sorts them.")
    bins: int = setting(4, "Discrete survival: intervals of time, of equally many events of the training part.", ge=2)
    alpha: float = setting(0.0, "Discrete survival: share of the censored slides' loss that is left out.", ge=0, lt=1)
    horizons: tuple[float, ...] = setting(
        (), "Survival: times at which it is predicted and judged; empty takes nine quantiles of the event times."
    )
    weight: float = setting(1.0, "Share of this target's loss where there are several.", gt=0)

    @property
    def plain(self) -> bool:
        """Whether it is a class for each slide, to be learnt by cross entropy alone."""
        return self.kind in ("auto", "binary", "multiclass")


def parse_target(text: str) -> tuple[str, dict[str, Any]]:
    """`COLUMN`, `COLUMN:KIND` or `TIME:KIND:EVENT` to the column and the settings that it names.

    A colon that no kind follows belongs to the column's name.

    Raises:
        SpecError: there is no column, or a survival target without the column of its event.
    """
    parts = text.split(":")
    kind_at = next((at for at in range(1, len(parts)) if parts[at] in KINDS), None)
    if kind_at is None:
        return text, {}
    column, kind, event = ":".join(parts[:kind_at]), parts[kind_at], ":".join(parts[kind_at + 1 :])
    if not column or (event and kind not in SURVIVAL):
        raise SpecError(f"--target {text!r}: give COLUMN, COLUMN:KIND, or TIME:KIND:EVENT for survival.")
    return column, {"kind": kind, "event": event} if event else {"kind": kind}


def target_specs(texts: str | Sequence[str], settings: Mapping[str, Any]) -> dict[str, TargetSpec]:
    """Column -> its Spec, in the order of the texts.

    Args:
        texts: one or several as `parse_target` takes them.
        settings: column -> settings of its TargetSpec, over what the text says.

    Raises:
        SpecError: a column is named twice, settings name another column, or a survival target lacks its event.
    """
    found: dict[str, TargetSpec] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        column, said = parse_target(text)
        if column in found:
            raise SpecError(f"--target {text!r}: column {column!r} was given already.")
        spec = TargetSpec.parse({**said, **dict(settings.get(column, {}))}, where=f"target {column}")
        if spec.kind in SURVIVAL and not spec.event:
            raise SpecError(f"target {column!r}: {spec.kind} needs its event's column: {column}:{spec.kind}:EVENT.")
        found[column] = spec
    strangers = [column for column in settings if column not in found]
    if strangers:
        raise SpecError(f"There are settings for target {strangers[0]!r}, which is none of {', '.join(found)}.")
    return found


def read_event(text: str) -> bool:
    """Whether a cell says that the event was seen.

    Raises:
        ManifestError: it says neither.
    """
    word = text.strip().lower()
    if word in _SEEN:
        return True
    if word in _CENSORED:
        return False
    raise ManifestError(f"An event's cell says {text!r}. Write 1 where the event was seen and 0 where it was not.")


def write_survival(time: str, event: str) -> str:
    """Time and event as one text: "34.5", or "34.5+" where the event was not seen by then."""
    return f"{time.strip()}{'' if read_event(event) else '+'}"


def read_survival(text: str | float) -> tuple[float, bool]:
    """What `write_survival` wrote, as time and whether the event was seen.

    Raises:
        ManifestError: it is no time of 0 or more.
    """
    said = str(text).strip()
    time = read_number(said.removesuffix("+"))
    if time < 0:
        raise ManifestError(f"A survival time is {text!r}; times are 0 or more. Mend the table.")
    return time, not said.endswith("+")


def read_number(text: str | float) -> float:
    """A finite number.

    Raises:
        ManifestError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"{text!r} is no number. Mend the table, or leave the cell empty where it is not known.")
    return value


def read_labels(text: str | int) -> tuple[str, ...]:
    """The labels of a multi-label cell, sorted."""
    said = {part.strip() for part in str(text).split(LABEL_SEPARATOR)} - {"", NO_LABELS}
    return tuple(sorted(said))


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of a task, in the order of their indices.

    Attributes:
        names: sorted, at least two; of two, the second is the positive one.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, labels: Iterable[str | int]) -> Classes:
        """The classes found among labels, sorted as text, or as numbers where all of them are whole numbers.

        Raises:
            ManifestError: there are fewer than two.
        """
        counts = Counter(str(label) for label in labels)
        if len(counts) < 2:
            found = f"all {next(iter(counts.values()))} labels are {next(iter(counts))!r}" if counts else "no label"
            raise ManifestError(f"A classifier needs two classes or more; found {found}. Look at the target column.")
        by_number = all(name.lstrip("-").isdecimal() for name in counts)
        return cls(tuple(sorted(counts, key=(lambda name: (int(name), name)) if by_number else str)))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def binary(self) -> bool:
        """Whether there are exactly two."""
        return len(self.names) == 2

    def index(self, label: str | int) -> int:
        """The index of a label.

        Raises:
            ManifestError: it is none of the classes.
        """
        name = str(label)
        if name not in self.names:
            known = ", ".join(self.names)
            raise ManifestError(f"Label {name!r} is none of the classes {known}.{nearest(name, self.names)}")
        return self.names.index(name)

    def encode(self, labels: Sequence[str | int]) -> np.ndarray:
        """The index of each label, [N] int64."""
        return np.array([self.index(label) for label in labels], dtype=np.int64)
