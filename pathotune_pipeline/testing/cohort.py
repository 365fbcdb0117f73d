"""A synthetic cohort with known causes: survival by one pathway alone, subtype by the image alone, and cells missing.

    python -m pathotune_pipeline.testing.cohort --out cohort/ --cases 240 --cohorts 2

Features lie straight in a store, as if a small encoder had made them: no slides are drawn. What causes what:

- a pathway's latent activity moves all of its genes; the activity of one pathway decides the hazard, and of no other;
- the tiles of subtype B hold a share of tiles that subtype A's lack; nothing else in the image says anything;
- stage, age and cohort have no effect on survival or subtype.

Cells, gene rows and slides are missing at random.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathotune_pipeline.archive.identity import key_of
from pathotune_pipeline.features.persist import grid_facts, tissue_arrays, tissue_facts
from pathotune_pipeline.geometry import Mpp, Size
from pathotune_pipeline.provenance import fingerprint, short
from pathotune_pipeline.spec import Spec, setting
from pathotune_pipeline.store.layout import SetName
from pathotune_pipeline.store.store import FeatureStore
from pathotune_pipeline.store.write import checksum
from pathotune_pipeline.tiles.grid import TileGrid
from pathotune_pipeline.tissue.mask import TissueMask

FEATURES = "planted"
"""The feature set's name."""
_TILE_PX, _MPP, _MASK_MPP = 256, 0.5, 16.0
_SIDE_TILES = 16
_REVISION = 1
_HOSPITALS = 6
_COHORTS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
_TWO_SLIDES, _NO_SLIDES, _NO_GENES = 0.2, 0.04, 0.08
"""Chances of a second slide, and of what may be missing."""
_MISSING = {"age": 0.08, "stage": 0.12, "n": 0.1, "m": 0.12, "event": 0.04}


class CohortSpec(Spec):
    """What a synthetic cohort holds."""

    cases: int = setting(240, "Cases, over all cohorts.", ge=12)
    cohorts: int = setting(2, "Cohorts, named alpha, beta, ...; all are made the same way.", ge=1, le=8)
    dim: int = setting(32, "Numbers in a tile's features.", ge=4)
    tiles: tuple[int, int] = setting((24, 64), "Fewest and most tiles of a slide.")
    pathways: int = setting(12, "Pathways.", ge=2)
    genes: int = setting(12, "Genes of each pathway.", ge=2)
    effect: float = setting(2.0, "Log hazard ratio of a standard deviation of the planted pathway's activity.", ge=0)
    image_share: float = setting(0.25, "Share of subtype B's tiles that look different.", ge=0, le=1)
    image_effect: float = setting(
        6.0, "How different they look: length of their shift; a feature's deviation is 1.", ge=0
    )
    censored: float = setting(0.35, "Share of the cases that is censored, about.", ge=0, lt=1)
    missing: bool = setting(True, "Whether cells, gene rows and slides are missing: 4 to 12 % of them.")
    seed: int = setting(0, "Decides everything that is drawn.", ge=0)


@dataclass(frozen=True, slots=True)
class DrawnCase:
    """One case.

    Attributes:
        case_id: the patient.
        cohort: its cohort.
        subtype: A or B.
        slides: slide id -> features float16 [N, dim], and coords int64 [N, 2].
        fields: further cells of its row in the table.
    """

    case_id: str
    cohort: str
    subtype: str
    slides: dict[str, tuple[np.ndarray, np.ndarray]]
    fields: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class DrawnCohort:
    """What was drawn.

    Attributes:
        spec: what it was drawn from.
        cases: all of them.
        expression: case id -> float64 [pathways x genes]; cases whose row is missing are absent.
        sets: pathway -> its genes.
        planted: the pathway that decides survival.
        activity: case id -> its activity; the log hazard is `effect` times that.
    """

    spec: CohortSpec
    cases: tuple[DrawnCase, ...]
    expression: dict[str, np.ndarray]
    sets: dict[str, list[str]]
    planted: str
    activity: dict[str, float]


@dataclass(frozen=True, slots=True)
class CohortFiles:
    """Where a cohort lies.

    Attributes:
        store: with the feature set `FEATURES`; None where it was not written.
        cases: table, a row a slide.
        genes: table, cases by genes, CSV.
        pathways: GMT.
    """

    store: Path | None
    cases: Path
    genes: Path
    pathways: Path


