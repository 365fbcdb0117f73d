"""Sentences about a task or a case, made of a template and what is known of it."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import nearest

DEFAULT_TEMPLATE = "[{stain}-stained ][{organ} ]histopathology image[ for {task}][; classes: {classes}]"
"""In full: "H&E-stained colon histopathology image for tissue typing; classes: tumour, stroma"."""

FIELDS = ("stain", "organ", "task", "classes")
_SECTION = re.compile(r"\[([^\[\]]*)\]")


def check_template(template: str, fields: Sequence[str] = FIELDS) -> tuple[str, ...]:
    """Refuse a template that cannot be filled, whatever is known.

    Args:
        template: as `fill_template` takes it.
        fields: the names it may use.

    Returns:
        the names it does use, each once, in its order.

    Raises:
        SpecError: a field of another name, one that is not plain, or brackets that do not match.
    """
    used = tuple(dict.fromkeys(_fields(template, template)))
    for name in used:
        if name not in fields:
            raise SpecError(_no_field(name, fields))
    bare = _SECTION.sub("", template)
    if "[" in bare or "]" in bare:
        raise SpecError(f"The text template {template!r} has a bracket without its fellow, or brackets in brackets.")
    return used


def fill_template(template: str, values: Mapping[str, str | None], fields: Sequence[str] = FIELDS) -> str:
    """A template with its fields filled.

    What stands in square brackets is left out where one of its fields is not known (None, empty or absent).

    Args:
        template: with fields such as `{stain}`.
        values: field -> what is known of it; class names joined by the caller.
        fields: the names it may use; those of an adaptation's task unless told.

    Raises:
        SpecError: as `check_template`; a value of no field, an unknown one outside brackets, or nothing left.
    """
    check_template(template, fields)
    for name in values:
        if name not in fields:
            raise SpecError(_no_field(name, fields))
    known = {name: value.strip() for name, value in values.items() if value and value.strip()}
    missing = sorted(set(_fields(_SECTION.sub("", template), template)) - known.keys())
    if missing:
        raise SpecError(
            f"The text template needs {', '.join(missing)}, and nothing is known of it. Give it, or put its part of the "
            "template in square brackets, such as [ for {task}]."
        )
    # Sections first cut, then filled: a value may hold brackets of its own.
    pieces, end = [], 0
    for match in _SECTION.finditer(template):
        pieces.append(template[end : match.start()].format_map(known))
        if set(_fields(match[1], template)) <= known.keys():
            pieces.append(match[1].format_map(known))
        end = match.end()
    pieces.append(template[end:].format_map(known))
    text = " ".join("".join(pieces).split())
    if not text:
        raise SpecError(f"Nothing is left of the text template {template!r}: none of its fields is known. Give one.")
    return text


def _no_field(name: str, fields: Sequence[str]) -> str:
    return f"The text template has no field {name!r}.{nearest(name, fields)} Known: {', '.join(fields)}."


def _fields(part: str, template: str) -> list[str]:
    try:
        found = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(part)]
    except ValueError as error:
        raise SpecError(
            f"The text template {template!r} cannot be read ({error}). Write fields as {{stain}}."
        ) from None
    fields = [name for name, _, _ in found if name is not None]
    if any(spec or conversion for _, spec, conversion in found) or not all(name.isidentifier() for name in fields):
        raise SpecError(f"The text template {template!r} may hold plain fields alone, such as {{stain}}.")
    return fields
