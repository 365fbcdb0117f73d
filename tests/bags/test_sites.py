from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from pathotune_pipeline.bags.sites import site_folds, tcga_sites
from pathotune_pipeline.bags.splits import Fold
from pathotune_pipeline.errors import ManifestError

Cohort = tuple[dict[str, str], dict[str, str], dict[str, str]]


def cohort(counts: list[tuple[int, int]]) -> Cohort:
    """Labels, patients and sites; of each site so many patients of class a and b, every third with two slides."""
    labels, groups, sites = {}, {}, {}
    for site, pair in enumerate(counts):
        for label, count in zip("ab", pair, strict=True):
            for p in range(count):
                for slide in range(2 if p % 3 == 0 else 1):
                    bag = f"{site:02d}{label}{p}-{slide}"
                    labels[bag], groups[bag], sites[bag] = label, bag[:-2], f"site{site:02d}"
    return labels, groups, sites


def cut(data: Cohort, folds: int = 3, seed: int = 0, val_share: float = 0.2) -> list[Fold]:
    return site_folds(*data, folds=folds, seed=seed, val_share=val_share)


def shares(folds: list[Fold], data: Cohort) -> np.ndarray:
    """Of each test part, its share of the patients of each class, [K, 2]."""
    labels, groups, _ = data
    of = [Counter(label for _, label in {(groups[bag], labels[bag]) for bag in fold.test}) for fold in folds]
    counts = np.array([[each["a"], each["b"]] for each in of], np.float64)
    return counts / counts.sum(axis=0)


def test_sites_stay_whole_and_every_slide_is_tested_once():
    rng = np.random.default_rng(0)
    data = cohort([tuple(pair) for pair in rng.integers(1, 12, (25, 2)).tolist()])
    labels, _, sites = data
    folds = cut(data, 5)
    assert sorted(bag for fold in folds for bag in fold.test) == sorted(labels)
    for fold in folds:
        seen = [{sites[bag] for bag in part} for part in fold.parts().values()]
        assert all(seen)
        assert sum(map(len, seen)) == 25
        val = sum(labels[bag] == "a" for bag in fold.val) / sum(labels[b] == "a" for b in (*fold.val, *fold.train))
        assert 0.1 < val < 0.3
    assert np.abs(shares(folds, data) - 0.2).max() < 0.04


def test_the_same_input_gives_the_same_folds_in_any_order():
    labels, groups, sites = data = cohort([(4, 2), (3, 3), (1, 6), (5, 1), (2, 2), (3, 4)])
    backwards = (dict(reversed(labels.items())), groups, sites)
    assert cut(data, seed=4) == cut(backwards, seed=4)


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_the_best_of_all_ways(seed):
    """Of small cohorts every way to share out the sites can be tried."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 8, (7, 2))
    data = cohort([tuple(pair) for pair in counts.tolist()])
    table = np.concatenate([counts / counts.sum(axis=0), counts.sum(axis=1, keepdims=True) / counts.sum()], axis=1)
    ways = (np.array(way) for way in product(range(3), repeat=7) if len(set(way)) == 3)
    least = min(sum(((table[way == k].sum(axis=0) - 1 / 3) ** 2).sum() for k in range(3)) for way in ways)
    found = shares(cut(data), data)
    sites = data[2]
    sizes = np.array([sum(counts[int(site[-2:])].sum() for site in {sites[b] for b in f.test}) for f in cut(data)])
    cost = ((found - 1 / 3) ** 2).sum() + ((sizes / counts.sum() - 1 / 3) ** 2).sum()
    assert cost == pytest.approx(least, abs=1e-12)


def test_the_fewest_sites_that_do():
    for fold in cut(cohort([(2, 2), (2, 2), (2, 2)]), folds=3):
        assert fold.train
        assert fold.val
        assert fold.test


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([(3, 3), (3, 3), (3, 3)], "4 folds by site.*there are 3 sites .site00, site01, site02.*3 folds or fewer"),
        ([(3, 3), (3, 3)], "there are 2 sites.*split by patient, or add sites"),
        ([(3, 0), (3, 0), (3, 0), (3, 3)], "Class 'b' comes from one site alone .'site03'"),
    ],
)
def test_too_few_sites_say_what_was_found(counts, message):
    with pytest.raises(ManifestError, match=message):
        cut(cohort(counts), folds=4)


def test_a_patient_of_two_sites_or_none_is_refused():
    labels, groups, sites = cohort([(3, 3)] * 4)
    with pytest.raises(ManifestError, match="Patient '00a0' has slides of two sites, 'site00' and 'else'"):
        cut((labels, groups, {**sites, "00a0-1": "else"}))
    with pytest.raises(ManifestError, match="1 patients have no site, '00a1'"):
        cut((labels, groups, {**sites, "00a1-0": ""}))


def test_the_site_of_a_tcga_barcode():
    groups = {"x.svs": "TCGA-2F-A9KO", "d%2FTCGA-4Z-AA7M-01Z-00-DX1.1.svs": "somebody"}
    assert tcga_sites(groups) == {"x.svs": "2F", "d%2FTCGA-4Z-AA7M-01Z-00-DX1.1.svs": "4Z"}
    with pytest.raises(ManifestError, match=r"neither patient 'p' nor slide 'y\.svs' bears a TCGA barcode"):
        tcga_sites({**groups, "y.svs": "p"})
