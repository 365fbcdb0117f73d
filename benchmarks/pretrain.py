"""Pretraining with tiles streamed from JPEG slides, against the same steps on tiles that lie in memory.

Both are whole steps of a masked autoencoder: views, forwards, backwards, AdamW. In turns, after one warm-up of each.
On a GPU where there is one, else on the CPU with one thread for the network and one for reading.

    python benchmarks/pretrain.py [--pairs 5] [--steps 40] [--side 224] [--batch 64] [--slide-px 8192]
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import in_turns, median_ratio, row

from pathotune_pipeline.engine.device import cpu_threads, pick_device
from pathotune_pipeline.testing.slides import write_slide
from pathotune_pipeline.tuning.pretrain.run import pretrain
from pathotune_pipeline.tuning.pretrain.sources import Source, Team, open_source
from pathotune_pipeline.tuning.pretrain.spec import MaeSpec, PretrainSpec
from pathotune_pipeline.tuning.pretrain.start import build_objective

BENCH = "pretrain"


class InMemory:
    """The first batches of a source, over and over."""

    def __init__(self, source: Source, size: int, count: int) -> None:
        self._source = source
        with source.batches(size, team=Team()) as batches:
            self._kept = [next(batches).copy() for _ in range(count)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    @contextmanager
    def batches(self, size: int, *, team: Team, start: int = 0) -> Iterator[Iterator[np.ndarray]]:
        yield itertools.cycle(self._kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--slide-px", type=int, default=8192)
    arguments = parser.parse_args()
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as folder, cpu_threads(1 if device.type == "cpu" else torch.get_num_threads()):
        slides = Path(folder) / "slides"
        for seed in range(4):
            write_slide(slides / f"s{seed}.tif", size_px=(arguments.slide_px,) * 2, mpp=0.25, seed=seed)
        spec = PretrainSpec.parse(
            {
                "network": {"input_px": arguments.side},
                "decoder": {"width": 192, "blocks": 2, "heads": 3},
                "data": {"slides": str(slides), "mpps": (0.25, 0.5, 1.0), "readers": 1 if device.type == "cpu" else 8},
                "epochs": 2,
                "warmup_epochs": 0,
                "epoch_images": arguments.steps // 2 * arguments.batch,
                "batch_size": arguments.batch,
                "precision": "fp32" if device.type == "cpu" else "bf16",
                "check_steps": 10**6,
                "log_steps": 10**6,
                "watch_images": 2,
            }
        )
        streamed = open_source(spec.data, input_px=arguments.side, seed=0)
        sources = {"in memory": InMemory(streamed, arguments.batch, 4), "streamed": streamed}
        runs = itertools.count()

        def trained(source: Any) -> Callable[[], object]:
            out = Path(folder) / "runs"
            return lambda: pretrain(
                build_objective(spec, MaeSpec()), source, spec, out / str(next(runs)), device=device
            )

        taken = in_turns({name: trained(source) for name, source in sources.items()}, arguments.pairs)
    images = arguments.steps // 2 * 2 * arguments.batch
    rate = images / min(taken["streamed"])
    row(
        BENCH,
        f"mae {device.type}",
        rate,
        "tiles/s",
        {"of in memory": median_ratio(taken["in memory"], taken["streamed"])},
    )


if __name__ == "__main__":
    main()
