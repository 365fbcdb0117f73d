"""Site-preserved folds: whole sites on one side, so that a site's stain or scanner cannot stand in for the class.

After Howard et al. 2021 (Nature Communications 12:4423), who showed that models read the site from the image and so
score too well where a site is on both sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pathotune_pipeline.bags.splits import Fold, check_disjoint, check_learnable, patient_labels
from pathotune_pipeline.errors import ManifestError

TCGA = "tcga"
"""What stands for the tissue source site in a TCGA barcode, where a column's name is asked for."""
_BARCODE = re.compile(r"(?:^|[/ ])TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}")
_RESTARTS = 24


def tcga_sites(groups: Mapping[str, str]) -> dict[str, str]:
    """The tissue source site of each slide: what follows `TCGA-` in its patient's barcode, else in its own.

    Args:
        groups: slide id -> patient.

    Raises:
        ManifestError: a slide has no barcode.
    """
    found = {}
    for slide, patient in groups.items():
        match = _BARCODE.search(patient) or _BARCODE.search(slide.replace("%2F", "/").replace("%20", " "))
        if match is None:
            raise ManifestError(
                f"--site {TCGA}: neither patient {patient!r} nor slide {slide!r} bears a TCGA barcode, such as "
                "TCGA-2F-A9KO. Name the label table's column that holds the site."
            )
        found[slide] = match[1]
    return found


def site_folds(
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    sites: Mapping[str, str],
    *,
    folds: int,
    seed: int,
    val_share: float,
) -> list[Fold]:
    """Cut bags into folds by site, with the classes as even as the sites allow.

    The test parts share out the sites; of the others, whole sites validate. Each time the squared deviations of the
    parts' shares of each class from what they should be, counted in patients, are made small by a search that begins
    anew from several seeded orders of the sites.

    Args:
        labels: bag id -> class.
        groups: bag id -> patient.
        sites: bag id -> site.
        folds: how many; every bag is in exactly one test part.
        seed: of the search.
        val_share: share of the non-test patients that validates.

    Raises:
        ManifestError: a bag has no site, a patient has two, or there are too few sites.
    """
    owner = _patient_sites(labels, groups, sites)
    names = sorted(set(owner.values()))
    if len(names) < max(folds, 3):
        raise ManifestError(
            f"{folds} folds by site were asked for, and there are {len(names)} sites ({', '.join(names)}). Each fold "
            f"tests one and trains and validates on others: {_advice(len(names))}"
        )
    strata = patient_labels(labels, groups)
    _check_spread(strata, owner)
    made = []
    tested = _share_out(names, owner, strata, targets=[1 / folds] * folds, seed=(seed,))
    for index in range(folds):
        rest = [site for site in names if tested[site] != index]
        part_of = _share_out(rest, owner, strata, targets=[1 - val_share, val_share], seed=(seed, index))
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for bag in sorted(labels):
            site = owner[groups[bag]]
            parts["test" if tested[site] == index else ("train", "val")[part_of[site]]].append(bag)
        fold = Fold(index, **{part: tuple(bags) for part, bags in parts.items()})
        if not fold.test:
            raise ManifestError(f"Fold {index} would test no site. Ask for fewer folds than {folds}.")
        check_disjoint(fold.parts(), groups)
        check_learnable(fold, labels)
        made.append(fold)
    return made


def _patient_sites(labels: Mapping[str, str], groups: Mapping[str, str], sites: Mapping[str, str]) -> dict[str, str]:
    homeless = sorted({groups[bag] for bag in labels if not sites.get(bag)})
    if homeless:
        raise ManifestError(
            f"{len(homeless)} patients have no site, {homeless[0]!r} for one. Fill the column in, or leave them out."
        )
    found: dict[str, str] = {}
    for bag in sorted(labels):
        before = found.setdefault(groups[bag], sites[bag])
        if before != sites[bag]:
            raise ManifestError(
                f"Patient {groups[bag]!r} has slides of two sites, {before!r} and {sites[bag]!r}, and so would be on two "
                "sides. Give the patient one site."
            )
    return found


