"""A small cohort in memory and on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune_pipeline.testing.cohort import CohortFiles, CohortSpec, DrawnCohort, draw_cohort, write_cohort


@pytest.fixture(scope="session")
def drawn() -> DrawnCohort:
    return draw_cohort(CohortSpec(cases=36, cohorts=2, tiles=(6, 12), dim=8, pathways=4, genes=5, seed=3))


@pytest.fixture(scope="session")
def cohort(drawn: DrawnCohort, tmp_path_factory: pytest.TempPathFactory) -> CohortFiles:
    return write_cohort(drawn, tmp_path_factory.mktemp("cohort"))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
