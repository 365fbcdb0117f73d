"""A small cohort in memory and on disk, and a network of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathotune_pipeline.adapt.modal.pathways import PathwayTable
from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.slide_encoders import SlideEncoderSpec, StagedSlideEncoder, create_slide_encoder
from pathotune_pipeline.testing.cohort import CohortFiles, CohortSpec, DrawnCohort, draw_cohort, write_cohort
from pathotune_pipeline.tuning.cases.genes import read_genes
from pathotune_pipeline.tuning.cases.material import CaseMaterial
from pathotune_pipeline.tuning.cases.parts import CaseParts, part_cases
from pathotune_pipeline.tuning.cases.scale import ClinicalScale, GeneScale, gene_rows
from pathotune_pipeline.tuning.cases.slides import join_tiles
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec
from pathotune_pipeline.tuning.cases.table import read_cases
from pathotune_pipeline.tuning.cases.tune import Inputs

SMALL = {"n_blocks": 2, "n_heads": 3, "n_gene_tokens": 4, "pathway_dim": 12, "n_mixers": 1, "out_dim": 24}
"""A modal adapter that learns in seconds."""


@pytest.fixture(scope="session")
def drawn() -> DrawnCohort:
    return draw_cohort(CohortSpec(cases=36, cohorts=2, tiles=(6, 12), dim=8, pathways=4, genes=5, seed=3))


@pytest.fixture(scope="session")
def cohort(drawn: DrawnCohort, tmp_path_factory: pytest.TempPathFactory) -> CohortFiles:
    return write_cohort(drawn, tmp_path_factory.mktemp("cohort"))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def spec_of(*, modal: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **more: Any) -> SlideTuneSpec:
    quick = {"epochs": 2, "lr": 1e-3, "warmup_epochs": 1, "patience": 0}
    return SlideTuneSpec.parse({"modal": {**SMALL, **(modal or {})}, "train": {**quick, **(train or {})}, **more})


def small_encoder(dim: int, width: int = 24) -> StagedSlideEncoder:
    """An untrained LongNet for tiles of `dim` numbers."""
    settings = {"dim": width, "layers": 2, "heads": 3}
    return create_slide_encoder(SlideEncoderSpec.parse({"name": "longnet", "settings": settings}), in_dim=dim)


def opened(
    cohort: DrawnCohort, folder: Path, spec: SlideTuneSpec, *, width: int = 24
) -> tuple[Inputs, CaseMaterial, CaseParts, PathwayTable]:
    """A drawn cohort ready to train, its tiles in memory."""
    files = write_cohort(cohort, folder, store=False)
    table = read_cases(files.cases, spec.cases)
    genes = read_genes(files.genes, table.ids)
    parts = part_cases(table, spec.cases)
    scale = GeneScale.fit(genes, parts.train)
    pathways = PathwayTable.of_sets(cohort.sets).restricted_to(scale.genes)
    train = [case for case in table.cases if case.case_id in set(parts.train)]
    clinical = ClinicalScale.fit(train, spec.cases.clinical)
    encoder = small_encoder(cohort.spec.dim, width)
    tiles = {
        case.case_id: join_tiles(
            [Bag(x, at, bag_id=slide, group=case.case_id) for slide, (x, at) in case.slides.items()],
            [256.0] * len(case.slides),
        )
        for case in cohort.cases
        if case.slides
    }
    material = CaseMaterial(
        {case.case_id: case for case in table.cases},
        tiles,
        gene_rows(genes, pathways.genes),
        {case.case_id: clinical.values(case) for case in table.cases} if clinical.fields else {},
    )
    return Inputs(encoder, encoder.card.recipe(), pathways, scale, clinical), material, parts, pathways
