"""Training gated ABMIL (1,024 to 512, attention 256) on bags of log-normal sizes: us against the usual loop.

The usual loop: one uncompressed float32 h5 file a slide, a DataLoader with one worker, one bag a step, plain layers,
Adam, the loss fetched each step. Ours: a flat float16 cache and `fit_many`. Same model, epochs, precision and machine,
in turns. Rates are held against a large matrix product at the same precision, measured in the same turns; 3.67 MFLOP
a tile, forwards and backwards. On a GPU where there is one, else on the CPU.

    python benchmarks/mil.py [--quick] [--pairs 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from timing import in_turns, median_ratio, row, seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pathotune_pipeline.bags.bag import Bag
from pathotune_pipeline.bags.placement import PlacedBags
from pathotune_pipeline.engine.device import cpu_threads, pick_device
from pathotune_pipeline.heads import FitJob, HeadFitSpec, fit_head, fit_many, predict
from pathotune_pipeline.heads.moments import feature_scale

BENCH = "mil"
DIM, HIDDEN, WIDTH = 1024, 512, 256
FLOP_A_TILE = 2 * (3 * HIDDEN * 2 * WIDTH + 2 * DIM * HIDDEN)
"""Products forwards, by weights, and by inputs where those are learnt."""
CLASSES = ("no", "yes")
TRAIN = {"lr": 1e-4, "weight_decay": 1e-5, "patience": 0, "min_epochs": 0}


@dataclass(frozen=True)
class Cohort:
    """The same bags twice: in one flat file, and in an h5 file each."""

    bags: list[Bag]
    h5: list[Path]

    @property
    def tiles(self) -> int:
        return sum(len(bag) for bag in self.bags)

    def part(self, places: range) -> Cohort:
        return Cohort([self.bags[i] for i in places], [self.h5[i] for i in places])


def write_cohort(folder: Path, sizes: np.ndarray, *, shift: float, seed: int) -> Cohort:
    """Noise about an offset; in every other bag a twentieth of the tiles is shifted."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    flat = np.memmap(folder / "features.bin", np.float16, mode="w+", shape=(int(sizes.sum()), DIM))
    starts = np.cumsum([0, *sizes])
    paths = []
    for i, (start, end) in enumerate(pairwise(starts)):
        values = rng.standard_normal((end - start, DIM), dtype=np.float32) + 0.5
        values[: max(1, (end - start) // 20), :32] += shift * (i % 2)
        flat[start:end] = values
        paths.append(folder / f"{i}.h5")
        with h5py.File(paths[-1], "w") as file:
            file["features"] = flat[start:end].astype(np.float32)
    flat.flush()
    mapped = np.memmap(folder / "features.bin", np.float16, mode="c", shape=flat.shape)
    bags = [
        Bag(mapped[a:b], np.zeros((b - a, 2), np.int64), f"b{i}", f"p{i}", CLASSES[i % 2])
        for i, (a, b) in enumerate(pairwise(starts))
    ]
    return Cohort(bags, paths)


class H5Bags(Dataset[tuple[Tensor, int]]):
    def __init__(self, cohort: Cohort) -> None:
        self.paths = cohort.h5
        self.labels = [CLASSES.index(str(bag.target)) for bag in cohort.bags]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with h5py.File(self.paths[index], "r") as file:
            return torch.from_numpy(file["features"][:]), self.labels[index]


class PlainABMIL(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.ReLU())
        self.v, self.u, self.w = nn.Linear(HIDDEN, WIDTH), nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, 1)
        self.classifier = nn.Linear(HIDDEN, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        a = self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))).mT.softmax(dim=1)
        return self.classifier(a @ h)


def usual_loop(cohort: Cohort, device: torch.device, *, precision: str, epochs: int = 1, seed: int = 0) -> PlainABMIL:
    torch.manual_seed(seed)
    model = PlainABMIL().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=TRAIN["lr"], weight_decay=TRAIN["weight_decay"])
    loader = DataLoader(H5Bags(cohort), batch_size=None, shuffle=True, num_workers=1, pin_memory=device.type == "cuda")
    total = 0.0
    for _ in range(epochs):
        for x, y in loader:
            lower = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
            with lower:
                loss = nn.functional.cross_entropy(model(x.to(device)), torch.tensor([y], device=device))
            total += loss.item()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def spec_of(device: torch.device, *, precision: str, epochs: int = 1, seed: int = 0) -> HeadFitSpec:
    return HeadFitSpec(
        head="abmil",
        settings={"hidden": HIDDEN, "attention_dim": WIDTH},
        train={**TRAIN, "precision": precision, "epochs": epochs, "seed": seed},
        device=str(device),
    )


def ours(cohort: Cohort, device: torch.device, *, precision: str, jobs: int = 1) -> list[float]:
    """Seconds of each epoch; 15 jobs are five folds and three seeds of 80 % each."""
    n = len(cohort.bags)
    if jobs == 1:
        todo = [FitJob(spec_of(device, precision=precision), range(n), classes=CLASSES)]
    else:
        todo = [
            FitJob(
                spec_of(device, precision=precision, seed=number),
                [i for i in range(n) if i % 5 != number % 5],
                classes=CLASSES,
            )
            for number in range(jobs)
        ]
    took: list[float] = []
    for outcome in fit_many(cohort.bags, todo, on_epoch=lambda _, record: took.append(record.seconds)):
        outcome.head()
    return [max(took)]


def product(device: torch.device, precision: str) -> Callable[[], object]:
    side = 16384 if device.type == "cuda" else 2048
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))

    def work() -> None:
        a @ b.mT  # as layers have their weights; on a CPU the other way may be far slower in bf16
        if device.type == "cuda":
            torch.cuda.synchronize()

    work.flop = 2 * side**3  # type: ignore[attr-defined]
    return work


