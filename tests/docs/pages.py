"""What pages of the documentation say: their blocks of code, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
SHELLS = ("sh", "bash", "console")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "2>&1", "&"}


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        line: of its first line, from 1.
        language: what stands at the fence; "" of an indented block.
        text: its lines.
        after: whether nothing but blank lines lies between it and the block before.
    """

    line: int
    language: str
    text: str
    after: bool


@dataclass(frozen=True, slots=True)
class Said:
    """A command as a page says it.

    Attributes:
        place: page and line.
        words: what follows `pathotune`.
        whole: whether it can be run as it stands, rather than being a mention of a verb or a flag.
    """

    place: str
    words: tuple[str, ...]
    whole: bool


def blocks(text: str) -> Iterator[Block]:
    """Fenced and indented blocks, in their order."""
    lines, number, between = text.splitlines(), 0, True
    while number < len(lines):
        line, start = lines[number], number + 1
        if line.startswith("```"):
            end = next(n for n in range(start, len(lines)) if lines[n].startswith("```"))
            yield Block(start + 1, line.strip("` "), "\n".join(lines[start:end]), not between)
            number, between = end + 1, False
        elif line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            end = next((n for n in range(start, len(lines)) if not lines[n].startswith("    ")), len(lines))
            yield Block(start, "", "\n".join(each[4:] for each in lines[number:end]), not between)
            number, between = end, False
        else:
            between = between or bool(line.strip())
            number += 1


def commands(text: str, name: str) -> Iterator[Said]:
    """Every `pathotune` command of a page's shell blocks and indented blocks, and every mention in its text."""
    for block in blocks(text):
        if block.language in (*SHELLS, ""):
            yield from commands_of_shell(block.text, name, block.line)
    for number, line in enumerate(_without_blocks(text), 1):
        for match in _SPAN.finditer(line):
            if match[1].startswith("pathotune "):
                said = match[1].split(" ")[1:]
                yield Said(f"{name}:{number}", tuple(word for word in said if word), whole=False)


def commands_of_shell(text: str, name: str, first_line: int) -> Iterator[Said]:
    """The `pathotune` commands of a piece of shell; without a shell's comments, pipes and redirections."""
    number = first_line
    for line in text.replace("\\\n", "\\\0").splitlines():
        continued = line.count("\\\0")
        words = _words(line.replace("\\\0", " "))
        while words:
            end = next(at for at, word in enumerate(words) if word in _ENDS)
            one, words = words[:end], words[end + 1 :]
            if "pathotune" in one[:1]:
                told = tuple(word for word in one[1:] if word != "...")
                yield Said(f"{name}:{number}", told, whole="..." not in one)
        number += 1 + continued


def _words(line: str) -> list[str]:
    """A line's words, and `;` at its end; none where it calls no command of ours."""
    line = re.sub(r"(^|\s)#.*", "", line)
    if not re.search(r"(^|\s)pathotune\s", line):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    return [*lexer, ";"]


def _without_blocks(text: str) -> list[str]:
    lines = text.splitlines()
    for block in blocks(text):
        for number in range(block.line - 1, block.line - 1 + len(block.text.splitlines())):
            lines[number] = ""
    return lines