def _check_spread(strata: Mapping[str, str], owner: Mapping[str, str]) -> None:
    where: dict[str, set[str]] = defaultdict(set)
    for patient, stratum in strata.items():
        where[stratum].add(owner[patient])
    for stratum, found in sorted(where.items()):
        if len(found) < 2:
            raise ManifestError(
                f"Class {stratum!r} comes from one site alone ({next(iter(found))!r}): where that is tested, nothing of the "
                "class is left to train with. Leave the class out, or split by patient."
            )


def _advice(sites: int) -> str:
    return f"ask for {sites} folds or fewer." if sites >= 3 else "split by patient, or add sites."


def _share_out(
    names: Sequence[str],
    owner: Mapping[str, str],
    strata: Mapping[str, str],
    *,
    targets: Sequence[float],
    seed: Iterable[int],
) -> dict[str, int]:
    """Put each site into one of B bins, so that each bin has about its target's share of every class.

    Returns:
        Site -> number of its bin; none is empty while there are as many sites as bins.
    """
    rng = np.random.default_rng([*seed, 0x517E])
    shares = _shares(names, owner, strata)
    best, least = np.zeros(len(names), np.int64), np.inf
    largest_first = np.argsort(-shares[:, -1], kind="stable")
    for order in (largest_first, *(rng.permutation(len(names)) for _ in range(_RESTARTS))):
        bins, cost = _search(shares, np.asarray(targets, np.float64), order)
        if cost < least - 1e-12:
            best, least = bins, cost
    return dict(zip(names, best.tolist(), strict=True))


def _shares(names: Sequence[str], owner: Mapping[str, str], strata: Mapping[str, str]) -> np.ndarray:
    """Each site's share of the patients of every class and of all patients, [S, C + 1] float64."""
    rows, columns = ({name: at for at, name in enumerate(each)} for each in (names, sorted(set(strata.values()))))
    counts = np.zeros((len(names), len(columns) + 1))
    for patient, site in owner.items():
        if site in rows:
            counts[rows[site], [columns[strata[patient]], -1]] += 1
    return counts / np.maximum(counts.sum(axis=0), 1)


def _search(shares: np.ndarray, targets: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, float]:
    """Each site in that order into the bin that lacks it most, then moves and exchanges while they help.

    With D [B, C] what the bins hold above their targets, to move a row v from f to g changes the sum of D² by
    2 v (D_g - D_f) + 2 v²; to exchange v in f with w in g is to move v - w.
    """
    sites, count = len(shares), len(targets)
    bins = np.full(sites, -1)
    above = np.repeat(-targets[:, None], shares.shape[1], axis=1)
    for site in order.tolist():
        bins[site] = int((above @ shares[site]).argmin())
        above[bins[site]] += shares[site]
    while True:
        cross, own = shares @ above.T, (shares**2).sum(axis=1)
        here = cross[np.arange(sites), bins]
        move = 2 * (cross - here[:, None]) + 2 * own[:, None]  # [S, B]
        lonely = np.bincount(bins, minlength=count)[bins] == 1
        move[lonely] = np.inf  # no bin is left empty
        move[np.arange(sites), bins] = np.inf
        empty = np.bincount(bins, minlength=count) == 0
        apart = own[:, None] + own[None, :] - 2 * shares @ shares.T
        swap = 2 * (cross[:, bins] - here[:, None] + cross[:, bins].T - here[None, :]) + 2 * apart  # [S, S]
        swap[bins[:, None] == bins[None, :]] = np.inf
        if empty.any() and np.isfinite(move[:, empty]).any():
            move[:, ~empty] = np.inf  # filled first, at whatever cost
        elif min(move.min(), swap.min()) >= -1e-12:
            return bins, float((above**2).sum())
        if empty.any() or move.min() <= swap.min():
            site, to = np.unravel_index(int(move.argmin()), move.shape)
            changes = [(int(site), int(to))]
        else:
            site, other = np.unravel_index(int(swap.argmin()), swap.shape)
            changes = [(int(site), int(bins[other])), (int(other), int(bins[site]))]
        for each, into in changes:
            above[bins[each]] -= shares[each]
            above[into] += shares[each]
            bins[each] = into
