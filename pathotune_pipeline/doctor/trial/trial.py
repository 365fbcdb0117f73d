"""A trial from the first slide to the verdict. It works in a folder of its own, of which nothing stays."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathotune_pipeline.adapt.create import create_adapted_encoder
from pathotune_pipeline.archive.identity import Pseudonymiser
from pathotune_pipeline.archive.item import Manifest, SlideItem
from pathotune_pipeline.doctor.checks import Wanted, examine
from pathotune_pipeline.doctor.trial import verdicts
from pathotune_pipeline.doctor.trial.choose import choose_slides, look_at, tried_slide
from pathotune_pipeline.doctor.trial.machine import machine_facts
from pathotune_pipeline.doctor.trial.repeat import Agreement, SlideFeatures, compare, read_features, shuffled_batch
from pathotune_pipeline.doctor.trial.result import TrialResult
from pathotune_pipeline.doctor.trial.resume import ResumeFailedError, Undisturbed, kill_and_resume
from pathotune_pipeline.doctor.trial.spec import TrialSpec
from pathotune_pipeline.doctor.trial.speed import BareEncoder, take_turns, tiles_for
from pathotune_pipeline.errors import CorruptDataError, PathotuneError, SpecError
from pathotune_pipeline.execution.executor import usable_cores
from pathotune_pipeline.execution.serial import SerialExecutor
from pathotune_pipeline.features.extract import ExtractResult, extract
from pathotune_pipeline.features.loaded import loaded_encoder
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec, Recipe, make_recipe
from pathotune_pipeline.features.resident import Resident
from pathotune_pipeline.provenance import now
from pathotune_pipeline.reports.report import cannot_write, writable
from pathotune_pipeline.store.gc import delete_rubbish, find_rubbish
from pathotune_pipeline.store.store import FeatureStore

AT_ONCE = 2
"""Slides in hand in the first extraction; in the second each is alone."""
PATIENCE = 20.0
"""A killed run may take so many times as long as the first extraction did,"""
LEAST_PATIENCE_S = 600.0
"""and so long in any case: it loads libraries and weights anew."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Site:
    """What is tried.

    Attributes:
        manifest: the site's slides, under their own names.
        spec: how their features are to be made; of one encoder.
        key: file of the key of pseudonyms under which slides are reported; None for their own names.
    """

    manifest: Manifest
    spec: ExtractSpec
    key: Path | None = None


def run_trial(site: Site, trial: TrialSpec, out: str | Path, *, tell: Tell = lambda _: None) -> TrialResult:
    """Try a site's slides on this machine. What fails is told in the result; the site's own store is not touched.

    Args:
        site: slides and settings.
        trial: how much is tried, and what passes.
        out: folder to work in; made if it is new. The trial's own folder inside it is gone afterwards.
        tell: told what begins.

    Raises:
        UsageError: several encoders, an unknown name, or `out` cannot be written.
        WeightsError: the encoder's weights cannot be had.
    """
    if len(site.spec.of_each_encoder()) > 1:
        raise SpecError("--trial takes one encoder and at most one adapter. Try the others one after another.")
    folder = writable(Path(out))
    result = TrialResult(started=now(), settings=site.spec.recorded(), asked=trial.model_dump(mode="json"))
    tell("the machine")
    result.machine = machine_facts()
    result.checks = [
        replace(check, found=check.found.replace(str(folder.absolute()), "the trial's folder"))
        for check in examine(Wanted(store=folder))
    ]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".trial-") as work:
            _Trial(site, trial, Path(work), result, tell).run()
    except OSError as error:
        if isinstance(error, PathotuneError):
            raise
        raise cannot_write(folder, error) from None
    result.finished = now()
    return result


