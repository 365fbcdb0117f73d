"""What adapting costs: a training step and extraction with each method, against the frozen encoder's forward pass.

Networks have random weights; costs do not depend on them. Contenders take turns in one process, warm, one thread on a
CPU, whose own seconds count. `cost` is the median over pairs of a method's time over that of the frozen forward pass on
the same batch. Memory is what a step or a batch takes beyond what lay there before: the process's peak on a CPU (Linux),
the allocator's on a GPU.

- `extract`: tiles/s of an encoder with the adapter. Target: 20 deep prompts on ViT-S/16 at 224 cost at most 1.2.
- `train`: a forward, a backward and an optimiser's step; `share` is the trained part of all parameters, head included.

    python benchmarks/adapt.py [--quick] [--only extract|train] [--network vit_small_patch16_224] [--device cpu] [--pairs 5]
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timing import in_turns, median_ratio, row
from torch import nn

from pathotune_pipeline.adapt.attach import attach
from pathotune_pipeline.adapt.spec import AdapterSpec
from pathotune_pipeline.encoders.card import EncoderCard, EncoderSpec
from pathotune_pipeline.encoders.encoder import Encoder
from pathotune_pipeline.encoders.text import create_text_encoder

BENCH = "adapt"
PARTS = ("extract", "train")
CLASSES = 9
ADAPTERS: dict[str, dict[str, Any]] = {
    "vpt-shallow, 20 prompts": {"method": "vpt-shallow"},
    "vpt-deep, 20 prompts": {"method": "vpt-deep"},
    "pathotune": {"method": "pathotune"},
    "lora attn, rank 16": {"method": "lora", "targets": "attn"},
    "lora all, rank 16": {"method": "lora", "targets": "all"},
}
Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part; both by default")
    parser.add_argument("--network", default="vit_small_patch16_224", help="timm's name of the transformer")
    parser.add_argument("--side", type=int, default=224, help="of an image, px")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="images; 8 on a CPU, 64 on a GPU")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small network, two pairs; some seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.network, arguments.side, arguments.pairs = "vit_tiny_patch16_224", 64, 2
    torch.set_num_threads(1)
    bench = Bench(arguments)
    for part in (arguments.only,) if arguments.only else PARTS:
        {"extract": bench.extract, "train": bench.train}[part]()


class Bench:
    """A frozen network and a batch, and what each method makes of them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(arguments.device)
        self.pairs, self.batch = arguments.pairs, arguments.batch or (8 if self.device.type == "cpu" else 64)
        self.network = timm.create_model(arguments.network, num_classes=0, img_size=arguments.side).eval()
        self.network.requires_grad_(False).to(self.device)
        self.width = int(self.network.num_features)
        self.label = f"{arguments.network} at {arguments.side} px, batch {self.batch}, {self.device.type}"
        self.card = EncoderCard(
            name="bench", source="timm", architecture=arguments.network, dim=self.width, input_px=arguments.side
        )
        self.tiles = torch.randint(0, 256, (self.batch, arguments.side, arguments.side, 3), dtype=torch.uint8)
        self.pixels = torch.randn(self.batch, 3, arguments.side, arguments.side, device=self.device)
        self.labels = torch.randint(0, CLASSES, (self.batch,), device=self.device)

    def adapted(self, settings: Mapping[str, Any]) -> Any:
        spec = AdapterSpec.parse(settings)
        texts = create_text_encoder("hash-ngram", n_tokens=spec.n_text).encode(["H&E-stained colon image"])
        return attach(self.network, spec, texts=texts if spec.needs_texts() else None)

    def encoder(self, network: nn.Module) -> Work:
        spec = EncoderSpec(name="bench", batch_size=self.batch)
        encoder = Encoder(network, self.card, spec, self.device)
        return lambda: self.wait(encoder.encode(self.tiles))

    def extract(self) -> None:
        contenders = {"frozen": self.encoder(self.network)}
        for name, settings in ADAPTERS.items():
            adapted = self.adapted(settings).eval()
            contenders[name] = self.encoder(adapted.for_inference())
            if settings["method"] == "lora":
                contenders[f"{name}, not merged"] = self.encoder(adapted)
        self.tell("extract", contenders, "frozen", {})

    def train(self) -> None:
        contenders: dict[str, Work] = {"frozen forward": self.forward}
        shares: dict[str, float] = {}
        total = sum(parameter.numel() for parameter in self.network.parameters())
        for name, settings in {
            "linear": {},
            **ADAPTERS,
            "vpt-deep, 20 prompts, checkpointed": ADAPTERS["vpt-deep, 20 prompts"],
        }.items():
            network = self.adapted(settings) if settings else self.network
            if "checkpointed" in name:
                network.checkpoint_blocks(enabled=True)
            contenders[name], trained = self.step(network)
            shares[name] = trained / (total + trained)
        contenders["full"], trained = self.step(copy.deepcopy(self.network).requires_grad_(True).train())
        shares["full"] = 1.0
        self.tell("train", contenders, "frozen forward", shares)

    def forward(self) -> None:
        with torch.inference_mode():
            self.wait(self.network(self.pixels))

    def step(self, network: nn.Module) -> tuple[Work, int]:
        """A training step, and how many parameters it moves."""
        head = nn.Linear(self.width, CLASSES).to(self.device)
        moved = [parameter for parameter in (*network.parameters(), *head.parameters()) if parameter.requires_grad]
        optimiser = torch.optim.AdamW(moved, lr=1e-4)

        def work() -> None:
            loss = nn.functional.cross_entropy(head(network(self.pixels)), self.labels)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            self.wait(loss)

        return work, sum(parameter.numel() for parameter in moved)

    def tell(self, part: str, contenders: Mapping[str, Work], against: str, shares: Mapping[str, float]) -> None:
        # A processor's own seconds: what else runs on the machine does not count.
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        taken = in_turns(contenders, self.pairs, clock=clock)
        for name, work in contenders.items():
            cost = median_ratio(taken[name], taken[against])
            more = {"share": shares[name]} if name in shares else {}
            memory = self.peak_mb(work)
            more |= {"memory_mb": memory} if memory is not None else {}
            row(
                BENCH,
                f"{part}: {name}; {self.label}",
                self.batch / statistics.median(taken[name]),
                "images/s",
                cost=cost,
                **more,
            )

    def wait(self, tensor: torch.Tensor) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_mb(self, work: Work) -> float | None:
        """The most memory that a warm run takes beyond what lies there, or None where this system does not tell."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            work()
            return (torch.cuda.max_memory_allocated(self.device) - before) / 1e6
        try:
            ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed and kept would hide what is taken
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        except (OSError, AttributeError):
            return None
        before_mb = _status_mb("VmRSS")
        work()
        return _status_mb("VmHWM") - before_mb


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
