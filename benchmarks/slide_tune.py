"""What a modal adapter costs over the bare slide encoder: seconds and peak memory of a case.

Each row is a process of its own, so that its peak is its own: resident memory on a CPU, what torch has allocated on a GPU.
Weights are random, which changes no cost. A case has tiles, the genes of 331 pathways, and three tasks (`--tasks`).

- `encoder`: the bare slide encoder, one forward pass.
- `embed`: the network's embeddings of a case, without gradients.
- `train`: forward, loss, backward through the frozen layers, and the optimiser's step.

    python benchmarks/slide_tune.py [--tiles 1000 5000 25000] [--dim 1536] [--encoder longnet] [--layers 12]
                                    [--width 768] [--device cpu] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from timing import row

BENCH = "slide_tune"
WORKS = ("encoder", "embed", "train")
PATHWAYS, GENES, MEMBERS = 331, 4987, 60
STRIDE_PX = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1000, 5000, 25_000])
    parser.add_argument("--dim", type=int, default=1536, help="numbers in a tile's features")
    parser.add_argument("--encoder", default="longnet", choices=("longnet", "alibi-vit"))
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tasks", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(measure(arguments)))
        return
    for tiles in arguments.tiles:
        bare: dict[str, float] = {}
        for work in WORKS:
            found = in_a_process(arguments, tiles, work)
            bare = bare or found
            ratios = {name: found[name] / bare[name] for name in ("seconds", "peak_gb")}
            case = f"{arguments.encoder} {arguments.layers} x {arguments.width}, {tiles} x {arguments.dim}, {arguments.device}"
            row(BENCH, f"{case}: {work}", found["seconds"], "s a case", ratios, peak_gb=found["peak_gb"])


def in_a_process(arguments: argparse.Namespace, tiles: int, work: str) -> dict[str, float]:
    """Seconds and peak of one kind of work."""
    words = [sys.executable, __file__, "--work", work, "--tiles", str(tiles)]
    for name in ("dim", "encoder", "layers", "width", "tasks", "device", "repeats"):
        words += [f"--{name}", str(getattr(arguments, name))]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One kind of work in this process: the median of its repeats after a first one, which alone counts without repeats."""
    import torch

    work, device = case_work(arguments), torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    seconds = []
    for _ in range(arguments.repeats + 1):
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if on_gpu else kib * 1024
    return {"seconds": statistics.median(seconds[1:] or seconds), "peak_gb": peak / 1e9}


def case_work(arguments: argparse.Namespace) -> Callable[[], object]:
    """What is to be measured, on a case drawn at random."""
    import torch

    from pathotune_pipeline.adapt.modal import ModalSpec, PathwayTable, attach_modal
    from pathotune_pipeline.adapt.modal.losses import text_loss
    from pathotune_pipeline.slide_encoders import SlideEncoderSpec, create_slide_encoder

    rng, device, tiles = np.random.default_rng(0), torch.device(arguments.device), arguments.tiles[0]
    settings = {"layers": arguments.layers, "dim": arguments.width}
    asked = SlideEncoderSpec.parse({"name": arguments.encoder, "settings": settings})
    encoder = create_slide_encoder(asked, in_dim=arguments.dim).to(device)
    features = torch.from_numpy(rng.standard_normal((tiles, arguments.dim), np.float32)).to(device)
    side = int(np.ceil(np.sqrt(2 * tiles)))
    places = np.sort(rng.permutation(side**2)[:tiles])
    coords = torch.from_numpy(np.stack([places % side, places // side], axis=1) * STRIDE_PX).to(device)
    if arguments.work == "encoder":
        return torch.no_grad()(lambda: encoder(features, coords, STRIDE_PX))
    names = [f"G{number}" for number in range(GENES)]
    own = [names[number::PATHWAYS] for number in range(PATHWAYS)]  # so that each gene is in one
    more = [rng.choice(names, MEMBERS - len(each), replace=False).tolist() for each in own]
    sets = {f"P{number}": [*one, *two] for number, (one, two) in enumerate(zip(own, more, strict=True))}
    pathways = PathwayTable.of_sets(sets)
    spec = ModalSpec(tasks=ModalSpec().tasks[: arguments.tasks])
    network = attach_modal(encoder, spec, pathways=pathways).to(device)
    genes = torch.from_numpy(rng.standard_normal(len(pathways.genes), np.float32)).to(device)
    if arguments.work == "embed":
        network.eval()
        return torch.no_grad()(lambda: network(features, coords, STRIDE_PX, genes=genes))
    trained = [each for each in network.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    targets = torch.nn.functional.normalize(torch.randn(arguments.tasks, spec.out_dim), dim=-1).to(device)

    def step() -> None:
        text_loss(network(features, coords, STRIDE_PX, genes=genes), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()
