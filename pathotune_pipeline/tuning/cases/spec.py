"""Which columns of a case table mean what, and how cases are parted."""

from __future__ import annotations

from pathotune_pipeline.spec import Spec, setting


class CaseSpec(Spec):
    """What a case table's columns mean, and who trains."""

    cohort: str = setting(
        "", "Column of the cohort; empty: cohort, project, study or cancer_type, else all cases are one cohort."
    )
    label: str = setting("", "Column of the class; empty: subtype, diagnosis, class or label, else there is none.")
    time: str = setting("", "Column of the survival time; empty: survival_months, os_months, survival_time or time.")
    event: str = setting(
        "",
        "Column that says whether the event was seen (1) or not (0); one whose name begins with censor is read the other way "
        "round. Empty: event, os_event, vital_status, censorship or censored.",
    )
    clinical: tuple[str, ...] = setting((), "Columns that are given to the network: numbers, or categories.")
    split: str = setting("", "Column that says train, val or test; empty: split or part, else parts are drawn.")
    hold_out: tuple[str, ...] = setting(
        (), "Cohorts that the network never sees; it is judged on them as it is, with their own classifiers."
    )
    test_share: float = setting(0.2, "Share of the cases held out, where parts are drawn.", gt=0, lt=1)
    val_share: float = setting(0.2, "Share of the others that chooses the epoch, where parts are drawn.", gt=0, lt=1)
    split_seed: int = setting(0, "Seed of that draw.", ge=0)
    max_missing_genes: float = setting(
        0.0,
        "Share of the genes that a later gene table may lack; they count as the training's mean. Above it is an error.",
        ge=0,
        le=1,
    )
