"""The hub's empty cache and the small encoder, as the tests of encoders have them; a store with a label table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.cli import main
from tests.encoders.conftest import hub, toy  # noqa: F401

FAST = ("--set", "crossval.train={epochs: 2, min_epochs: 0}", "--folds", "2", "--seeds", "1", "--head", "mean")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, small_archive: Path) -> tuple[str, ...]:
    """The words that name a store and its table."""
    place = tmp_path_factory.mktemp("targets")
    store, table = str(place / "s"), place / "labels.csv"
    words = ("extract", "--slides", str(small_archive), "--store", store, "--tile-px", "128", "--executor", "serial")
    assert main(words) in (0, 3)
    lines = [f"s{n}.h5,P{n},g{n % 2},{10 + n},{n % 2},{'' if n == 5 else 0.1 * n},H{n // 2}" for n in range(6)]
    table.write_text("\n".join(["FILENAME,PATIENT,grade,months,dead,ki67,hospital", *lines]) + "\n")
    return ("crossval", "--store", store, "--features", "stain-texture", "--labels", str(table))
