"""Command-line flags made from Specs: one for each setting, none written by hand."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from pathotune_pipeline.config import Leaf, choices, leaves, section, strip_optional
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.geometry import magnification_to_mpp

_METAVARS = {int: "N", float: "X", str: "NAME"}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, and whose help keeps its example's line breaks."""

    def __init__(self, **kwargs: Any) -> None:
        defaults = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**{**defaults, **kwargs})

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: error: {message}. See {self.prog} --help\n")
        raise SystemExit(2)


def store_address(text: str) -> Path | str:
    """What --store takes: a folder, or the address of an object store such as s3://bucket/prefix."""
    return text if "://" in text else Path(text)


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str], *, without: Collection[str] = ()) -> None:
    """Add `--config`, `--set`, and a flag for every setting of the named sections but those keys."""
    shared = parser.add_argument_group("settings from a file")
    shared.add_argument(
        "--config", type=Path, metavar="YAML", help="settings file; `configs/default.yaml` lists every key"
    )
    shared.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, such as tiles.mpp=0.5",
    )
    for name in names:
        group = add_section(parser, name, without=without)
        if name == "tiles":
            group.add_argument(
                "--mag",
                type=float,
                metavar="X",
                help="scale by magnification: 40 is 0.25 um/px, 20 is 0.5; instead of --mpp",
            )


def add_section(
    parser: argparse.ArgumentParser, name: str, *, without: Collection[str] = ()
) -> argparse._ArgumentGroup:
    """Add a flag for every setting of one section but those keys; groups of free settings are for files and --set."""
    spec = section(name)
    group = parser.add_argument_group(name, (spec.__doc__ or "").strip().splitlines()[0])
    for leaf in leaves(spec, (name,)):
        if get_origin(leaf.annotation) is not dict and leaf.key not in without:
            _add(group, leaf)
    return group


def _add(group: argparse._ArgumentGroup, leaf: Leaf) -> None:
    inner = strip_optional(leaf.annotation)
    default = "none" if leaf.default in (None, ()) else leaf.default
    options: dict[str, Any] = {"dest": leaf.key, "default": None, "help": f"{leaf.help} [{default}]".replace("%", "%%")}
    if inner is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif choices(leaf.annotation):
        options["choices"] = choices(leaf.annotation)
    elif get_origin(inner) is tuple:
        kind = get_args(inner)[0]
        named = choices(kind)
        one = {"choices": named} if named else {"type": kind, "metavar": _METAVARS[kind]}
        options |= {"nargs": "+", "action": "extend", **one}
    elif leaf.rest:
        options |= {"type": inner, "action": _FirstAndRest, "rest": leaf.rest, "metavar": _METAVARS[inner]}
    elif inner in (int, float, str):
        options |= {"type": inner, "metavar": _METAVARS[inner]}
    elif isinstance(inner, types.UnionType):
        options |= {"type": str, "metavar": "VALUE"}
    group.add_argument(*leaf.flags, **options)


class _FirstAndRest(argparse.Action):
    """A flag that may be given more than once: what follows the first time goes to another setting."""

    def __init__(self, *arguments: Any, rest: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._rest = rest

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        if getattr(namespace, self.dest) is None:
            setattr(namespace, self.dest, values)
        else:
            setattr(namespace, self._rest, [*(getattr(namespace, self._rest, None) or []), values])


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Dotted keys and values of the settings that were on the command line.

    Raises:
        SpecError: both --mag and --mpp were given.
    """
    found = {key: value for key, value in vars(arguments).items() if "." in key and value is not None}
    mag = getattr(arguments, "mag", None)
    if mag is not None:
        if "tiles.mpp" in found:
            raise SpecError(
                f"--mag {mag:g} and --mpp {found['tiles.mpp']:g} were both given. Keep one; --mpp is exact."
            )
        if mag <= 0:
            raise SpecError(f"--mag {mag:g}: a magnification is above 0, such as 20.")
        found["tiles.mpp"] = magnification_to_mpp(mag)
        sys.stderr.write(f"--mag {mag:g} is taken as {found['tiles.mpp']:g} um/px\n")
    return found
