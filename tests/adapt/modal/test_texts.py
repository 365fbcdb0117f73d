"""Texts of cases, word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pathotune_pipeline.adapt.modal.survival_words import SurvivalBins
from pathotune_pipeline.adapt.modal.texts import (
    CaseFacts,
    CaseTextSpec,
    case_texts,
    collapse_stage,
    collapse_tnm,
    embed_case_texts,
)
from pathotune_pipeline.encoders.text import create_text_encoder
from pathotune_pipeline.errors import SpecError, UsageError

BINS = SurvivalBins(edges=(12.0, 30.5, 60.0))
FULL = CaseFacts("breast", "invasive ductal carcinoma", "G2", "Stage IIA", "T2a", "N1mi", "M0 (i+)", 20.0, True)
STAGE = "Overall stage: stage two; Primary tumor: T2; Lymph node status: N1; Distant metastasis: M0;"


def test_four_texts_of_a_case_of_which_all_is_known() -> None:
    died = "Survival status: The patient died between 12 and 30.5 months;"
    assert case_texts(FULL, BINS) == (
        f"Cancer location: breast; Cancer diagnosis: invasive ductal carcinoma; {STAGE} {died}",
        "Cancer location: breast; Cancer diagnosis: invasive ductal carcinoma;",
        f"Cancer location: breast; {STAGE}",
        f"Cancer location: breast; {STAGE} {died}",
    )


def test_what_is_not_known_is_left_out() -> None:
    facts = CaseFacts("bladder", None, stage="[Not Available]", t="TX", n="N2", m="", months=math.nan, died=False)
    assert case_texts(facts, BINS) == (
        "Cancer location: bladder; Lymph node status: N2;",
        None,
        "Cancer location: bladder; Lymph node status: N2;",
        "Cancer location: bladder; Lymph node status: N2;",
    )
    assert case_texts(CaseFacts(diagnosis="LUAD", months=3.0), BINS) == (
        "Cancer diagnosis: LUAD;",
        "Cancer diagnosis: LUAD;",
        None,
        None,
    )
    assert case_texts(CaseFacts("lung"), BINS) == (None, None, None, None)
    assert "months" not in "".join(text or "" for text in case_texts(FULL, None))


@pytest.mark.parametrize(
    ("months", "died", "said"),
    [
        (0.0, True, "The patient died before 12 months"),
        (11.99, False, "The patient was censored before 12 months"),
        (12.0, True, "The patient died between 12 and 30.5 months"),
        (30.4, False, "The patient was censored between 12 and 30.5 months"),
        (30.5, True, "The patient died between 30.5 and 60 months"),
        (59.9, False, "The patient was censored between 30.5 and 60 months"),
        (60.0, True, "The patient died at or after 60 months"),
        (400.0, False, "The patient was censored at or after 60 months"),
    ],
)
def test_every_bin_has_its_words(months: float, died: bool, said: str) -> None:
    assert BINS.words(months, died=died) == said
    assert case_texts(CaseFacts("breast", months=months, died=died), BINS)[3] == (
        f"Cancer location: breast; Survival status: {said};"
    )


def test_bins_are_quartiles_rounded_as_they_are_told() -> None:
    months = np.random.default_rng(0).exponential(30, 500)
    bins = SurvivalBins.fit(months)
    assert bins.edges == tuple(round(float(edge), 1) for edge in np.quantile(months, (0.25, 0.5, 0.75)))
    counts = np.bincount([bins.number(time) for time in months], minlength=4)
    assert counts.sum() == 500
    assert (abs(counts - 125) <= 3).all()  # rounding moves a few
    assert SurvivalBins.parse(bins.model_dump(mode="json")) == bins


def test_equal_times_leave_no_bin_with_two_equal_ends() -> None:
    bins = SurvivalBins.fit([5.0] * 10)
    assert {bins.words(time, died=True) for time in (4.9, 5.0, 5.1)} == {
        "The patient died before 5 months",
        "The patient died at or after 5 months",
    }


@pytest.mark.parametrize("months", [[], [1.0, float("nan")], [-1.0]])
def test_times_that_are_none_are_refused(months: list[float]) -> None:
    with pytest.raises(UsageError, match="BLCA: times in months must be finite"):
        SurvivalBins.fit(months, "BLCA")
    with pytest.raises(UsageError, match="no time"):
        BINS.words(-1.0, died=True)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("I", "one"),
        ("Stage IA1", "one"),
        ("IS", "one"),
        ("stage ii", "two"),
        ("IIA", "two"),
        ("IIIC2", "three"),
        ("Stage IV", "four"),
        ("IVb", "four"),
        ("3b", "three"),
        ("4", "four"),
        ("0", "zero"),
        ("0is", "zero"),
        ("Stage IIA NOS", "two"),
        ("Stage X", None),
        ("N/A", None),
        ("not reported", None),
        ("", None),
        (None, None),
    ],
)
def test_stages_are_collapsed(given: str | None, word: str | None) -> None:
    assert collapse_stage(given) == word


@pytest.mark.parametrize(
    ("given", "letter", "found"),
    [
        ("T2", "T", "T2"),
        ("pT1b1", "T", "T1"),
        ("Tis", "T", "Tis"),
        ("Ta", "T", "Ta"),
        ("2", "T", "T2"),
        ("N1bIII", "N", "N1"),
        ("ypN0 (mol+)", "N", "N0"),
        ("NX", "N", None),
        ("cMX", "M", None),
        ("X", "M", None),
        ("M1a", "M", "M1"),
        (None, "M", None),
    ],
)
def test_subdivisions_of_tnm_are_dropped(given: str | None, letter: str, found: str | None) -> None:
    assert collapse_tnm(given, letter) == found


def test_what_cannot_be_read_is_an_error_and_not_a_missing_field() -> None:
    for stage in ("V", "II-III", "high"):
        with pytest.raises(UsageError, match=f"stage '{stage}' cannot be read"):
            collapse_stage(stage)
    for value, letter in (("N1", "T"), ("T9", "T"), ("yes", "M")):
        with pytest.raises(UsageError, match=f"{letter} '{value}' cannot be read"):
            collapse_tnm(value, letter)


def test_templates_are_settings_and_are_checked() -> None:
    spec = CaseTextSpec(diagnosis_text="a [{grade} ]tumour of the {site}[, {diagnosis}]")
    assert case_texts(FULL, BINS, spec)[1] == "a G2 tumour of the breast, invasive ductal carcinoma"
    with pytest.raises(SpecError, match=r"no field 'stages'\. Did you mean 'stage'"):
        CaseTextSpec.parse({"stage_text": "[{stages}]"})


def test_texts_become_vectors_and_what_is_missing_is_marked() -> None:
    encoder = create_text_encoder("hash-ngram", n_tokens=1)
    cases = [case_texts(FULL, BINS), case_texts(CaseFacts("lung"), BINS), case_texts(FULL, BINS)]
    vectors, told = embed_case_texts(encoder, cases)
    assert vectors.shape == (3, 4, 256)
    assert told.tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert torch.equal(vectors[0, 1], encoder.encode([cases[0][1] or ""])[0, 0])
    assert not vectors[1].any()
    assert torch.equal(vectors[0], vectors[2])
    assert len({tuple(row.tolist()) for row in vectors[0]}) == 4
    none, untold = embed_case_texts(encoder, [])
    assert none.shape == (0, 4, 256)
    assert untold.shape == (0, 4)
