"""From files to what a network is given: tables read, joined, parted and scaled on the training cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathotune_pipeline.adapt.modal.pathways import PathwayTable, read_pathways
from pathotune_pipeline.engine.device import pick_device
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.slide_encoders import SlideEncoderSpec, create_slide_encoder
from pathotune_pipeline.store.store import open_store
from pathotune_pipeline.tuning.cases.genes import GeneTable, read_genes
from pathotune_pipeline.tuning.cases.material import CaseMaterial
from pathotune_pipeline.tuning.cases.parts import CaseParts, part_cases
from pathotune_pipeline.tuning.cases.scale import ClinicalScale, GeneScale, gene_rows
from pathotune_pipeline.tuning.cases.slides import CaseSlides
from pathotune_pipeline.tuning.cases.spec import SlideTuneSpec
from pathotune_pipeline.tuning.cases.table import CaseTable, read_cases
from pathotune_pipeline.tuning.cases.tune import Inputs


@dataclass(frozen=True, slots=True)
class CaseSource:
    """Where cases are.

    Attributes:
        cases: case tables.
        store: with features of their slides; None where slides have no part in it.
        features: name of the feature set, or the beginning of one; None likewise.
        genes: tables of expression; empty where that has no part in it.
        pathways: gene sets; None takes those that the network knows, or is an error where it is trained.
    """

    cases: tuple[Path, ...]
    store: Path | str | None = None
    features: str | None = None
    genes: tuple[Path, ...] = ()
    pathways: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OpenCases:
    """What was read.

    Attributes:
        table: cases of which anything is known.
        parts: of them.
        material: of them.
        inputs: what a network for them is made of.
        slides: of them; None where slides have no part in it.
        notes: what a reader of results should know.
    """

    table: CaseTable
    parts: CaseParts
    material: CaseMaterial
    inputs: Inputs
    slides: CaseSlides | None
    notes: tuple[str, ...]


def open_cases(source: CaseSource, encoder: SlideEncoderSpec, spec: SlideTuneSpec) -> OpenCases:
    """Read everything for a training.

    Args:
        source: where it lies.
        encoder: the slide encoder; not made where the source has no store.
        spec: columns, parts, pathways.

    Raises:
        UsageError: tables, store and settings do not go together.
        WeightsError: the slide encoder's weights are absent.
    """
    check_source(source)
    table = read_cases(source.cases, spec.cases)
    slides, notes = open_slides(source, table, memory_gb=spec.memory_gb)
    genes = read_genes(source.genes, table.ids) if source.genes else None
    if slides is None and genes is None and not spec.cases.clinical:
        raise UsageError("There is nothing to learn from: give --store and --features, --genes, or --clinical columns.")
    table, left_out = _known(table, slides, genes, with_clinical=bool(spec.cases.clinical))
    parts = part_cases(table, spec.cases)
    train = [case for case in table.cases if case.case_id in set(parts.train)]
    scale, pathways = _pathways(source, genes, parts.train, spec)
    clinical = ClinicalScale.fit(train, spec.cases.clinical)
    network = None
    if slides is not None:
        network = create_slide_encoder(encoder, in_dim=slides.dim)
    inputs = Inputs(network, None if network is None else network.card.recipe(), pathways, scale, clinical)
    material = CaseMaterial(
        {case.case_id: case for case in table.cases},
        slides,
        gene_rows(genes, pathways.genes) if genes is not None and pathways is not None else {},
        {case.case_id: clinical.values(case) for case in table.cases} if clinical.fields else {},
        spec.max_tiles,
        pick_device(spec.device),
    )
    told = [*table.notes, *notes, *(genes.notes if genes is not None else ()), *left_out]
    if scale is not None and scale.constant:
        told.append(f"{scale.constant} genes do not vary among the training cases and are left out.")
    if network is not None and network.card.note:
        told.append(f"Slide encoder {network.name}: {network.card.note}.")
    if network is None:
        told.append("No slides: a network of genes and clinical variables alone.")
    return OpenCases(table, parts, material, inputs, slides, tuple(told))


def check_source(source: CaseSource) -> None:
    """Make sure that what was given goes together.

    Raises:
        UsageError: a store without a set, or genes without pathways, or the reverse.
    """
    if (source.store is None) != (source.features is None):
        given, wanted = ("--store", "--features") if source.features is None else ("--features", "--store")
        raise UsageError(
            f"{given} was given without {wanted}. Give both, or neither for genes and clinical variables alone."
        )
    if source.pathways is not None and not source.genes:
        raise UsageError("--pathways was given without --genes. Give the table of expression too.")


def open_slides(source: CaseSource, table: CaseTable, *, memory_gb: float) -> tuple[CaseSlides | None, tuple[str, ...]]:
    """The cases' slides in the store, and notes; None without a store.

    Raises:
        UsageError: there is no such store or set, or no case has a slide there.
    """
    if source.store is None or source.features is None:
        return None, ()
    store = open_store(source.store)
    slides = CaseSlides(store, store.find_set(source.features), table, memory_gb=memory_gb)
    return slides, tuple(slides.notes)


def _known(
    table: CaseTable, slides: CaseSlides | None, genes: GeneTable | None, *, with_clinical: bool
) -> tuple[CaseTable, list[str]]:
    """Cases of which a slide or expression is there; clinical fields alone count where nothing else was given."""
    if with_clinical and slides is None and genes is None:
        return table, []
    sequenced = set(genes.cases) if genes is not None else set()
    kept = [case for case in table.ids if case in sequenced or (slides is not None and case in slides)]
    if not kept:
        raise ManifestError(f"{table.name}: none of its {len(table)} cases has a slide in the store or a row of genes.")
    dropped = len(table) - len(kept)
    return table.only(kept), [f"{dropped} cases have neither slides nor genes and stay out."] if dropped else []


def _pathways(
    source: CaseSource, genes: GeneTable | None, train: Sequence[str], spec: SlideTuneSpec
) -> tuple[GeneScale | None, PathwayTable | None]:
    if genes is None:
        return None, None
    if source.pathways is None:
        raise UsageError(
            "--genes was given without --pathways. Give gene sets: a .gmt file, or a matrix or lists as .csv."
        )
    scale = GeneScale.fit(genes, train)
    return scale, read_pathways(source.pathways).restricted_to(scale.genes, min_genes=spec.min_pathway_genes)
