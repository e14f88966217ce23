"""A preset as a file that explains itself: above every choice the reason for it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 100


@dataclass(frozen=True)
class Choice:
    """One field of a preset, dotted; its value; and why it has this one, in a sentence, or nothing to say."""

    field: str
    value: Any
    why: str = ""


def fields_of(choices: Sequence[Choice]) -> dict[str, Any]:
    """The fields of the preset, nested."""
    fields: dict[str, Any] = {}
    for choice in choices:
        *above, name = choice.field.split(".")
        place = fields
        for part in above:
            place = place.setdefault(part, {})
        place[name] = choice.value
    return fields


def written(choices: Sequence[Choice], title: Sequence[str]) -> str:
    """The file: `title` as its first comment, then the choices in their order, each below its reason."""
    why = {choice.field: choice.why for choice in choices}
    lines = [*_comment(title, ""), *_lines(fields_of(choices), why, "", "")]
    return "\n".join(lines) + "\n"


def _lines(fields: dict[str, Any], why: dict[str, str], above: str, indent: str) -> Iterator[str]:
    for name, value in fields.items():
        field = f"{above}{name}"
        if not above:
            yield ""
        yield from _comment([why.get(field, "")], indent)
        if any(other.startswith(f"{field}.") for other in why):
            yield f"{indent}{name}:"
            yield from _lines(value, why, f"{field}.", f"{indent}  ")
        else:
            flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
            yield f"{indent}{name}: {flow.removesuffix('...' + chr(10)).strip()}"


def _comment(texts: Sequence[str], indent: str) -> Iterator[str]:
    for text in texts:
        for line in textwrap.wrap(text, WIDTH - len(indent) - 2):
            yield f"{indent}# {line}"