def draw_cohort(spec: CohortSpec | None = None) -> DrawnCohort:
    """Draw a cohort; the same spec gives the same numbers."""
    spec = spec or CohortSpec()
    rng = np.random.default_rng([spec.seed, 0xC0480])
    names = [f"PATHWAY_{number:02d}" for number in range(spec.pathways)]
    sets = {name: [f"G{at:02d}_{gene:02d}" for gene in range(spec.genes)] for at, name in enumerate(names)}
    planted = names[int(rng.integers(spec.pathways))]
    activity = rng.standard_normal((spec.cases, spec.pathways))
    log_hazard = activity[:, names.index(planted)]
    cases = tuple(_draw_cases(spec, rng, log_hazard))
    expression = _draw_expression(spec, rng, activity)
    kept = rng.random(spec.cases) >= (_NO_GENES if spec.missing else 0.0)
    ids = [case.case_id for case in cases]
    return DrawnCohort(
        spec,
        cases,
        {case: row for case, row, there in zip(ids, expression, kept, strict=True) if there},
        sets,
        planted,
        dict(zip(ids, log_hazard.tolist(), strict=True)),
    )


def write_cohort(cohort: DrawnCohort, out: Path, *, store: bool = True) -> CohortFiles:
    """Write a cohort into a folder: store/, cases.csv, genes.csv, pathways.gmt, truth.json.

    Args:
        cohort: what to write.
        out: folder, made where it is absent.
        store: whether the store is wanted.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = CohortFiles(out / "store" if store else None, out / "cases.csv", out / "genes.csv", out / "pathways.gmt")
    if files.store is not None:
        opened = FeatureStore(files.store)
        opened.initialise()
        for case in cohort.cases:
            for slide, made in case.slides.items():
                _commit(opened, slide, case, made)
        opened.close_staging()
    columns = ["case_id", "slide_id", "cohort", "subtype", *cohort.cases[0].fields]
    _write(files.cases, columns, _case_rows(cohort.cases))
    genes = [gene for own in cohort.sets.values() for gene in own]
    rows = ([case, *(f"{value:.4f}" for value in row.tolist())] for case, row in cohort.expression.items())
    _write(files.genes, ["case_id", *genes], rows)
    lines = ("\t".join([name, "synthetic", *own]) + "\n" for name, own in cohort.sets.items())
    files.pathways.write_text("".join(lines), encoding="utf-8")
    told = {"planted": cohort.planted, "activity": cohort.activity, "spec": cohort.spec.model_dump(mode="json")}
    (out / "truth.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return files


def _draw_cases(spec: CohortSpec, rng: np.random.Generator, log_hazard: np.ndarray) -> list[DrawnCase]:
    months = rng.exponential(24.0, spec.cases) * np.exp(-spec.effect * log_hazard)
    # Administrative censoring at a uniform time; its span makes about the wanted share of the cases censored.
    spans = np.geomspace(0.5, 5000.0, 200)
    uniform = rng.random(spec.cases)
    shares = np.array([(uniform * span < months).mean() for span in spans])
    last = uniform * spans[int(np.abs(shares - spec.censored).argmin())]
    events = months <= last
    times = np.minimum(months, last)
    direction = rng.standard_normal(spec.dim)
    direction /= np.linalg.norm(direction)
    found = []
    for place in range(spec.cases):
        name = f"P{place:04d}"
        fields = {
            "site": f"H{int(rng.integers(_HOSPITALS)):02d}",
            "age": str(int(rng.integers(35, 86))),
            "sex": str(rng.choice(["female", "male"])),
            "stage": str(rng.choice(["I", "IIA", "IIB", "III", "IV"])),
            "t": f"T{int(rng.integers(1, 5))}",
            "n": f"N{int(rng.integers(0, 3))}",
            "m": f"M{int(rng.integers(0, 2))}",
            "survival_months": f"{times[place]:.4f}",
            "event": str(int(events[place])),
        }
        ids = [f"{name}-S{number}" for number in range(1 + int(rng.random() < _TWO_SLIDES))]
        if spec.missing:
            fields |= {column: "" for column, chance in _MISSING.items() if rng.random() < chance}
            ids = [] if rng.random() < _NO_SLIDES else ids
        subtype = "B" if rng.random() < 0.5 else "A"
        slides = {slide: _draw_tiles(spec, rng, direction if subtype == "B" else 0 * direction) for slide in ids}
        found.append(DrawnCase(name, _COHORTS[place % spec.cohorts], subtype, slides, fields))
    return found


def _draw_tiles(spec: CohortSpec, rng: np.random.Generator, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features float16 [N, dim], some of them shifted, and coords int64 [N, 2]."""
    count = int(rng.integers(spec.tiles[0], spec.tiles[1] + 1))
    places = np.sort(rng.permutation(_SIDE_TILES**2)[:count])
    features = rng.standard_normal((count, spec.dim)) + 0.3 * rng.standard_normal(spec.dim)
    features[rng.random(count) < spec.image_share] += spec.image_effect * shift
    coords = np.stack([places % _SIDE_TILES, places // _SIDE_TILES], axis=1) * _TILE_PX
    return features.astype(np.float16), coords.astype(np.int64)


def _draw_expression(spec: CohortSpec, rng: np.random.Generator, activity: np.ndarray) -> np.ndarray:
    """float64 [cases, pathways x genes]: each gene follows its pathway's activity, up or down, with noise."""
    count = spec.pathways * spec.genes
    base = rng.uniform(2, 10, count)
    loading = rng.choice([-1.0, 1.0], count) * rng.uniform(0.6, 1.2, count)
    noise = 0.5 * rng.standard_normal((spec.cases, count))
    return np.asarray(base + loading * np.repeat(activity, spec.genes, axis=1) + noise)


def _case_rows(cases: Sequence[DrawnCase]) -> Iterable[list[str]]:
    for case in cases:
        for slide in case.slides or ("",):
            yield [case.case_id, slide, case.cohort, case.subtype, *case.fields.values()]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _commit(store: FeatureStore, slide: str, case: DrawnCase, made: tuple[np.ndarray, np.ndarray]) -> None:
    """Tissue and tiles in one group, as an import has them, and features."""
    features, coords = made
    key = key_of(slide)
    side = _SIDE_TILES * _TILE_PX
    pixels = round(side * _MPP / _MASK_MPP)
    mask = np.zeros((pixels, pixels), bool)
    step = round(_TILE_PX * _MPP / _MASK_MPP)
    picture = np.full((pixels, pixels, 3), 245, np.uint8)
    for x, y in (coords // _TILE_PX).tolist():
        mask[y * step : (y + 1) * step, x * step : (x + 1) * step] = True
    picture[mask] = (224, 160, 200)
    tissue = TissueMask(mask, _MASK_MPP, _MASK_MPP, Mpp.square(_MPP), Size(side, side), picture)
    extent = (float(_TILE_PX), float(_TILE_PX))
    grid = TileGrid(
        coords, np.ones(len(coords), np.float32), _TILE_PX, _MPP, level=0, shrink=1.0, extent_level0=extent,
        stride_level0=extent, read_size_px=(_TILE_PX, _TILE_PX), enlargement=0.0,
    )  # fmt: skip
    recipe = {"synthetic": "cohort"}
    sets = {
        "tiles": SetName("tiles", "256px-0.5mpp", short(fingerprint("tiles", _REVISION, recipe))),
        "features": SetName("features", f"{FEATURES}-256px-0.5mpp", short(fingerprint("features", _REVISION, recipe))),
    }
    told = {"slide": slide, "coords": checksum(coords)}
    prints = {"tiles": fingerprint("tiles", _REVISION, told)}
    prints["features"] = fingerprint("features", _REVISION, {**told, "features": checksum(features)})

    def head(stage: str) -> dict[str, Any]:
        group = f"{key}/{sets[stage].group(short(prints[stage]))}"
        return {
            "slide_id": slide,
            "case_id": case.case_id,
            "set": str(sets[stage]),
            "fingerprint": prints[stage],
            "group": group,
        }

    facts = {"tiles": len(coords), "reason": "", "flags": [], "geometry": grid_facts(grid), **tissue_facts(tissue)}
    with store.stage(slide, key, sets["tiles"], prints["tiles"]) as staged:
        arrays = {"coords": coords, "tissue_fraction": grid.tissue_fraction, **tissue_arrays(tissue)}
        for name, data in arrays.items():
            staged.put(name, data)
        staged.commit({**head("tiles"), **facts}, {**head("tiles"), **facts})
    group = head("tiles")["group"]
    parents = {
        "tiles_group": group,
        "tissue_group": group,
        "tiles_fingerprint": prints["tiles"],
        "tissue_fingerprint": prints["tiles"],
    }
    counts = {"tiles": len(coords), "invalid_tiles": 0, "dim": features.shape[1], "reason": "", "flags": []}
    encoder = {"encoder": {"name": FEATURES, "source": "synthetic", "dim": features.shape[1]}, "mpp": _MPP}
    with store.stage(slide, key, sets["features"], prints["features"]) as staged:
        staged.put("features", features)
        staged.put("valid", np.ones(len(coords), bool))
        record = {**head("features"), **parents, **counts}
        staged.commit(record, {**record, **encoder, "tile_px": _TILE_PX, "reader": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a cohort from the command line."""
    spec = CohortSpec()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to draw into")
    for name in ("cases", "cohorts", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(spec, name), metavar="N")
    arguments = parser.parse_args(argv)
    spec = CohortSpec(cases=arguments.cases, cohorts=arguments.cohorts, seed=arguments.seed)
    write_cohort(draw_cohort(spec), arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
