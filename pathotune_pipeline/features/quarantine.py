"""Slides that end the worker processes that read them are not tried for ever.

Within a run the executor gives a slide up after some deaths (`execution.dask`). Nights may be bad for other reasons, so the next
run tries it once more; given up in `RUNS` runs, it stays away until its file or what decides its features changes, or until
somebody releases it (`pathotune quarantine`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

from pathotune_pipeline.archive.identity import IdentityCache, key_of
from pathotune_pipeline.errors import StoreUnwritableError
from pathotune_pipeline.execution.dask import DEADLY
from pathotune_pipeline.features.guidance import Guidance
from pathotune_pipeline.features.plan import Recipe, SlideJob
from pathotune_pipeline.provenance import canonical_json
from pathotune_pipeline.store.deaths import Death, add_death, read_deaths
from pathotune_pipeline.store.store import FeatureStore

RUNS = 2
"""Runs in which a slide may be given up before it is no longer tried."""
UNTIL = (
    "It is tried again when its file or the settings of its features change, or after `pathotune quarantine --release`."
)


class Quarantine:
    """What the store knows of deaths, for one plan."""

    def __init__(self, store: FeatureStore, cache: IdentityCache) -> None:
        self._store, self._cache = store, cache
        self._known = read_deaths(store)

    def reason(self, job: SlideJob, recipe: Recipe) -> str | None:
        """Why a slide is not tried for a recipe; None where it is."""
        own = self._of(job, recipe)
        if len(own) < RUNS:
            return None
        return f"{DEADLY} in each of {len(own)} runs, last on {own[-1].at.partition('T')[0]}, and it was not tried. {UNTIL}"

    def enter(self, job: SlideJob, recipes: Sequence[Recipe]) -> str:
        """Keep that a slide was given up in this run; what becomes of it, in a sentence."""
        deaths = [Death(job.item.slide_id, str(recipe.features_set), self._trial(job, recipe)) for recipe in recipes]
        with contextlib.suppress(StoreUnwritableError):  # then the run stops for that, and the next one tries again
            for death in deaths:
                add_death(self._store, key_of(job.item.slide_id), death)
        if len(self._of(job, recipes[0])) + 1 < RUNS:
            return "The next run tries it once more."
        return f"No further run tries it. {UNTIL}"

    def _of(self, job: SlideJob, recipe: Recipe) -> list[Death]:
        own = self._known.get(key_of(job.item.slide_id))
        if not own:
            return []
        trial = self._trial(job, recipe)
        return [death for death in own if death.trial == trial]

    def _trial(self, job: SlideJob, recipe: Recipe) -> str:
        """Of the file's state, and of all that decides what is made of it."""
        state = self._cache.name_of(job.state) if job.state is not None else ""
        told = [str(recipe.features_set), state, job.mpp, *_guided(job.guidance)]
        return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:32]


def quarantined(store: FeatureStore) -> dict[str, list[Death]]:
    """Slides under which processes died since they were last released, by id: the last trial's deaths of each."""
    found = {}
    for own in read_deaths(store).values():
        last = own[-1]
        found[last.slide_id] = [death for death in own if (death.trial, death.features) == (last.trial, last.features)]
    return dict(sorted(found.items()))


def _guided(guidance: Guidance) -> list[str]:
    mask, annotation = guidance.mask, guidance.annotation
    return [mask.mask if mask else "", annotation.digest if annotation else ""]
