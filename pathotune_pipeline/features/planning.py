"""The plan of an extraction: what is asked, held against what the store has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from pathotune_pipeline.adapt.create import create_adapted_encoder, find_adapter
from pathotune_pipeline.archive.companions import state_of
from pathotune_pipeline.archive.identity import IdentityCache, Pseudonymiser, key_of, redact
from pathotune_pipeline.archive.manifest import Manifest, SlideItem
from pathotune_pipeline.encoders.card import NO_ADAPTER
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.execution.deadline import NEVER, Deadline
from pathotune_pipeline.features.guidance import Guidance, gather_guidance
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.plan import ExtractSpec, Recipe, SlideJob, make_recipe
from pathotune_pipeline.features.quarantine import Quarantine
from pathotune_pipeline.features.slide_work import outcome_of_record
from pathotune_pipeline.store.store import FeatureStore

REFUSED = "refused by the audit"
"""How the reason begins of a slide that is not even opened."""


@dataclass(slots=True)
class ExtractPlan:
    """What is to be done.

    Attributes:
        recipes: names and fingerprints of what is made, one for each encoder.
        jobs: missing work, largest file first.
        done: outcomes of slides that the store has already, and of those that the audit refused or that are quarantined;
            one for each set.
        cache: content hashes, to be told of new ones.
        quarantine: slides that are not tried, to be told of those that are given up.
        guidance: imported masks and annotations, by slide id.
        removed: by set, ids of slides that it holds and the archive no longer does.
        stale: by set, ids of slides to do of which it holds something already: their file, mask or annotations may have
            changed.
        stopped: why no further work is begun: the store cannot be written.
        until: when no further work is begun.
    """

    recipes: tuple[Recipe, ...]
    jobs: list[SlideJob]
    done: list[Outcome]
    cache: IdentityCache
    quarantine: Quarantine
    items: tuple[SlideItem, ...] = ()
    guidance: dict[str, Guidance] = field(default_factory=dict)
    removed: dict[str, list[str]] = field(default_factory=dict)
    stale: dict[str, set[str]] = field(default_factory=dict)
    stopped: StoreUnwritableError | None = None
    until: Deadline = NEVER

    @property
    def recipe(self) -> Recipe:
        """The first encoder's."""
        return self.recipes[0]


def plan_extract(
    manifest: Manifest,
    spec: ExtractSpec,
    store: FeatureStore,
    *,
    pseudonymiser: Pseudonymiser | None = None,
    only_look: bool = False,
) -> ExtractPlan:
    """Compare what is asked with what the store holds. Lists commits; reads no slide and opens no array.

    Of a slide with several commits in the set (its annotations, its mask or its file changed and came back), the one
    that is asked for becomes the newest, which is what readers take.

    Args:
        manifest: the slides, under their own ids or pseudonyms.
        spec: what to make of them.
        store: where to; made if it is new.
        pseudonymiser: keys the cache of content hashes.
        only_look: write nothing at all.

    Raises:
        UsageError: the store cannot be written, a name is unknown, or an adapter is not one of this encoder.
        CorruptDataError: an adapter's file is damaged.
        WeightsError: the encoder's weights cannot be had.
    """
    if only_look:
        store.check()
    else:
        store.initialise()
        store.clear_abandoned()
    recipes = _recipes(spec)
    cache = IdentityCache(store.identity_file, pseudonymiser)
    for recipe in recipes:
        store.remember(recipe.features_set)
    listed = {recipe.features_set: store.committed(recipe.features_set) for recipe in recipes}
    commits = {name: Counter(key for key, _ in pairs) for name, pairs in listed.items()}
    guidance = gather_guidance(manifest.items, spec.regions, store, cache)
    removed = {
        str(recipe.features_set): _removed(manifest, store, recipe, listed[recipe.features_set]) for recipe in recipes
    }
    plan = ExtractPlan(recipes, [], [], cache, Quarantine(store, cache), manifest.items, guidance, removed)
    for item in manifest.items:
        if item.refused is not None:
            reason = redact(f"{REFUSED}: {item.refused}", item.path, item.slide_id)
            plan.done += [failed(item, recipe, reason) for recipe in recipes]
            continue
        mpp, guided = given_mpp(item, spec), guidance[item.slide_id]
        state, key = state_of(item.path), key_of(item.slide_id)
        identity = cache.of_state(state)
        missing = []
        for recipe in recipes:
            name = recipe.features_set
            prints = recipe.fingerprints(identity, mpp, guided) if identity and not guided.problem else None
            if prints is None or (key, prints.features[:12]) not in listed[name]:
                missing.append(recipe)
                if commits[name][key]:
                    plan.stale.setdefault(str(name), set()).add(item.slide_id)
                continue
            if commits[name][key] > 1 and not only_look:
                store.renew(name, key, prints.features)
            plan.done.append(outcome_of_record(store, recipe, item.slide_id, prints, identity))
        job = SlideJob(
            item, mpp, recipes[0], store.address, threads=1, identity=identity, guidance=guided, state=state
        )  # fmt: skip
        away = {id(recipe): plan.quarantine.reason(job, recipe) for recipe in missing}
        plan.done += [failed(item, recipe, why) for recipe in missing if (why := away[id(recipe)])]
        tried = [recipe for recipe in missing if not away[id(recipe)]]
        if tried:
            plan.jobs.append(replace(job, recipe=tried[0], also=tuple(tried[1:])))
    plan.jobs.sort(key=lambda job: -_size(job.item))
    return plan