class _Trial:
    """One trial's steps, in their order; each writes what it found into the result."""

    def __init__(self, site: Site, trial: TrialSpec, work: Path, result: TrialResult, tell: Tell) -> None:
        self.trial, self.work, self.result, self.tell = trial, work, result, tell
        self.key, self.manifest = site.key, site.manifest
        self.pseudonymiser = Pseudonymiser.from_file(site.key) if site.key else None
        (self.spec,) = site.spec.of_each_encoder()
        self.until = time.perf_counter() + 60 * trial.minutes
        self.store = FeatureStore(work / "first")

    def run(self) -> None:
        result = self.result
        result.archive = {"slides": len(self.manifest), "passed_over": len(self.manifest.passed_over)}
        own = choose_slides(self.manifest.items, self.trial.slides)
        shown = list(self._shown(own).items)
        self.tell(f"the audit of {len(own)} of {len(self.manifest)} slides")
        rows = look_at(shown, self.spec.slide)
        result.verdicts += verdicts.of_audit(rows)
        usable = [number for number, row in enumerate(rows) if not row.refusals]
        outcomes: dict[str, Outcome] = {}
        if usable:
            self.own, self.shown = [own[number] for number in usable], [shown[number] for number in usable]
            outcomes = self._features()
        result.slides = [tried_slide(row, outcomes.get(row.item.slide_id)) for row in rows]

    def _shown(self, items: Sequence[SlideItem]) -> Manifest:
        """The slides as they are reported."""
        manifest = Manifest(tuple(replace(item, refused=None) for item in items))
        return manifest.pseudonymised(self.pseudonymiser) if self.pseudonymiser else manifest

    def _features(self) -> dict[str, Outcome]:
        """Everything for which slides are encoded; what became of each in the first extraction."""
        result = self.result
        self.tell(f"the encoder {self.spec.encoder.name}")
        encoder = create_adapted_encoder(self.spec.encoder)
        recipe = make_recipe(self.spec, encoder.card, encoder.recipe())
        resident = loaded_encoder(recipe)
        threads = self.spec.engine.threads or usable_cores()
        bare = BareEncoder(resident, recipe.tile_px, threads=threads)
        self._limit_tiles(len(self.own), bare.tiles_per_s())
        recipe = make_recipe(self.spec, encoder.card, encoder.recipe())
        result.encoder, result.recipe = _encoder_facts(resident, recipe), _recipe_facts(recipe)
        self.tell(f"the first extraction, at most {self.spec.tiles.max_tiles} tiles a slide")
        first, seconds = self._extract(self.store, self.shown, threads=threads)
        outcomes = {outcome.slide_id: outcome for outcome in first.outcomes}
        result.verdicts += verdicts.of_outcomes(first.outcomes)
        made = read_features(self.store, recipe.features_set)
        made = {name: each for name, each in made.items() if len(each.rows)}
        if not made:
            result.verdicts.append(verdicts.NO_TILE)
            return outcomes
        self._time(recipe, bare, made, threads=threads)
        self._repeat(recipe, resident, made, threads=threads)
        self._kill(recipe, resident, made, first_s=seconds)
        return outcomes

    def _limit_tiles(self, slides: int, tiles_per_s: float) -> None:
        affordable = max(1, tiles_for(self.trial.minutes, tiles_per_s, pairs=self.trial.pairs) // slides)
        most = min(self.trial.tiles, affordable, self.spec.tiles.max_tiles or self.trial.tiles)
        self.spec = self.spec.with_values(tiles=self.spec.tiles.with_values(max_tiles=most).model_dump())

    def _extract(
        self, store: FeatureStore, items: Sequence[SlideItem], *, threads: int, at_once: int = AT_ONCE
    ) -> tuple[ExtractResult, float]:
        """Features of slides; seconds from the plan, for which weights are read, to the end."""
        spec = self.spec.with_values(engine=self.spec.engine.with_values(threads=threads).model_dump())
        began = time.perf_counter()

        def on_plan(_: object) -> None:
            nonlocal began
            began = time.perf_counter()

        with SerialExecutor(at_once) as executor:
            done = extract(
                Manifest(tuple(items)), spec, store, executor, pseudonymiser=self.pseudonymiser, on_plan=on_plan
            )
        return done, time.perf_counter() - began

    def _time(self, recipe: Recipe, bare: BareEncoder, made: dict[str, SlideFeatures], *, threads: int) -> None:
        tiles = sum(len(each.rows) for each in made.values())
        items = [item for item in self.shown if item.slide_id in made]
        self.tell(f"speed over {tiles} tiles, in turns with the bare encoder")

        def anew() -> float:
            delete_rubbish(self.store, find_rubbish(self.store, [recipe.tiles_set]))
            return self._extract(self.store, items, threads=threads)[1]

        self.result.speed = take_turns(
            anew, bare, tiles=tiles, threads=threads, pairs=self.trial.pairs, until=self.until
        )
        told = self.result.encoder
        self.result.verdicts.append(
            verdicts.of_speed(self.result.speed, self.trial.least_speed, has_weights=told["weights_sha256"] is not None)
        )
        again = read_features(self.store, recipe.features_set)
        self._agree("the same once more", compare(made, again))

    def _repeat(self, recipe: Recipe, resident: Resident, made: dict[str, SlideFeatures], *, threads: int) -> None:
        other = 1 if threads > 1 else 2
        alone = f"each slide alone, {other} thread{'s' if other > 1 else ''} instead of {threads}"
        self.tell(f"features again: {alone}")
        store = FeatureStore(self.work / "again")
        items = [item for item in self.shown if item.slide_id in made]
        for item in items:
            self._extract(store, [item], threads=other, at_once=1)
        self._agree(alone, compare(made, read_features(store, recipe.features_set)))
        shuffled = shuffled_batch(self.store, recipe.features_set, items[0], resident)
        self._agree("one batch of tiles in another order", shuffled)

    def _agree(self, what: str, found: Agreement) -> None:
        tolerance = None if self.result.encoder["device"] == "cpu" else self.trial.tolerance
        self.result.repeats[what] = found
        self.result.verdicts.append(verdicts.of_agreement(f"features: {what}", found, tolerance))

    def _kill(self, recipe: Recipe, resident: Resident, made: dict[str, SlideFeatures], *, first_s: float) -> None:
        self.tell("a run that is killed, and run again")
        pairs = zip(self.own, self.shown, strict=True)
        items = [own for own, shown in pairs if shown.slide_id in made]
        truth = Undisturbed(items, self.spec, recipe.features_set, made, resident.batch_size, self.key)
        work = self.work / "killed"
        work.mkdir()
        try:
            found = kill_and_resume(truth, work, limit_s=max(LEAST_PATIENCE_S, PATIENCE * first_s))
        except (ResumeFailedError, CorruptDataError) as error:
            self.result.verdicts.append(verdicts.not_resumed(error))
            return
        self.result.resumption = found
        tolerance = None if self.result.encoder["device"] == "cpu" else self.trial.tolerance
        self.result.verdicts.append(verdicts.of_resumption(found, tolerance))


def _encoder_facts(resident: Resident, recipe: Recipe) -> dict[str, Any]:
    card, encoder = recipe.card, resident.encoder
    return {
        "name": recipe.spec.recorded()["encoder"]["name"], "architecture": card.architecture, "dim": card.dim,
        "licence": card.licence, "weights_sha256": card.weights_sha256, "device": resident.device.type,
        "precision": encoder.spec.precision, "batch_size": resident.batch_size,
        "encoded_at_once": resident.encoded_at_once,
    }  # fmt: skip


def _recipe_facts(recipe: Recipe) -> dict[str, Any]:
    return {
        "features": str(recipe.features_set).removeprefix("features-"), "tile_px": recipe.tile_px, "mpp": recipe.mpp,
        "max_tiles": recipe.spec.tiles.max_tiles,
    }  # fmt: skip
