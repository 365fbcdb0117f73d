"""SlideTuneSpec: what a case table's columns mean, what is trained, how it is judged."""

from __future__ import annotations

from typing import Literal

from pathotune_pipeline.adapt.modal.spec import ModalSpec
from pathotune_pipeline.adapt.modal.texts import CaseTextSpec
from pathotune_pipeline.engine.spec import TrainSpec
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
    location: str = setting("", "Column of the organ that texts name; empty: location, else the cohort's name.")
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


class CaseTrainSpec(Spec):
    """How the adapter learns."""

    epochs: int = setting(50, "Most passes over the training cases.", ge=1)
    lr: float = setting(1e-4, "Learning rate at its highest.", gt=0)
    weight_decay: float = setting(5e-4, "Decoupled weight decay; vectors get none.", ge=0)
    warmup_epochs: int = setting(10, "Epochs over which the learning rate rises.", ge=0)
    patience: int = setting(10, "Epochs without a better validation before stopping; 0 never stops early.", ge=0)
    accumulate: int = setting(1, "Cases whose gradients make one step.", ge=1)
    grad_clip: float = setting(1.0, "Largest gradient norm; 0 does not clip.", ge=0)
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "Arithmetic of the training: fp32, or bf16 autocast.", flag="--train-precision"
    )
    seed: int = setting(0, "Seed of initial weights, order of cases, tiles and dropout.", ge=0)

    def course(self) -> TrainSpec:
        """The training, as the engine has it."""
        return TrainSpec(**self.model_dump(), decay_vectors=False, optimizer="adamw", schedule="cosine", per_step=True)


class JudgeSpec(Spec):
    """How embeddings are judged."""

    cox_penalty: float = setting(0.1, "Cox: half of it times the squared weights, beside the mean over cases.", gt=0)
    l2: float = setting(
        0.01, "Logistic regression: half of it times the squared weights, beside the mean over cases.", gt=0
    )
    draws: int = setting(1000, "Resamplings of cases for the intervals of scores.", ge=1000)


class SlideTuneSpec(Spec):
    """How a slide encoder is joined by genes and clinical variables, on which cases, and how that is judged."""

    cases: CaseSpec = CaseSpec()
    modal: ModalSpec = ModalSpec()
    texts: CaseTextSpec = CaseTextSpec()
    train: CaseTrainSpec = CaseTrainSpec()
    judge: JudgeSpec = JudgeSpec()
    text_encoder: str = setting(
        "hash-ngram",
        "Reads the texts: hash-ngram (no weights, no meaning), hf:ORG/NAME, hf:FOLDER, conch, or a plug-in's.",
    )
    projector_seed: int = setting(0, "Seed of the frozen projector of the texts.", ge=0)
    max_tiles: int = setting(
        25_000, "Most tiles of a case that are looked at at once; of more, so many are drawn.", ge=1
    )
    min_pathway_genes: int = setting(1, "A pathway with fewer genes in the gene table is left out.", ge=1)
    ablate: bool = setting(False, "Judge each modality alone too, with judges of its own.")
    memory_gb: float = setting(2.0, "Tiles that are kept in memory between epochs, GB.", hashed=False, ge=0)
    device: str = setting("auto", "Where it is computed: auto, cpu, cuda, cuda:1.", hashed=False)


class SlideEvalSpec(Spec):
    """How a finished network is used on other cases."""

    cases: CaseSpec = CaseSpec()
    judge: JudgeSpec = JudgeSpec()
    modalities: tuple[Literal["image", "genes", "clinical"], ...] = setting(
        (), "What of the cases is given to the network: image, genes, clinical; empty: all that is there."
    )
    refit: bool = setting(False, "Fit judges anew for the cohorts of the training too, on the training part here.")
    weights: str | None = setting(None, "File with the slide encoder's weights, where it is another now.", hashed=False)
    device: str = setting("auto", "Where it is computed: auto, cpu, cuda, cuda:1.", hashed=False)
