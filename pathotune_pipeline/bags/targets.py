"""Class names and their indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pathotune_pipeline.errors import ManifestError
from pathotune_pipeline.registry import nearest


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
