"""PuzzleTuning against a masked autoencoder from one base at equal steps, and distillation of two teachers, on real tiles.

- `puzzle`: prompts on the frozen base (explicit mode); `mae`: the whole base trained on; the same images, crops and steps.
- `distill`: a new student learns from the base, from another encoder and from its own average.
- `rankme`: of all encoders, on the same watched images.
- `patches`: linear probe and k-NN on the nine tissues of `crc01`, Camelyon patches and mitotic figures (`pathotune study`).
- `regions`: features of `crc01` and ABMIL on its regions.

Rows of JSON, and WORK/pretraining_runs.md with curves and tables. Kill it whenever you like: the same command goes on, a
run from its last checkpoint, scores cell by cell. `--minutes` measures each method's rate once and keeps the steps that
come of it in WORK/plan.json; puzzle and mae get the steps for which the slower one has time.

    python benchmarks/pretraining_runs.py --base FOLDER --work DIR (--minutes 15 | --steps N) [--teacher stain-texture]
        [--only puzzle ...] [--threads 1] [--data ../shared/data]

With 15 minutes a run about 75 minutes on one core: 40 of training, 15 of patches, 20 of regions (estimated).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from pretraining_scores import Encoders, judge_patches, judge_rankme, judge_regions
from pretraining_tables import write_page

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.encoders.create import create_encoder
from pathotune_pipeline.engine.device import cpu_threads
from pathotune_pipeline.provenance import canonical_json
from pathotune_pipeline.store.files import parse_json, replace_file, to_json
from pathotune_pipeline.tuning.pretrain.network import build_trunk, write_encoder
from pathotune_pipeline.tuning.pretrain.spec import DistillSpec, MaeSpec, PretrainSpec, PuzzleSpec
from pathotune_pipeline.tuning.pretrain.start import start
from pathotune_pipeline.tuning.studies.file import merged

RUNS = ("puzzle", "mae", "distill")
PAIR = ("puzzle", "mae")
PARTS = (*RUNS, "rankme", "patches", "regions")
CHECKS = 10
"""Checkpoints and lines of checks.csv in a run."""
RECIPE = Path(__file__).resolve().parents[1] / "configs" / "recipes" / "pretrain-small.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of a trained encoder (pathotune pretrain mae)")
    parser.add_argument("--teacher", default="stain-texture", help="the second teacher, as --encoder names it")
    parser.add_argument("--work", type=Path, required=True, help="runs, scores and tables; kept for the next time")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of each run, as fast as this machine is at first")
    length.add_argument("--steps", type=int, help="of each run")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="all of them by default")
    parser.add_argument("--threads", type=int, default=1, help="of the network; one more reads slides")
    parser.add_argument("--batch", type=int, help="images a step, instead of the file's")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="few images and tiles in the scores: to see that it runs")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    runs = Runs(given)
    with cpu_threads(given.threads):
        for name in RUNS:
            if name in given.only:
                runs.train(name)
        encoders = runs.encoders()
        if "rankme" in given.only:
            judge_rankme(encoders, runs.spec("mae", 1), given.work)
        if "patches" in given.only:
            judge_patches(encoders, runs.settings, data=given.data, work=given.work, quick=given.quick)
        if "regions" in given.only:
            judge_regions(encoders, data=given.data, work=given.work, quick=given.quick)
    write_page(given.work, runs.plan())


class Runs:
    """The runs: what they are told, how long they are, and what came of them."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.work, self.base = given.work, given.base.resolve()
        self.settings = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
        if given.batch:
            self.settings["pretrain"]["batch_size"] = given.batch
        recipe = yaml.safe_load(RECIPE.read_text())["pretrain"]
        recipe["data"] |= {
            "images": [str(given.data / "mitosis")],
            "slides": str(given.data / "slides"),
            "manifest": str(RECIPE.with_name("pretrain-small-slides.csv")),
        }
        self._common = merged(recipe, self.settings["pretrain"])
        self._teachers = [f"local:{self.base}", given.teacher]
        asked = {
            "minutes": given.minutes,
            "steps": given.steps,
            "base": create_encoder(EncoderSpec(name=f"local:{self.base}")).recipe(),
            "teacher": given.teacher,
            "settings": self.settings,
        }
        self._asked: dict[str, Any] = json.loads(canonical_json(asked))
        self._given = given

    def method(self, name: str) -> PuzzleSpec | MaeSpec | DistillSpec:
        """A method's settings."""
        own = dict(self.settings[name])
        if name == "puzzle":
            return PuzzleSpec.parse(own)
        if name == "mae":
            return MaeSpec.parse(own)
        own.pop("crop_min")
        return DistillSpec.parse({**own, "teachers": self._teachers})

    def spec(self, name: str, per_epoch: int, **changes: Any) -> PretrainSpec:
        """The settings of a run of so many steps an epoch."""
        own = merged(self._common, {"epoch_images": per_epoch * self._common["batch_size"], "device": "cpu", **changes})
        if name in PAIR:
            own["network"] = {"base": f"local:{self.base}"}
        else:
            own["views"] = own["views"] | {"crop_min": self.settings["distill"]["crop_min"]}
        return PretrainSpec.parse(own)

    def plan(self) -> dict[str, Any]:
        """How many steps each run has; measured and kept at the first call with --minutes."""
        place = self.work / "plan.json"
        found = parse_json(place.read_bytes()) if place.exists() else None
        if found is None:
            rates: dict[str, float] = {}
            wanted = dict.fromkeys(RUNS, float(self._given.steps or 0))
            if self._given.minutes:
                rates = {name: self._measure(name) for name in RUNS}
                both = dict.fromkeys(PAIR, min(rates[name] for name in PAIR))
                seconds = 60 * self._given.minutes
                wanted = {name: rate * seconds / self._common["batch_size"] for name, rate in {**rates, **both}.items()}
            epochs = self._common["epochs"]
            steps = {name: max(1, int(count // epochs)) * epochs for name, count in wanted.items()}
            found = {"asked": self._asked, "steps": steps, "images_per_s": rates}
            replace_file(place, to_json(found))
        wrong = sorted(name for name in self._asked if self._asked[name] != found["asked"].get(name))
        if wrong:
            raise SystemExit(
                f"{self.work}: was begun with another {', '.join(wrong)}. Give what it was, or another --work."
            )
        return found

    def train(self, name: str) -> None:
        """Train to the end, from where it stands."""
        out = self.work / name
        if done(out, name):
            return
        steps = self.plan()["steps"][name]
        spec = self.spec(
            name, steps // self._common["epochs"], log_steps=max(1, steps // 50), check_steps=max(1, steps // CHECKS)
        )

        def tell(row: dict[str, Any]) -> None:
            left_min = (steps - row["step"]) * spec.batch_size / row["images_per_s"] / 60
            say(f"{name}: step {row['step']} of {steps}, {row['images_per_s']:.0f} images/s, {left_min:.1f} min left")

        start(name, spec, self.method(name), out, on_row=tell)

    def encoders(self) -> Encoders:
        """What there is to be judged, by name: settings as under `encoder`."""
        untrained = self.work / "untrained"
        if not untrained.exists():
            spec = self.spec("distill", 1)
            write_encoder(
                build_trunk(spec.network, spec.seed), untrained, {"note": "the student before its first step"}
            )
        base = {"name": f"local:{self.base}", "batch_size": 128}
        found = {"base": base}
        if prompts := done(self.work / "puzzle", "puzzle"):
            found["base + puzzle prompts"] = {**base, "adapter": [str(prompts.resolve())]}
        if folder := done(self.work / "mae", "mae"):
            found["base + MAE"] = {**base, "name": f"local:{folder.resolve()}"}
        found["student untrained"] = {**base, "name": f"local:{untrained.resolve()}"}
        if folder := done(self.work / "distill", "distill"):
            found["student distilled"] = {**base, "name": f"local:{folder.resolve()}"}
        return {**found, self._given.teacher: {"name": self._given.teacher, "batch_size": 128}}

    def _measure(self, name: str) -> float:
        """Images a second of a few steps."""
        rates: list[float] = []
        spec = self.spec(name, 5, epochs=2, warmup_epochs=0, log_steps=5, check_steps=10**6, watch_images=2)
        with tempfile.TemporaryDirectory() as folder:
            start(
                name, spec, self.method(name), Path(folder) / name, on_row=lambda row: rates.append(row["images_per_s"])
            )
        say(f"{name}: {rates[-1]:.1f} images/s")
        return rates[-1]


def done(out: Path, name: str) -> Path | None:
    """What a run has left, where it came to its end."""
    found = out / (f"{out.name}-prompts.safetensors" if name == "puzzle" else f"{out.name}-encoder")
    return found if found.exists() else None


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
