"""Training on cases: what is learnt and what stays, resumption, and signals that were planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pathotune_pipeline.encoders.checkpoint import state_sha256
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.testing.cohort import CohortSpec, DrawnCohort, draw_cohort
from pathotune_pipeline.tuning.cases.judges import ALL
from pathotune_pipeline.tuning.cases.judging import Findings, judge_network
from pathotune_pipeline.tuning.cases.labels import label_cases
from pathotune_pipeline.tuning.cases.learner import CaseBatches, embed_cases
from pathotune_pipeline.tuning.cases.tune import COURSE, build_network, tune_cases
from tests.tuning.cases.conftest import opened, spec_of

CLINICAL = {"clinical": ["age", "stage"]}


def test_the_adapter_learns_the_encoder_stays_and_missing_parts_are_no_trouble(
    drawn: DrawnCohort, tmp_path: Path
) -> None:
    spec = spec_of(cases=CLINICAL, train={"epochs": 3})
    inputs, material, parts, _ = opened(drawn, tmp_path, spec)
    before = state_sha256(inputs.encoder)
    fresh = {name: each.clone() for name, each in build_network(inputs, spec).adapter.named_parameters()}
    tuning = tune_cases(inputs, material, parts, spec=spec)
    assert state_sha256(inputs.encoder) == before
    assert state_sha256(tuning.network.encoder) == before
    moved = {name for name, each in tuning.network.adapter.named_parameters() if not torch.equal(each, fresh[name])}
    assert moved == set(fresh)
    assert tuning.history[-1].losses["total"] < tuning.history[0].losses["total"]
    assert [set(each.losses) for each in tuning.history] == [{"general", "diagnosis", "survival", "total"}] * 3
    cases = material.usable(parts.test)
    kinds = {material.modalities(case) for case in material.usable(tuple(material.cases))}
    assert len(kinds) > 1  # some lack slides or genes
    vectors = embed_cases(tuning.network, material, cases)
    assert vectors.shape == (len(cases), 3, 24)
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors, embed_cases(tuning.network, material, cases))
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(vectors[:, one], vectors[:, two])
    for name in ("image", "genes", "clinical"):
        alone = material.only([name])
        case = next(case for case in cases if name in material.modalities(case))
        assert alone.modalities(case) == (name,)
        assert np.isfinite(embed_cases(tuning.network, alone, [case])).all()
    with pytest.raises(UsageError, match="no slide, no expression"):
        material.only([]).given(cases[0])


def test_the_network_scales_by_the_training_cases(drawn: DrawnCohort, tmp_path: Path) -> None:
    spec = spec_of(cases=CLINICAL)
    inputs, material, parts, pathways = opened(drawn, tmp_path, spec)
    tokens = build_network(inputs, spec).adapter.tokens
    train = np.stack([material.genes[case] for case in parts.train if case in material.genes]).astype(np.float64)
    np.testing.assert_allclose(tokens.genes.standardise.mean, train.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(tokens.genes.standardise.scale, train.std(axis=0), rtol=1e-5)
    assert tokens.genes.standardise.mean.shape == (len(pathways.genes),)
    ages = [float(age) for case in parts.train if (age := material.cases[case].field("age"))]
    assert float(tokens.clinical.standardise.mean[0]) == pytest.approx(np.mean(ages))


def test_cases_without_a_label_teach_nothing_and_are_counted(drawn: DrawnCohort, tmp_path: Path) -> None:
    spec = spec_of()
    _, material, parts, _ = opened(drawn, tmp_path, spec)
    labels = label_cases([material.cases[case] for case in parts.train], parts.train, spec)
    silent = [case for case in labels.ids if material.cases[case].survival is None]
    assert silent
    place, task = labels.ids.index(silent[0]), spec.modal.tasks.index("survival")
    assert "Survival status" not in (labels.texts[place][3] or "")
    assert labels.texts[place][1] == f"Cancer location: {material.cases[silent[0]].cohort}; Cancer diagnosis: " + (
        f"{material.cases[silent[0]].label};"
    )
    assert labels.told[:, task].shape == (len(labels.ids),)
    assert "no language" in labels.card.note
    assert set(labels.card.bins) == {"alpha", "beta"}


def test_tiles_and_order_of_an_epoch_hang_on_seed_and_epoch(drawn: DrawnCohort, tmp_path: Path) -> None:
    spec = spec_of()
    _, material, parts, _ = opened(drawn, tmp_path, spec)
    labels = label_cases([material.cases[case] for case in parts.train], parts.train, spec)
    few = replace(material, max_tiles=4)
    train = few.usable(parts.train)

    def walked(epoch: int, seed: int = 0) -> list[torch.Tensor]:
        batches = CaseBatches(few, labels, train, seed=seed)
        return [batch.case.features for batch in batches(epoch) if batch.case.features is not None]

    first = walked(0)
    assert max(len(each) for each in first) == 4
    assert all(torch.equal(one, two) for one, two in zip(first, walked(0), strict=True))
    for other in (walked(1), walked(0, seed=1)):
        assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


_CHILD = """
import sys
from pathlib import Path
from pathotune_pipeline.testing.cohort import CohortSpec, draw_cohort
from pathotune_pipeline.tuning.cases.tune import tune_cases
from tests.tuning.cases.conftest import opened, spec_of

