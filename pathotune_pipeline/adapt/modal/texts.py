"""Labels as text: four descriptions of a case, of which what is not known is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from pathotune_pipeline.adapt.modal.spec import TEXT_KINDS
from pathotune_pipeline.adapt.modal.survival_words import SurvivalBins
from pathotune_pipeline.encoders.text import TextEncoder, check_template, embed_texts, fill_template
from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.spec import Spec, setting

if TYPE_CHECKING:
    import torch

CASE_FIELDS = ("site", "diagnosis", "grade", "stage", "t", "n", "m", "survival")

_SITE = "[Cancer location: {site}; ]"
_DIAGNOSIS = "[Cancer diagnosis: {diagnosis}; ]"
_STAGE = "[Overall stage: stage {stage}; ][Primary tumor: {t}; ][Lymph node status: {n}; ][Distant metastasis: {m}; ]"
_SURVIVAL = "[Survival status: {survival};]"

_WORDS = ("zero", "one", "two", "three", "four")
_STAGES = dict(zip(("0", "i", "ii", "iii", "iv"), _WORDS, strict=True)) | {
    str(n): word for n, word in enumerate(_WORDS)
}
_STAGE_FORM = re.compile(r"(?:stage)?(0|iv|i{1,3}|[1-4])(?:is|[a-es]\d?)?(?:nos)?", re.IGNORECASE)
_TNM_FORM = re.compile(r"[cpyra]{0,3}([tnm])(0|is|a|[1-4])(?:[a-d]|mi)?[iv\d]*(?:\(.*\))?", re.IGNORECASE)
_UNKNOWN = {"", "x", "na", "n/a", "nan", "none", "unknown", "not reported", "not available", "discrepancy", "stage x"}


class CaseTextSpec(Spec):
    """What is said of a case. What is in [] is left out where its field is not known."""

    general_text: str = setting(
        _SITE + _DIAGNOSIS + _STAGE + _SURVIVAL,
        "Text of task general, with {site}, {diagnosis}, {grade}, {stage}, {t}, {n}, {m}, {survival}.",
        min_length=1,
    )
    diagnosis_text: str = setting(_SITE + _DIAGNOSIS, "Text of task diagnosis.", min_length=1)
    stage_text: str = setting(_SITE + _STAGE, "Text of task stage.", min_length=1)
    survival_text: str = setting(_SITE + _STAGE + _SURVIVAL, "Text of task survival.", min_length=1)

    @model_validator(mode="after")
    def _templates_can_be_filled(self) -> Self:
        for template in self.templates():
            check_template(template, CASE_FIELDS)
        return self

    def templates(self) -> tuple[str, ...]:
        """The four, in the order of `TEXT_KINDS`."""
        return tuple(getattr(self, f"{kind}_text") for kind in TEXT_KINDS)


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What is known of a case, as its table has it; None or an empty cell for what is not.

    Attributes:
        site: organ, for all cases of a cohort.
        diagnosis: subtype in words.
        grade: as a text would have it.
        stage: overall stage, such as "Stage IIA" or "2".
        t: primary tumour, such as "T2a" or "pT2".
        n: lymph nodes.
        m: distant metastasis.
        months: time to death or to the end of follow-up.
        died: whether it ended in death.
    """

    site: str | None = None
    diagnosis: str | None = None
    grade: str | None = None
    stage: str | None = None
    t: str | None = None
    n: str | None = None
    m: str | None = None
    months: float | None = None
    died: bool | None = None


def case_texts(facts: CaseFacts, bins: SurvivalBins | None, spec: CaseTextSpec | None = None) -> tuple[str | None, ...]:
    """The four texts of a case, in the order of `TEXT_KINDS`.

    Args:
        facts: of the case.
        bins: of its cohort, fitted on training cases; None where follow-up is not told.
        spec: the templates.

    Returns:
        four texts; None for one of which nothing would be left but the site, which would teach its task nothing.

    Raises:
        UsageError: a stage or a T, N, M that cannot be read, or a time that is none.
    """
    values = _values(facts, bins)
    texts: list[str | None] = []
    for template in (spec or CaseTextSpec()).templates():
        fields = check_template(template, CASE_FIELDS)
        own = [field for field in fields if field != "site"]
        known = any(values[field] for field in own)
        texts.append(fill_template(template, values, CASE_FIELDS) if known else None)
    return tuple(texts)


def collapse_stage(stage: str | None) -> str | None:
    """The overall stage as a word: "Stage IIIB" and "3b" become "three"; None where it is not known.

    Raises:
        UsageError: it is no stage.
    """
    text = _clean(stage)
    if text is None:
        return None
    found = _STAGE_FORM.fullmatch(text.replace(" ", ""))
    if found is None:
        raise UsageError(
            f"stage {stage!r} cannot be read. Write 0 to IV or 0 to 4, with a letter behind it or without."
        )
    return _STAGES[found[1].lower()]


def collapse_tnm(value: str | None, letter: str) -> str | None:
    """A T, N or M without its subdivision: "pT2a" becomes "T2"; None where it is not known ("NX").

    Args:
        value: as the table has it, with or without the letter.
        letter: "T", "N" or "M".

    Raises:
        UsageError: it is none.
    """
    text = _clean(value)
    if text is None or text.lower().lstrip("cpyra") == f"{letter.lower()}x":
        return None
    text = text.replace(" ", "")
    found = _TNM_FORM.fullmatch(text) or _TNM_FORM.fullmatch(letter + text)
    if found is None or found[1].upper() != letter:
        raise UsageError(f"{letter} {value!r} cannot be read. Write such as {letter}1, {letter}1a or {letter}X.")
    return f"{letter}{found[2].lower()}"


def embed_case_texts(
    encoder: TextEncoder, texts: Sequence[tuple[str | None, ...]], cache_dir: Path | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of the cases' texts: the encoder's own summary of each.

    Args:
        encoder: which.
        texts: K cases of `case_texts`.
        cache_dir: as `embed_texts` has it.

    Returns:
        float32 [K, 4, d], zeros where there is no text, and bool [K, 4], whether there is one.

    Raises:
        SpecError: a text is longer than the encoder takes.
    """
    import torch

    there = sorted({text for case in texts for text in case if text is not None})
    number = {text: index for index, text in enumerate(there)}
    nothing = torch.zeros(1, encoder.dim)
    vectors = torch.cat([embed_texts(encoder, there, cache_dir)[:, 0], nothing])
    index = torch.tensor([[number.get(text or "", len(there)) for text in case] for case in texts], dtype=torch.long)
    index = index.reshape(len(texts), len(TEXT_KINDS))
    return vectors[index], index < len(there)


def _values(facts: CaseFacts, bins: SurvivalBins | None) -> dict[str, str | None]:
    values: dict[str, str | None] = {name: _clean(getattr(facts, name)) for name in ("site", "diagnosis", "grade")}
    values["stage"] = collapse_stage(facts.stage)
    values |= {name: collapse_tnm(getattr(facts, name), name.upper()) for name in ("t", "n", "m")}
    months, died = facts.months, facts.died
    values["survival"] = None
    if bins is not None and died is not None and months is not None and not math.isnan(months):
        values["survival"] = bins.words(months, died=died)
    return values


def _clean(value: str | None) -> str | None:
    """A cell's text; None where it says that nothing is known."""
    text = " ".join(str(value).split()) if value is not None else ""
    return None if text.strip("[]() ").lower() in _UNKNOWN else text
