"""`pathotune`: verbs, exit codes, and one clear line for what went wrong.

Exit codes: 0 all well; 3 some slides failed, each named with its reason; 4 none failed, and the time of --until was over
before some had their turn; 2 the call was wrong; 1 the unexpected.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from pathotune_pipeline.cli.flags import Parser
from pathotune_pipeline.errors import OutputExistsError, PathotuneError, UsageError, WeightsError
from pathotune_pipeline.version import VERSION

OK, UNEXPECTED, WRONG_CALL, SOME_FAILED, SOME_LEFT, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass(frozen=True, slots=True)
class Verb:
    """One command: its one-line help, and the module with `add_arguments(parser)` and `run(arguments) -> int`."""

    help: str
    module: str


VERBS = {
    "audit": Verb("look at every slide before work begins, and write a manifest", "pathotune_pipeline.cli.audit"),
    "extract": Verb("slides to features in a store", "pathotune_pipeline.cli.extract"),
    "encode-slides": Verb(
        "a feature set to one vector a slide, by a slide encoder", "pathotune_pipeline.cli.encode_slides"
    ),
    "encoders": Verb("published encoders: list, check, bundle for offline use", "pathotune_pipeline.cli.encoders"),
    "adapt": Verb(
        "an encoder to a task, by labelled patches: probe, prompts, LoRA, all weights", "pathotune_pipeline.cli.adapt"
    ),
    "adapt-slides": Verb("an encoder to a task, by labels of whole slides", "pathotune_pipeline.cli.adapt_slides"),
    "merge-lora": Verb(
        "a LoRA adapter into its encoder's weights, as an encoder's folder", "pathotune_pipeline.cli.merge"
    ),
    "slide-tune": Verb(
        "a slide encoder joined with gene expression and clinical variables, case by case",
        "pathotune_pipeline.cli.slide_tune",
    ),
    "slide-eval": Verb("a network of slide-tune on other cases, frozen", "pathotune_pipeline.cli.slide_eval"),
    "tissue": Verb("tissue masks out of a store, and corrected ones back in", "pathotune_pipeline.cli.tissue"),
    "crossval": Verb("train and judge a head by patient-grouped cross-validation", "pathotune_pipeline.cli.crossval"),
    "compare": Verb("whether one model is better than others on the same slides", "pathotune_pipeline.cli.compare"),
    "rank": Verb("models by their average rank over tasks", "pathotune_pipeline.cli.rank"),
    "pretrain": Verb("an encoder from slides and images without labels", "pathotune_pipeline.cli.pretrain"),
    "train": Verb("a model for use: a folder with weights, card and held-out scores", "pathotune_pipeline.cli.train"),
    "evaluate": Verb("a model, or a table of predictions, against labels", "pathotune_pipeline.cli.evaluate"),
    "predict": Verb("slides to a table of predictions, with abstentions", "pathotune_pipeline.cli.predict"),
    "heatmap": Verb("where a model looks: PNG, GeoJSON, pyramidal TIFF, tiles", "pathotune_pipeline.cli.heatmap"),
    "report": Verb("one HTML page of a store and its models", "pathotune_pipeline.cli.report"),
    "view": Verb("slides in a browser: layers, quality flags, reviews", "pathotune_pipeline.cli.view"),
    "export": Verb("features as TRIDENT, CLAM, STAMP, LazySlide or plain tensors", "pathotune_pipeline.cli.export"),
    "import": Verb("features that TRIDENT, CLAM or STAMP made, into a store", "pathotune_pipeline.cli.bring"),
    "status": Verb("what a store holds and how its last runs went", "pathotune_pipeline.cli.status"),
    "review": Verb("accept, reject or comment on slides; rejected ones are left out", "pathotune_pipeline.cli.review"),
    "quarantine": Verb(
        "slides that ended the processes that read them; let them be tried again", "pathotune_pipeline.cli.quarantine"
    ),
    "verify": Verb("whether a store is what its records say", "pathotune_pipeline.cli.verify"),
    "gc": Verb("give a store's room back: sets no longer wanted, leftovers", "pathotune_pipeline.cli.gc"),
    "forget": Verb(
        "everything that was made of a case, and which models learnt from it", "pathotune_pipeline.cli.forget"
    ),
    "info": Verb("facts about slides: vendor, size, levels, mpp", "pathotune_pipeline.cli.info"),
    "doctor": Verb("whether this machine has what is needed", "pathotune_pipeline.cli.doctor"),
    "flow": Verb("the same work as Prefect flows", "pathotune_pipeline.cli.flow"),
    "deploy": Verb("schedules on a Prefect server, as a file says", "pathotune_pipeline.cli.deploy"),
    "serve": Verb("schedules on one workstation", "pathotune_pipeline.cli.serve"),
    "config": Verb("every setting as YAML", "pathotune_pipeline.cli.settings"),
    "pseudonyms": Verb("the pseudonyms of an archive's slides, for label tables", "pathotune_pipeline.cli.pseudonyms"),
    "study": Verb("methods held against each other: data, domains, a fixed protocol", "pathotune_pipeline.cli.study"),
    "demo": Verb("synthetic slides to a report, in minutes", "pathotune_pipeline.cli.demo"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UsageError as error:
        return _say(str(error), WRONG_CALL)
    except (WeightsError, OutputExistsError) as error:
        return _say(str(error), WRONG_CALL)
    except PathotuneError as error:
        return _say(str(error), UNEXPECTED)
    except KeyboardInterrupt:
        return _say("interrupted. What is committed stays; the same command goes on from there.", INTERRUPTED)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - what is left to print has no reader
        return OK


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return OK if arguments else WRONG_CALL
    if arguments[0] in ("-V", "--version"):
        print(f"pathotune {VERSION}")
        return OK
    name = arguments[0]
    if name not in VERBS:
        _unknown(name)
    parsed = verb_parser(name).parse_args(arguments[1:])
    return int(import_module(VERBS[name].module).run(parsed))


def verb_parser(name: str) -> Parser:
    """The parser of a command of VERBS, with all its flags; nothing is run."""
    module = import_module(VERBS[name].module)
    parser = Parser(prog=f"pathotune {name}", description=module.__doc__)
    module.add_arguments(parser)
    return parser


def _unknown(name: str) -> NoReturn:
    from pathotune_pipeline.registry import nearest

    raise UsageError(f"there is no command {name!r}.{nearest(name, VERBS)} Commands: {', '.join(VERBS)}.")


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"pathotune: {' '.join(message.split())}\n")
    return code


def overview() -> str:
    """The page that `pathotune --help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: pathotune COMMAND [options]\n\n"
        "From an archive of whole-slide images to trained slide-level models.\n\n"
        f"commands:\n{verbs}\n\n"
        "example:\n"
        "  pathotune extract  --slides archive/ --store store/ --encoder stain-texture --mpp 0.5\n"
        "  pathotune crossval --store store/ --features stain-texture --labels labels.csv --target class \\\n"
        "                     --head abmil --out model/\n"
        "  pathotune report   --store store/ --model model/ --out report/\n"
        "  pathotune predict  --model model/ --slides new-slides/ --out predictions.csv\n\n"
        "Each command has --help with an example. Exit codes: 0 all well; 3 some slides failed; 4 some were left, as time "
        "was over; 2 the call was wrong; 1 the unexpected."
    )
