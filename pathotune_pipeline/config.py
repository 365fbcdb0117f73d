"""Settings from defaults, a YAML file, `--set key=value` and flags, later ones over earlier ones; one tree for all.

The tree's sections are the Specs that stand beside the code they steer. `configs/default.yaml` is written from them.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.spec import Spec, load_yaml

HEADER = """\
# Every setting of pathotune, with its default. Give a file like this with --config; name only what differs.
# Flags go over --set, --set over the file, the file over these defaults.
# (not hashed) marks settings that do not change results: features made with other values of them stay valid.
"""


_HOMES = {
    "encoder": "encoders.card:EncoderSpec",
    "tiles": "tiles.grid:TileSpec",
    "tissue": "tissue.mask:TissueSpec",
    "regions": "tissue.regions:RegionSpec",
    "slide": "slides.slide:SlideSpec",
    "quality": "tissue.quality:QualitySpec",
    "engine": "features.plan:EngineSpec",
    "leases": "store.leases:LeaseSpec",
    "staging": "features.plan:StagingSpec",
    "execution": "execution.executor:ExecutionSpec",
    "audit": "archive.audit:AuditSpec",
    "slide_encoder": "slide_encoders.card:SlideEncoderSpec",
    "crossval": "evaluation.crossval:CrossvalSpec",
    "model": "models.train:ModelSpec",
    "evaluate": "models.evaluate:EvaluateSpec",
    "predict": "models.quality:PredictSpec",
    "heatmap": "models.heatmap:HeatmapSpec",
    "drift": "reports.nights.drift:DriftSpec",
    "view": "viewer.spec:ViewSpec",
    "trial": "doctor.trial.spec:TrialSpec",
    "import": "exchange.geometry:ImportSpec",
    "scaling": "tuning.studies.spec:ScalingSpec",
    "domains": "tuning.studies.spec:DomainsSpec",
    "protocol": "tuning.studies.spec:ProtocolSpec",
    "retrieval": "tuning.studies.spec:RetrievalSpec",
    "patches": "tuning.patches.spec:PatchSpec",
    "adapt": "tuning.run.parts:AdaptRunSpec",
    "adapt_slides": "tuning.run.slides:SlideAdaptSpec",
    "slide_tune": "tuning.cases.spec:SlideTuneSpec",
    "slide_eval": "tuning.cases.spec:SlideEvalSpec",
    "pretrain": "tuning.pretrain.spec:PretrainSpec",
    "mae": "tuning.pretrain.spec:MaeSpec",
    "puzzle": "tuning.pretrain.spec:PuzzleSpec",
    "distill": "tuning.pretrain.spec:DistillSpec",
}
SECTIONS = tuple(_HOMES)
EXTRACTION = ("encoder", "tiles", "tissue", "regions", "slide", "quality", "engine", "leases", "staging")
"""The sections that make up an ExtractSpec."""


def section(name: str) -> type[Spec]:
    """The Spec of a section; its module is loaded now, so that a command loads only what it needs."""
    module, _, attribute = _HOMES[name].partition(":")
    spec: type[Spec] = getattr(import_module(f"pathotune_pipeline.{module}"), attribute)
    return spec


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting.

    Attributes:
        path: names from the section down, such as ("tiles", "mpp").
        annotation: its type.
        default: its value when nothing is said.
        help: one sentence.
        hashed: whether results depend on it.
        flags: its command-line names, the first one shown.
        rest: key of the setting that takes what the flag is given after the first time, or None.
    """

    path: tuple[str, ...]
    annotation: Any
    default: Any
    help: str
    hashed: bool
    flags: tuple[str, ...]
    rest: str | None = None

    @property
    def key(self) -> str:
        return ".".join(self.path)