drawn = draw_cohort(CohortSpec(cases=36, cohorts=2, tiles=(6, 12), dim=8, pathways=4, genes=5, seed=3))
out, spec = Path(sys.argv[1]), spec_of(train={"epochs": 3, "accumulate": 2})
inputs, material, parts, _ = opened(drawn, out / "tables", spec)
tune_cases(inputs, material, parts, spec=spec, out=out)
"""


def test_a_killed_training_ends_with_the_same_bits(drawn: DrawnCohort, tmp_path: Path) -> None:
    spec = spec_of(train={"epochs": 3, "accumulate": 2})
    inputs, material, parts, _ = opened(drawn, tmp_path / "tables", spec)
    whole = tune_cases(inputs, material, parts, spec=spec)
    root = Path(__file__).parents[3]
    environment = {
        **os.environ,
        "PATHOTUNE_FAILPOINT": "course.saved:2",
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
    }
    child = subprocess.run([sys.executable, "-c", _CHILD, str(tmp_path)], env=environment, cwd=root, check=False)
    assert child.returncode == -9
    assert (tmp_path / COURSE).is_file()
    resumed = tune_cases(inputs, material, parts, spec=spec, out=tmp_path)
    assert state_sha256(resumed.network.adapter) == state_sha256(whole.network.adapter)
    assert [each.losses for each in resumed.history] == [each.losses for each in whole.history]
    with pytest.raises(UsageError, match="other data or settings"):
        tune_cases(inputs, material, parts, spec=spec.with_values(projector_seed=1), out=tmp_path)
    changed = {**material.genes}
    first = next(case for case in parts.train if case in changed)
    changed[first] = changed[first] + 1
    with pytest.raises(UsageError, match="other data or settings"):
        tune_cases(inputs, replace(material, genes=changed), parts, spec=spec, out=tmp_path)


def findings(
    drawn: DrawnCohort, folder: Path, *, epochs: int, hold_out: tuple[str, ...] = (), ablate: bool = True
) -> Findings:
    """Six of ten cases held out, the others trained on, and each modality judged alone too."""
    cases = {**CLINICAL, "test_share": 0.6, "hold_out": hold_out}
    spec = spec_of(train={"epochs": epochs, "lr": 2e-3}, cases=cases)
    inputs, material, parts, _ = opened(drawn, folder, spec)
    tuning = tune_cases(inputs, material, parts, spec=spec)
    return judge_network(tuning.network, material, parts, spec.judge, ablate=ablate)


def planted(cases: int, **more: Any) -> DrawnCohort:
    small = {"cohorts": 2, "tiles": (6, 10), "dim": 8, "pathways": 4, "genes": 5, "seed": 1}
    return draw_cohort(CohortSpec.parse({"cases": cases, **small, **more}))


def score(found: Findings, modalities: str, task: str, name: str, cohort: str = ALL) -> float:
    own = next(each for each in found.judgements if each.modalities == modalities)
    return next(each.value for each in own.scores if (each.task, each.score, each.cohort) == (task, name, cohort))


def test_a_small_cohort_shows_its_planted_pathway(tmp_path: Path) -> None:
    drawn = planted(120, effect=4.0)
    found = findings(drawn, tmp_path, epochs=2)
    assert score(found, "genes", "survival", "c_index") > 0.65 > score(found, "image", "survival", "c_index")
    for cohort in ("alpha", "beta"):
        ranked = [each.pathway for each in found.pathways if each.cohort == cohort]
        assert ranked[0] == drawn.planted
    ends = {f"{end} risk in {cohort}" for end in ("highest", "lowest") for cohort in ("alpha", "beta")}
    assert {each.why for each in found.tiles} == ends
    assert all(np.isfinite(each.values).all() and len(each.values) == len(each.coords) for each in found.tiles)


@pytest.mark.slow
def test_survival_is_in_the_pathway_and_subtype_in_the_image_over_200_pooled_cases(tmp_path: Path) -> None:
    drawn = planted(360, effect=3.0)
    found = findings(drawn, tmp_path, epochs=4)
    survival = next(
        s for s in found.judgements[0].scores if (s.task, s.cohort, s.score) == ("survival", ALL, "c_index")
    )
    assert survival.cases >= 200
    assert survival.value is not None
    assert survival.value >= 0.65
    assert abs(score(found, "image", "survival", "c_index") - 0.5) <= 0.08
    assert score(found, "image", "diagnosis", "balanced_accuracy") >= 0.7
    assert abs(score(found, "genes", "diagnosis", "balanced_accuracy") - 0.5) <= 0.1
    for cohort in ("alpha", "beta"):
        assert next(each.pathway for each in found.pathways if each.cohort == cohort) == drawn.planted


@pytest.mark.slow
def test_two_cohorts_together_do_no_worse_than_alone_and_a_third_is_judged_unseen(tmp_path: Path) -> None:
    drawn = planted(300, cohorts=3, effect=3.0)
    both = findings(drawn, tmp_path / "both", epochs=4, hold_out=("gamma",), ablate=False)
    for cohort, other in (("alpha", "beta"), ("beta", "alpha")):
        alone = findings(drawn, tmp_path / cohort, epochs=4, hold_out=(other, "gamma"), ablate=False)
        for task, name in (("survival", "c_index"), ("diagnosis", "balanced_accuracy")):
            # 60 cases are judged: a difference has a standard error of about .06.
            assert score(both, "all", task, name, cohort) >= score(alone, "all", task, name, cohort) - 0.08
    assert score(both, "all", "survival", "c_index", "gamma") > 0.6


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_25000_tiles_of_1536_numbers_train_in_bounded_memory() -> None:
    """Three of GigaPath's twelve layers and one of three tasks; each layer and task more keeps 77 MB."""
    root = Path(__file__).parents[3]
    words = ["--work", "train", "--tiles", "25000", "--dim", "1536", "--layers", "3", "--tasks", "1", "--repeats", "0"]
    command = [sys.executable, str(root / "benchmarks" / "slide_tune.py"), *words]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True)
    peak_gb = json.loads(done.stdout.splitlines()[-1])["peak_gb"]
    kept_gb = 25_000 * 768 * 4 / 1e9
    assert peak_gb + (12 * 3 - 3) * kept_gb < 24