def training(cohort: Cohort, device: torch.device, precision: str, pairs: int) -> None:
    epochs: list[float] = []

    def one_epoch() -> None:
        epochs.extend(ours(cohort, device, precision=precision))

    multiply = product(device, precision)
    taken = in_turns(
        {
            "usual loop": lambda: usual_loop(cohort, device, precision=precision),
            "ours": one_epoch,
            "product": multiply,
        },
        pairs,
    )
    taken["ours"] = epochs[-pairs:]
    flop = FLOP_A_TILE * cohort.tiles
    rate = multiply.flop / statistics.median(taken["product"])  # type: ignore[attr-defined]
    for name in ("usual loop", "ours"):
        spent = statistics.median(taken[name])
        ratios = {"of the product's rate": flop / spent / rate}
        if name == "ours":
            ratios["usual loop"] = median_ratio(taken["usual loop"], taken["ours"])
        row(BENCH, f"{device.type} {precision}: {name}", cohort.tiles / spent, "tiles/s", ratios)
    row(BENCH, f"{device.type} {precision}: large product", rate / 1e9, "GFLOP/s")
    many, spent = 15, []
    spent = ours(cohort, device, precision=precision, jobs=many)
    tiles = sum(len(bag) for n in range(many) for i, bag in enumerate(cohort.bags) if i % 5 != n % 5)
    ratios = {"of the product's rate": FLOP_A_TILE * tiles / spent[0] / rate}
    row(BENCH, f"{device.type} {precision}: {many} models at once", tiles / spent[0], "tiles/s", ratios)


def data_path(cohort: Cohort, pairs: int) -> None:
    """Every bag once, in a shuffled order, into one buffer; all files lie in the system's cache."""
    order = np.random.default_rng(0).permutation(len(cohort.bags)).tolist()
    placed = PlacedBags(cohort.bags, torch.device("cpu"))
    assert placed.tier == "disk"
    longest = max(len(bag) for bag in cohort.bags)
    half, full = (np.empty((longest, DIM), kind) for kind in (np.float16, np.float32))

    def mapped() -> None:
        for i in order:
            half[: len(cohort.bags[i])] = cohort.bags[i].features

    def walked() -> None:
        for _, one in placed.walk(order):
            half[: len(one.features)] = one.features.numpy()

    def loaded() -> None:
        for x, _ in DataLoader(H5Bags(cohort), batch_size=None, shuffle=True, num_workers=1):
            full[: len(x)] = x.numpy()

    taken = in_turns({"memory map": mapped, "our walk": walked, "h5 loader": loaded}, pairs)
    for name, times in taken.items():
        ratios = {}
        if name == "our walk":
            ratios = {other: median_ratio(taken[other], times) for other in ("memory map", "h5 loader")}
        row(BENCH, f"data path: {name}", cohort.tiles / statistics.median(times), "tiles/s", ratios)
    with cpu_threads(1):  # as fit_many does
        took = seconds(lambda: feature_scale(cohort.bags))
    row(BENCH, "scale of all features, once a training", cohort.tiles / took, "tiles/s")


def metrics(cohort: Cohort, device: torch.device, seeds: int, epochs: int) -> None:
    """AUROC on bags that neither saw, over seeds."""
    cut = 2 * len(cohort.bags) // 3
    train, test = cohort.part(range(cut)), cohort.part(range(cut, len(cohort.bags)))
    truth = np.array([CLASSES.index(str(bag.target)) for bag in test.bags])
    found: dict[str, list[float]] = {"usual loop": [], "ours": []}
    for seed in range(seeds):
        model = usual_loop(train, device, precision="fp32", epochs=epochs, seed=seed).eval()
        said = [float(logit) for logit in _answers(model, test, device)]
        found["usual loop"].append(float(roc_auc_score(truth, said)))
        spec = spec_of(device, precision="fp32", epochs=epochs, seed=seed)
        head = fit_head(train.bags, [], classes=CLASSES, spec=spec)
        found["ours"].append(float(roc_auc_score(truth, predict(head, test.bags).probs[:, 1])))
    noise = max(statistics.stdev(values) for values in found.values())
    gap = statistics.mean(found["ours"]) - statistics.mean(found["usual loop"])
    for name, values in found.items():
        row(BENCH, f"AUROC, {seeds} seeds, {epochs} epochs: {name}", statistics.mean(values), "AUROC")
    row(BENCH, "AUROC: ours minus usual loop", gap, "AUROC", {"deviation over seeds": noise})


@torch.no_grad()
def _answers(model: PlainABMIL, cohort: Cohort, device: torch.device) -> Iterator[Tensor]:
    for x, _ in DataLoader(H5Bags(cohort), batch_size=None):
        logits = model(x.to(device))[0]
        yield logits[1] - logits[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter bags; under 3 minutes")
    parser.add_argument("--pairs", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, mean, pairs = (10, 2500, 3) if arguments.quick else (40, 5000, 5)
    pairs = arguments.pairs or pairs
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(np.log(mean) - 0.32, 0.8, count), 200, 40_000).astype(int)
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        cohort = write_cohort(Path(folder) / "large", sizes, shift=1.0, seed=1)
        row(BENCH, "bags", len(cohort.bags), "bags", {"tiles": cohort.tiles, "longest": int(sizes.max())})
        data_path(cohort, pairs)
        for precision in ("fp32", "bf16"):
            training(cohort, device, precision, pairs)
        small = write_cohort(Path(folder) / "small", np.full(60, 200 if arguments.quick else 600), shift=0.5, seed=2)
        metrics(small, device, *((3, 4) if arguments.quick else (5, 8)))


if __name__ == "__main__":
    main()
