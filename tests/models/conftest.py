"""A small store with its labels, and a model trained from it: made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pathotune_pipeline.cli import main

FAST = ("--set", "model.train={epochs: 2, min_epochs: 0}", "--seeds", "2")


@dataclass(frozen=True)
class Study:
    """Where things lie.

    Attributes:
        archive: the slides.
        store: their features, tiles of 128 px at 1 um/px: 256 px of level 0.
        labels: a table with classes, times and numbers.
        model: a folder that train wrote: abmil for `grade`, two members.
    """

    archive: Path
    store: Path
    labels: Path
    model: Path

    def words(self, verb: str, *more: object, target: str = "grade") -> list[str]:
        """A call of a verb that takes a study."""
        source = ("--store", self.store, "--features", "stain-texture", "--labels", self.labels, "--target", target)
        return [verb, *map(str, (*source, *more))]


def extract(archive: Path, store: Path, *more: object) -> None:
    """Extract with tiles of 128 px at 1 um/px, unless told else; slides that are none fail."""
    words = ("extract", "--slides", archive, "--store", store, "--tile-px", 128, "--mpp", 1, "--executor", "serial")
    assert main([str(word) for word in (*words, *more)]) in (0, 3)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, small_archive: Path) -> Study:
    place = tmp_path_factory.mktemp("study")
    extract(small_archive, place / "store")
    lines = [f"s{n}.tif,P{n},g{n % 2},{10 + n},{n % 2},{0.1 * n}" for n in range(6)]
    (place / "labels.csv").write_text("\n".join(["slide,patient,grade,months,dead,ki67", *lines]) + "\n")
    made = Study(small_archive, place / "store", place / "labels.csv", place / "model")
    assert main(made.words("train", *FAST, "--head", "abmil", "--data-licence", "CC0", "--out", made.model)) == 0
    return made
