"""Commands that the documentation says are commands that there are, down to every flag."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from functools import cache

import pytest

from pathotune_pipeline.cli.main import VERBS, verb_parser
from tests.docs.pages import PAGES, ROOT, Said, commands, commands_of_shell

FOREIGN = {"--nproc-per-node", "--extra", "--no-sandbox", "--dependency", "--array", "--work", "--quick"}
"""Flags of other programs that pages name."""


@cache
def parser_of(*words: str) -> argparse.ArgumentParser:
    """The parser of a verb, or of an action of one."""
    if len(words) == 1:
        return verb_parser(words[0])
    return _actions(parser_of(*words[:-1]))[words[-1]]


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0] if found else {}


def resolve(words: tuple[str, ...]) -> tuple[argparse.ArgumentParser | None, str]:
    """The parser that takes a command's arguments, and what is wrong with its verb and actions."""
    if not words or words[0] in ("--help", "--version", "COMMAND"):
        return None, ""
    if words[0] not in VERBS:
        return None, f"there is no command {words[0]!r}"
    path = [words[0]]
    while _actions(parser_of(*path)) and len(words) > len(path):
        word = words[len(path)]
        if word.startswith("-") or word.isupper():  # a mention without the action
            break
        if word not in _actions(parser_of(*path)):
            return None, f"`{' '.join(path)}` has no action {word!r}"
        path.append(word)
    return parser_of(*path), ""


def wrong_flags(parser: argparse.ArgumentParser, words: Iterable[str]) -> list[str]:
    flags = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    return sorted(
        flags - {option for one in [parser, *_actions(parser).values()] for option in one._option_string_actions}
    )


def trouble(said: Said, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with a command, or None."""
    for words in _alternatives(said.words):
        parser, wrong = resolve(words)
        if wrong:
            return wrong
        if parser is None:
            continue
        unknown = wrong_flags(parser, words)
        if unknown:
            return f"{parser.prog} has no {', '.join(unknown)}"
        if said.whole:
            try:
                verb_parser(words[0]).parse_args(words[1:])
            except SystemExit:
                return capsys.readouterr().err
    return None


def _alternatives(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    """`study scaling|domains` is two commands."""
    for at, word in enumerate(words[:3]):
        if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", word):
            return [(*words[:at], one, *words[at + 1 :]) for one in word.split("|")]
    return [words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page_are_real(page, capsys) -> None:
    found = commands(page.read_text(encoding="utf-8"), page.name)
    wrong = [
        f"{said.place}: pathotune {' '.join(said.words)}: {told}" for said in found if (told := trouble(said, capsys))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("verb", VERBS)
def test_examples_in_help_are_real(verb, capsys) -> None:
    examples = (verb_parser(verb).description or "").partition("Example:\n")[2].replace("\n\n", "\n")
    found = commands_of_shell("\n".join(line.strip() for line in examples.splitlines()), verb, 1)
    wrong = [f"pathotune {' '.join(said.words)}: {told}" for said in found if (told := trouble(said, capsys))]
    assert not wrong, "\n".join(wrong)


def test_flags_that_pages_name_by_themselves_are_some_commands_own() -> None:
    known = set(FOREIGN)
    for verb in VERBS:
        known |= _all_flags(verb_parser(verb))
    wrong = []
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for flag in re.findall(r"(?<=`)(--[a-z][a-z0-9_-]*)", line):
                if flag not in known and "_" not in flag:  # other tools write flags with one
                    wrong.append(f"{page.relative_to(ROOT)}:{number}: {flag}")
    assert not wrong, "\n".join(wrong)


def _all_flags(parser: argparse.ArgumentParser) -> set[str]:
    return set(parser._option_string_actions).union(*map(_all_flags, _actions(parser).values()))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("pathotune extrakt --slides a", "there is no command 'extrakt'"),
        ("pathotune extract --slides a --store s --no-such-flag 3", "pathotune extract has no --no-such-flag"),
        ("pathotune flow run nightli --out o", "`flow run` has no action 'nightli'"),
        ("pathotune extract --slides a   # without a store", "required: --store"),
        ("pathotune extract --slides a ...", None),
        ("pathotune extract --slides a --store s && pathotune gc --stoer s", "pathotune gc has no --stoer"),
        ("pathotune extract --slides a --store s \\\n  --tile-px big", "invalid int value: 'big'"),
    ],
)
def test_a_stale_command_is_found(line, told, capsys) -> None:
    found = [trouble(said, capsys) for said in commands_of_shell(line, "page", 1)]
    told_of = next((each for each in found if each), None)
    assert found
    assert (told in told_of) if told else told_of is None