def leaves(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Leaf]:
    """Every setting of a Spec, nested ones included, in the order in which they are declared."""
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, (*path, name))
            continue
        extra: Mapping[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        flag = "--" + str(extra.get("flag") or name.replace("_", "-")).lstrip("-")
        default = info.get_default(call_default_factory=True)
        yield Leaf(
            path=(*path, name),
            annotation=inner,
            default=default,
            help=info.description or "",
            hashed=extra.get("hashed", True) is not False,
            flags=(flag, *extra.get("aliases", ())),
            rest=".".join((*path, extra["rest"])) if extra.get("rest") else None,
        )


def load(
    names: Iterable[str], config: Path | None, assignments: Iterable[str], flags: Mapping[str, Any]
) -> dict[str, Spec]:
    """Sections of the tree, checked.

    Args:
        names: the sections that are needed; others are checked where they are named.
        config: a YAML file, or None.
        assignments: `section.key=value` texts; values are read as YAML.
        flags: dotted keys and values from the command line.

    Raises:
        SpecError: an unknown key, or a value that is not allowed; the message names where it came from.
    """
    tree: dict[str, Any] = {}
    if config is not None:
        _merge(tree, _read_yaml(config))
        check((), tree, f"--config {config}")
    for text in assignments:
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise SpecError(f"--set {text!r}: give section.key=value, such as --set tiles.min_tissue=0.5.")
        _merge(tree, _nested(key.strip(), _yaml_value(value, text)))
    for key, value in flags.items():
        _merge(tree, _nested(key, value))
    return check(names, tree)


def check(names: Iterable[str], tree: Mapping[str, Any], where: str = "") -> dict[str, Spec]:
    """Plain nested values to checked sections; what is not named keeps its default.

    Raises:
        SpecError: an unknown section or key, or a value that is not allowed.
    """
    prefix = f"{where}: " if where else ""
    for name, values in tree.items():
        if name not in _HOMES:
            raise SpecError(
                f"{prefix}there is no section {name!r}.{nearest(str(name), SECTIONS)} Sections: {', '.join(SECTIONS)}."
            )
        if not isinstance(values, Mapping):
            raise SpecError(f"{prefix}section {name!r} must hold settings, found {values!r}.")
    wanted = dict.fromkeys([*names, *tree])
    return {name: section(name).parse(tree.get(name, {}), f"{prefix}{name}") for name in wanted}


def as_yaml() -> str:
    """`configs/default.yaml`: every key with a comment."""
    lines = [HEADER]
    for name in SECTIONS:
        spec = section(name)
        lines.append(f"{name}:")
        lines.append(f"  # {(spec.__doc__ or '').strip().splitlines()[0]}")
        _yaml_lines(spec, 1, lines)
        lines.append("")
    return "\n".join(lines)


def _yaml_lines(model: type[BaseModel], depth: int, lines: list[str]) -> None:
    indent = "  " * depth
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines.append(f"{indent}{name}:")
            _yaml_lines(inner, depth + 1, lines)
            continue
        leaf = next(leaf for leaf in leaves(model, ()) if leaf.path == (name,))
        value = yaml.safe_dump(_plain(leaf.default), default_flow_style=True).strip().removesuffix("...").strip()
        hashed = "" if leaf.hashed else " (not hashed)"
        lines.append(f"{indent}# {leaf.help}{hashed}")
        lines.append(f"{indent}{name}: {value}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    loaded = load_yaml(path, f"--config {path}")
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SpecError(f"--config {path}: must hold sections and settings, found {type(loaded).__name__}.")
    return loaded


def _yaml_value(text: str, whole: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError(f"--set {whole!r}: the value is not YAML. Quote it.") from None


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    tree: Any = value
    for part in reversed(dotted.split(".")):
        tree = {part: tree}
    return tree


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = dict(value) if isinstance(value, Mapping) else value


def choices(annotation: Any) -> tuple[str, ...] | None:
    """The words a setting may take, or None where it takes any value."""
    inner = strip_optional(annotation)
    return get_args(inner) if get_origin(inner) is Literal else None


def strip_optional(annotation: Any) -> Any:
    """`X | None` to `X`."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation
