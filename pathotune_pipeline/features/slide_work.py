"""What one recipe makes of one slide: tissue, tiles, features, each committed before the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from pathotune_pipeline.archive.identity import key_of, redact
from pathotune_pipeline.errors import (
    AnnotationError,
    DeviceLostError,
    PathotuneError,
    SlideChangedError,
    SlideError,
    StoreUnwritableError,
)
from pathotune_pipeline.failpoints import failpoint
from pathotune_pipeline.features.held import HeldSlide
from pathotune_pipeline.features.loaded import check_segmenter, loaded_encoder
from pathotune_pipeline.features.masks import rescaled_import
from pathotune_pipeline.features.outcome import Outcome
from pathotune_pipeline.features.persist import grid_facts, load_grid, load_tissue, tissue_arrays, tissue_facts
from pathotune_pipeline.features.plan import Fingerprints, Recipe
from pathotune_pipeline.features.regions import region_arrays, regions_of
from pathotune_pipeline.features.stream import Part, RowWriter, Sink
from pathotune_pipeline.provenance import now, package_versions
from pathotune_pipeline.slides.illumination import illumination_of
from pathotune_pipeline.slides.open import open_checked
from pathotune_pipeline.slides.slide import Slide
from pathotune_pipeline.store.layout import CHUNK_ROWS, SetName
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.store.unwritable import OF_WRITING, unwritable
from pathotune_pipeline.tiles.concentric import concentric
from pathotune_pipeline.tiles.grid import TileGrid, tile_slide
from pathotune_pipeline.tiles.select import select_tiles
from pathotune_pipeline.tiles.stain import Normaliser, fit_slide
from pathotune_pipeline.tissue.mask import TissueMask
from pathotune_pipeline.tissue.quality import flags
from pathotune_pipeline.tissue.segment import find_tissue

FLUORESCENCE = "fluorescence, not brightfield; --allow-fluorescence to tile it anyway"
"""Why a fluorescence slide adds no tiles."""


class SlideWork:
    """What one recipe makes of a slide: what is known so far, and how long each stage took."""

    grid: TileGrid
    prints: Fingerprints
    sink: Sink
    part: Part

    def __init__(self, recipe: Recipe, held: HeldSlide) -> None:
        self.job, self.recipe, self.store = held.job, recipe, held.store
        self.slide_id = self.job.item.slide_id
        self.key = key_of(self.slide_id)
        self.stages: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.stain: Normaliser | None = None
        self.outcome: Outcome | None = None
        self._held = held
        self._cleanup = ExitStack()  # drops what is staged and was not committed

    @property
    def identity(self) -> str | None:
        return self._held.identity

    @property
    def mask(self) -> str | None:
        return self._held.mask

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, unless an outcome is known already; what is wrong becomes the outcome."""
        if self.outcome is None:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - one slide never stops the others; its report says what happened
                self.fail(error)
        if self.outcome is not None:
            self._cleanup.close()

    def fail(self, error: Exception) -> None:
        """Make an error the outcome, if there is none yet.

        Raises:
            DeviceLostError, StoreUnwritableError: it is one, or says that the store is full or read-only.
        """
        if self.outcome is not None:
            return
        self._cleanup.close()
        match error:
            case DeviceLostError():
                raise error  # nothing that this process does from now on can be trusted
            case StoreUnwritableError():
                raise error  # every slide would meet it
            case SlideError():
                self.outcome = self._failed_slide(error)
            case OSError() if error.errno in OF_WRITING:
                raise unwritable(self.store.address, error.errno or 0) from error
            case OSError() | MemoryError():
                self.outcome = self.failed(f"{type(error).__name__}: {error}", transient=True)
            case PathotuneError():
                self.outcome = self.failed(str(error))
            case _:
                self.outcome = self.failed(f"unexpected {type(error).__name__}: {error}")

    def close(self) -> None:
        """Drop what is staged and was not committed."""
        self._cleanup.close()

    # --- outcomes --------------------------------------------------------------------------------------------------

    def failed(self, reason: str, *, transient: bool = False) -> Outcome:
        told = redact(reason, self.job.item.path, self.slide_id)
        return self._outcome("failed", reason=told, transient=transient)

    def _failed_slide(self, error: SlideError) -> Outcome:
        """What is wrong with a slide; where its file has changed meanwhile, that is."""
        try:
            self._held.check_unchanged()
        except SlideChangedError as changed:
            return self.failed(str(changed), transient=True)
        return self.failed(str(error))

    def _outcome(self, status: Any, **more: Any) -> Outcome:
        return Outcome(
            self.slide_id,
            status,
            identity=self.identity,
            facts=self.facts,
            features=str(self.recipe.features_set),
            **more,
        )

    def told(self, seconds: float) -> Outcome:
        """The outcome, with its times."""
        outcome = self.outcome or self.failed("the job ended without an outcome. Run again.")
        stages = {name: round(value, 4) for name, value in self.stages.items()}
        return replace(outcome, seconds=round(seconds, 3), stages=stages)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - began

    # --- the work --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything up to the tiles: identity, tissue, grid, the encoder, and a place in staging."""
        cv2.setNumThreads(1)  # parallelism is across tiles
        if self.job.guidance.problem:
            raise AnnotationError(self.job.guidance.problem)
        failpoint("slide.begun", of=self.slide_id)
        with self._stage("identity_s"):
            identity = self._held.identify()
        pointer = self.job.guidance.mask
        self._held.mask = pointer.for_slide(identity) if pointer else None
        self.prints = prints = self.recipe.fingerprints(identity, self.job.mpp, self.job.guidance)
        if self.store.is_committed(self.recipe.features_set, self.key, prints.features):
            self.store.renew(self.recipe.features_set, self.key, prints.features)
            self.outcome = outcome_of_record(self.store, self.recipe, self.slide_id, prints, self.identity)
            return
        self.grid = self._grid(prints)
        if len(self.grid) == 0:
            self.outcome = self._commit_empty(prints)
            return
        with self._stage("load_encoder_s"):
            resident = loaded_encoder(self.recipe)
        slide, count, dim = self.slide(), len(self.grid), resident.encoder.card.dim
        if self.recipe.spec.tiles.stain != "none" and prints.tiles not in self._held.stains:
            with self._stage("stain_s"):
                self._held.stains[prints.tiles] = fit_slide(slide, self.grid, self.recipe.spec.tiles.stain)
        self.stain = self._held.stains.get(prints.tiles)
        self._staged = self._cleanup.enter_context(
            self.store.stage(self.slide_id, self.key, self.recipe.features_set, prints.features)
        )
        rows = min(count, CHUNK_ROWS)
        self._writer = RowWriter(
            self._staged.create("features", shape=(count, dim), dtype="float16", chunks=(rows, dim))
        )
        self.sink = Sink(resident, self._writer)

    def finish(self) -> None:
        """Commit the features."""
        for error in (self.part.error, self.sink.error):
            if error is not None:
                raise error
        self._tell_stream()
        invalid, count = self._check_invalid(), len(self.grid)
        with self._stage("commit_s"):
            self._staged.expect("features", self._writer.digest())
            self._staged.put("valid", self.part.valid)
            dim = self.sink.resident.encoder.card.dim
            facts: dict[str, Any] = {"tiles": count, "invalid_tiles": invalid, "dim": dim, "reason": ""}
            if self.stain is not None:
                facts["stain"] = self.stain.facts()
            if self.sink.resident.halved:
                facts["encoded_at_once"] = self.sink.resident.encoded_at_once
            self._held.check_unchanged()
            self._staged.commit(*self._record(self.recipe.features_set, self.prints, facts, self.slide()))
        self.outcome = self._outcome("committed", tiles=count, invalid_tiles=invalid)

    def _tell_stream(self) -> None:
        """What the stream cost; reading is shared among the recipes for which it was done."""
        stats, share = self.part.stats, 1 / len(self.part.sinks)
        self.stages |= {
            "read_s": stats.read_s * share,
            "encode_s": self.sink.encode_s,
            "read_wait_s": stats.read_wait_s * share,
            "encode_wait_s": stats.encode_wait_s * share,
        }
        self.facts["bytes_read"] = round(stats.bytes_read * share)
        if self.sink.resident.halved:
            self.facts["encoded_at_once"] = self.sink.resident.encoded_at_once

    def slide(self) -> Slide:
        """The slide, opened when first needed."""
        if self._held.slide is None:
            with self._stage("open_s"):
                self._held.slide = open_checked(self.job.item.path, self.recipe.spec.slide, mpp=self.job.item.mpp)
        if "slide" not in self.facts:
            self.facts["slide"] = self._held.slide.info.as_dict()
        return self._held.slide

    @property
    def _tissue_set(self) -> SetName:
        return self.recipe.tissue_set_of(self.mask)

    def _tissue(self, prints: Fingerprints) -> TissueMask:
        tissue_set = self._tissue_set
        if self.store.is_committed(tissue_set, self.key, prints.tissue):
            return load_tissue(self.store, self.store.record(tissue_set, self.key, prints.tissue))
        slide = self.slide()
        with self._stage("tissue_s"):
            made_by: dict[str, Any]
            if self.mask is not None:  # imported under another mpp than the slide is given now
                mask = rescaled_import(self.store, self.key, self.mask, slide.info)
                facts, made_by = {**tissue_facts(mask), "imported_mask": self.mask}, {}
            else:
                check_segmenter(self.recipe)
                mask = find_tissue(slide, self.recipe.spec.tissue)
                facts = tissue_facts(mask)
                made_by = {
                    "settings": self.recipe.spec.tissue.model_dump(mode="json"),
                    **({"segmenter": self.recipe.segmenter} if self.recipe.segmenter else {}),
                }
        with self._stage("commit_s"):
            attributes = {**facts, "slide": self.facts["slide"], **made_by}
            self._commit(tissue_set, prints.tissue, tissue_arrays(mask), facts, attributes)
        failpoint("tissue.committed")
        return mask

    def _grid(self, prints: Fingerprints) -> TileGrid:
        tiles_set, spec = self.recipe.tiles_set, self.recipe.spec.tiles
        if self.store.is_committed(tiles_set, self.key, prints.tiles):
            return load_grid(self.store, self.store.record(tiles_set, self.key, prints.tiles))
        # Whether the scale can be had is known before any pixel is read.
        self.slide().info.choose_level(self.recipe.mpp)
        mask = self._tissue(prints)
        self.facts["illumination"] = light = illumination_of(mask.thumbnail)
        dark = light == "fluorescence" and not self.recipe.spec.slide.allow_fluorescence
        with self._stage("grid_s"):
            regions = regions_of(mask, self.job.guidance.annotation, self.recipe.spec.regions)
            grid = tile_slide(
                self.slide().info, mask, spec, mpp=spec.centred_on_mpp or self.recipe.mpp, tile_px=self.recipe.tile_px,
                allowed=regions.allowed if regions else None,
            )  # fmt: skip
            if dark:
                grid = replace(grid, coords=grid.coords[:0], tissue_fraction=grid.tissue_fraction[:0])
            grid = select_tiles(self.slide(), grid, spec, content=self.identity or "", threads=self.job.threads)
            if spec.centred_on_mpp is not None:
                (grid,) = concentric(grid, self.slide().info, mask=mask, mpps=[self.recipe.mpp])
            arrays = {"coords": grid.coords, "tissue_fraction": grid.tissue_fraction}
            more, region_facts = region_arrays(regions, grid, self.job.guidance.annotation)
        with self._stage("commit_s"):
            reason = FLUORESCENCE if dark else "" if len(grid.coords) else self._why_empty(mask, grid)
            facts = {"tiles": len(grid.coords), "reason": reason, "illumination": light, "geometry": grid_facts(grid)}
            remarks = flags(mask.quality, self.recipe.spec.quality) if mask.quality else []
            facts |= {**region_facts, "flags": remarks}
            attributes = {**facts, "tissue": self.store.group_of(self._tissue_set, self.key, prints.tissue)}
            arrays |= more
            self._commit(tiles_set, prints.tiles, arrays, facts, attributes)
        failpoint("tiles.committed")
        return grid

    def _why_empty(self, mask: TissueMask, grid: TileGrid) -> str:
        side_um = self.recipe.tile_px * self.recipe.mpp
        width_um, height_um = mask.level0_size.width * mask.level0_mpp.x, mask.level0_size.height * mask.level0_mpp.y
        if min(width_um, height_um) < side_um:
            return f"no tile fits: the slide is {width_um:.0f} x {height_um:.0f} um, a tile {side_um:.0f} um"
        if not mask.mask.any():
            return "no tissue was found"
        if dict(grid.counts)["tissue"]:
            return "no tile passed the filters: " + ", ".join(f"{name} {count}" for name, count in grid.counts)
        needed = f"no tile of {side_um:.0f} um holds {self.recipe.spec.tiles.min_tissue:.0%} tissue"
        annotation = self.job.guidance.annotation
        if annotation is None:
            return needed
        return f"{needed} in the regions asked for" if annotation.path else "it has no annotation file"

    def _check_invalid(self) -> int:
        invalid, total = int((~self.part.valid).sum()), len(self.part.valid)
        if invalid > self.recipe.spec.engine.max_invalid * total:
            raise SlideError(
                f"{invalid} of {total} tiles cannot be read ({self.part.first_problem}). Get a sound copy of the file, or raise "
                "--max-invalid to mark them and go on."
            )
        return invalid

    def _commit_empty(self, prints: Fingerprints) -> Outcome:
        record = self.store.record(self.recipe.tiles_set, self.key, prints.tiles)
        reason, dim = str(record.facts["reason"]), self.recipe.card.dim
        with self.store.stage(self.slide_id, self.key, self.recipe.features_set, prints.features) as staged:
            empty = staged.create("features", shape=(0, dim), dtype="float16", chunks=(1, dim))
            staged.expect("features", RowWriter(empty).digest())
            staged.put("valid", np.zeros(0, dtype=bool))
            facts = {"tiles": 0, "invalid_tiles": 0, "dim": dim, "reason": reason}
            staged.commit(*self._record(self.recipe.features_set, prints, facts, self._held.slide))
        return self._outcome("empty", reason=reason)

    # --- records ---------------------------------------------------------------------------------------------------

    def _commit(
        self,
        set_name: SetName,
        fingerprint: str,
        arrays: dict[str, np.ndarray],
        facts: dict[str, Any],
        attributes: dict[str, Any],
    ) -> None:
        with self.store.stage(self.slide_id, self.key, set_name, fingerprint) as staged:
            for name, data in arrays.items():
                staged.put(name, data)
            self._held.check_unchanged()
            staged.commit(
                {**self._head(set_name, fingerprint), **facts},
                {**self._head(set_name, fingerprint), **attributes},
            )

    def _head(self, set_name: SetName, fingerprint: str) -> dict[str, Any]:
        head: dict[str, Any] = {
            "slide_id": self.slide_id,
            "set": str(set_name),
            "fingerprint": fingerprint,
            "identity": self.identity,
        }
        if self.job.item.case_id:
            head["case_id"] = self.job.item.case_id
        if self.job.item.context and set_name == self.recipe.features_set:
            head["context"] = dict(self.job.item.context)
        return head

    def _record(
        self, set_name: SetName, prints: Fingerprints, facts: dict[str, Any], slide: Slide | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        head = {
            **self._head(set_name, prints.features),
            "tiles_group": self.store.group_of(self.recipe.tiles_set, self.key, prints.tiles),
            "tissue_group": self.store.group_of(self._tissue_set, self.key, prints.tissue),
            "tiles_fingerprint": prints.tiles,
            "tissue_fingerprint": prints.tissue,
            "flags": self.store.record(self.recipe.tiles_set, self.key, prints.tiles).facts.get("flags", []),
            **facts,
        }
        made_with = {
            "encoder": self.recipe.card.model_dump(mode="json"),
            "settings": self.recipe.spec.recorded(),
            "mpp": self.recipe.mpp,
            "tile_px": self.recipe.tile_px,
            "versions": package_versions(),
            "reader": slide.info.reader if slide else None,
            "made": now(),
        }
        return head, {**head, **made_with}


def outcome_of_record(
    store: FeatureStore, recipe: Recipe, slide_id: str, prints: Fingerprints, identity: str | None
) -> Outcome:
    """The outcome of a slide whose features are committed already."""
    facts = store.record(recipe.features_set, key_of(slide_id), prints.features).facts
    return Outcome(
        slide_id,
        "committed" if facts["tiles"] else "empty",
        reason=str(facts["reason"]),
        new=False,
        tiles=int(facts["tiles"]),
        invalid_tiles=int(facts["invalid_tiles"]),
        identity=identity,
        features=str(recipe.features_set),
    )