def _recipes(spec: ExtractSpec) -> tuple[Recipe, ...]:
    """One for each set. An encoder's weights are read once for all its adapters; two ways to name one set are one."""
    found: dict[str, Recipe] = {}
    base: Encoder | None = None
    for given in {*spec.encoder.adapter} - {NO_ADAPTER}:
        find_adapter(given)  # what is wrong with it is known before gigabytes are loaded
    for each in map(_with_whole_paths, spec.of_each_encoder()):
        if base is None or base.spec.name != each.encoder.name:
            base = create_adapted_encoder(each.encoder.with_values(adapter=()))
        encoder = create_adapted_encoder(each.encoder, base=base)
        recipe = make_recipe(each, encoder.card, encoder.recipe())
        found.setdefault(str(recipe.features_set), recipe)
    return tuple(found.values())


def _with_whole_paths(spec: ExtractSpec) -> ExtractSpec:
    """Workers may run in another folder."""
    whole = [str(Path(given).expanduser().absolute()) for given in spec.encoder.adapter]
    return spec.with_values(encoder={**spec.encoder.model_dump(), "adapter": whole})


def _removed(manifest: Manifest, store: FeatureStore, recipe: Recipe, committed: set[tuple[str, str]]) -> list[str]:
    """Ids of slides that a set holds and the archive no longer does. What a manifest leaves out is still there.

    Of a part of the archive only what would be in that part can be missed.
    """
    present = {key_of(item.slide_id) for item in manifest.items} | {key_of(name) for name, _ in manifest.passed_over}
    gone = {key: short for key, short in committed if key not in present}
    ids = sorted(store.record(recipe.features_set, key, short).slide_id for key, short in gone.items())
    return [slide_id for slide_id in ids if manifest.part is None or manifest.part.holds(slide_id)]


def failed(item: SlideItem, recipe: Recipe, reason: str, *, transient: bool = False) -> Outcome:
    """A slide of which no set came about."""
    return Outcome(
        item.slide_id, "failed", reason=reason, transient=transient, features=str(recipe.features_set)
    )  # fmt: skip


def given_mpp(item: SlideItem, spec: ExtractSpec) -> float | None:
    """The um/px that a user gave for a slide: the manifest's, else the override for all, else none."""
    return item.mpp if item.mpp is not None else spec.slide.mpp_override


def _size(item: SlideItem) -> int:
    try:
        return item.path.stat().st_size
    except OSError:
        return 0
