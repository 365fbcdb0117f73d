"""The site's reference, written while it is built: settings from the Specs, commands from the parsers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

from pathotune_pipeline import config as settings
from pathotune_pipeline.cli.main import VERBS, verb_parser

_CODE = re.compile(r"(`[^`]*`)")


@dataclass(frozen=True, slots=True)
class Command:
    """A verb, or an action of one.

    Attributes:
        name: its words, such as `flow run nightly`.
        told: one line of help.
        parser: it takes the arguments, and has further actions perhaps.
    """

    name: str
    told: str
    parser: argparse.ArgumentParser

    @property
    def actions(self) -> tuple[Command, ...]:
        found = _subparsers(self.parser)
        if found is None:
            return ()
        told = {choice.dest: choice.help or "" for choice in found._choices_actions}
        return tuple(Command(f"{self.name} {word}", told.get(word, ""), one) for word, one in found.choices.items())

    @property
    def ends(self) -> Iterator[Command]:
        """The command itself, or, where it has actions, every last one of those."""
        if not self.actions:
            yield self
        for action in self.actions:
            yield from action.ends

    @property
    def arguments(self) -> tuple[argparse.Action, ...]:
        skipped = (argparse._HelpAction, argparse._SubParsersAction)
        return tuple(action for action in self.parser._actions if not isinstance(action, skipped))


def _subparsers(parser: argparse.ArgumentParser) -> Any:
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def commands() -> tuple[Command, ...]:
    """Every verb of `pathotune`."""
    return tuple(Command(name, verb.help, verb_parser(name)) for name, verb in VERBS.items())


def cell(text: str) -> str:
    """A text as it stands in a cell of a table: nothing in it is taken for Markdown or HTML, but code is code."""
    parts = []
    for part in _CODE.split(text):
        if not _CODE.fullmatch(part):
            part = part.replace("&", "&amp;").replace("<", "&lt;")
            part = re.sub(r"([*_\[\]])", r"\\\1", part)
        parts.append(part.replace("|", "\\|"))
    return " ".join("".join(parts).split())


def code(text: str) -> str:
    """A cell's code."""
    return f"`{text}`".replace("|", "\\|")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    titles = list(header)
    lines = [titles, ["---"] * len(titles), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def settings_page(verbs: Iterable[Command]) -> str:
    """Every setting of every section: default, meaning, flag, and whether results depend on it."""
    flags: dict[str, tuple[str, ...]] = {}
    users: dict[str, list[str]] = {}
    for command in (end for verb in verbs for end in verb.ends):
        for action in command.arguments:
            section, dot, _ = action.dest.partition(".")
            if dot:
                flags.setdefault(action.dest, tuple(action.option_strings))
                if command.name not in users.setdefault(section, []):
                    users[section].append(command.name)
    parts = [_SETTINGS_HEAD]
    for name in settings.SECTIONS:
        spec = settings.section(name)
        parts += [f"## {name}", cell((spec.__doc__ or "").strip().splitlines()[0])]
        if name in users:
            named = ", ".join(f"[`{user}`](cli.md#{_anchor(user)})" for user in users[name])
            parts.append(f"Flags of {named}.")
        rows = (_setting(leaf, flags.get(leaf.key, ())) for leaf in settings.leaves(spec, (name,)))
        shown = table(("setting", "default", "meaning", "flag", "hashed"), rows)
        parts.append(f'<div class="settings" markdown>\n\n{shown}\n\n</div>')
    return "\n\n".join(parts) + "\n"


def _setting(leaf: settings.Leaf, flags: tuple[str, ...]) -> tuple[str, ...]:
    value = list(leaf.default) if isinstance(leaf.default, tuple) else leaf.default
    default = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()
    named = settings.choices(leaf.annotation)
    unsaid = named and not all(str(choice) in leaf.help for choice in named)
    told = leaf.help + (f" One of: {', '.join(map(str, named))}." if named and unsaid else "")
    shown = " ".join(code(flag) for flag in flags) or "`--set`"
    return code(leaf.key.partition(".")[2]), code(default), cell(told), shown, "yes" if leaf.hashed else "no"


def commands_page(verbs: Iterable[Command]) -> str:
    """Every command with its examples and arguments; settings are on their own page."""
    verbs = tuple(verbs)
    listed = table(
        ("command", "what"), ((f"[`{verb.name}`](#{_anchor(verb.name)})", cell(verb.told)) for verb in verbs)
    )
    return "\n\n".join([_COMMANDS_HEAD, listed, *(part for verb in verbs for part in _command(verb, depth=2))]) + "\n"


def _command(command: Command, *, depth: int, above: str | None = None) -> Iterator[str]:
    yield f"{'#' * depth} {command.name}"
    told, _, example = (command.parser.description or "").partition("Example:\n")
    if (command.parser.description or "") == above:  # actions mostly have their verb's
        yield cell(command.told[:1].upper() + command.told[1:]) + "."
    else:
        yield "\n\n".join(cell(paragraph) for paragraph in told.strip().split("\n\n"))
    if example.strip() and command.parser.description != above:
        example, _, rest = example.partition("\n\n")
        lines = "\n".join(line.removeprefix("  ") for line in example.rstrip().splitlines())
        yield f"```sh\n{lines}\n```"
        if rest.strip():
            yield "\n\n".join(cell(paragraph) for paragraph in rest.strip().split("\n\n"))
    own = [action for action in command.arguments if "." not in action.dest]
    sections = dict.fromkeys(action.dest.partition(".")[0] for action in command.arguments if "." in action.dest)
    if own:
        yield table(("argument", "meaning"), map(_argument, own))
    if sections:
        named = ", ".join(f"[{name}](settings.md#{name})" for name in sections)
        yield f"And a flag for every setting of {named}."
    for action in command.actions:
        yield from _command(action, depth=min(depth + 1, 4), above=command.parser.description)


def _argument(action: argparse.Action) -> tuple[str, str]:
    takes = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    if action.nargs == 0:
        takes = ""
    takes = takes if isinstance(takes, str) else " ".join(takes)
    if takes and action.nargs in ("+", "*"):
        takes += " ..."
    name = ", ".join(action.option_strings)
    shown = " ".join(part for part in (name, takes) if part) or action.dest
    told = cell((action.help or "").replace("%%", "%"))
    return code(shown), f"**Required.** {told}" if action.required and action.option_strings else told


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


_SETTINGS_HEAD = """\
# Settings

Written from the code when this site is built. Flags go over `--set section.setting=value`, `--set` over a file of `--config`, the
file over these defaults; [configs/default.yaml](../../configs/default.yaml) is the file with all of them, which `pathotune config`
prints. *hashed*: results depend on the setting, so it enters their fingerprint, and another value makes results beside
the old ones.
What is not hashed is recorded, and results stay valid. Where the flag is `--set`, the setting has none of its own."""

_COMMANDS_HEAD = """\
# Commands

Written from the code when this site is built; `pathotune COMMAND --help` prints the same. Exit codes: 0 all well; 3 some slides
failed, each named with its reason; 4 none failed, and the time of `--until` was over before some had their turn; 2 the call was
wrong; 1 the unexpected."""


def on_files(files: Files, config: Any) -> Files:
    """Add the two pages."""
    verbs = commands()
    for name, text in (("settings", settings_page(verbs)), ("cli", commands_page(verbs))):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files
