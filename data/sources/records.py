"""What every source yields, and how a recipe's fields and templates turn a record into one text.

A source is an iterator of `Raw` and `Reject` in an order that depends on its input alone. A record that
cannot become a document is data, not a crash: it is a `Reject` with the file, the line and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import Any

from athanor.core.errors import UserError
from athanor.core.keys import canonical_json
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.splits import Split

Content = str | dict[str, Any]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Raw:
    """One thing a source holds: a whole text (`str`), or a record (`dict`) the recipe picks fields from."""

    content: Content
    file: str
    line: int | None = None  # 1-based; None when the whole file is the document
    split: Split | None = None  # fixed by a generated source; None lets the text's hash decide

    @property
    def ref(self) -> str:
        """Where it came from, e.g. `train.jsonl:12`."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Reject:
    """Something a source could not turn into a document; a row of `rejects.jsonl`."""

    file: str
    line: int | None
    reason: str

    @property
    def ref(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class BadRecord(Exception):
    """A record that holds no usable text; the message is the reason in `rejects.jsonl`."""


class Template:
    """A field name, or literal text with `{field}` in it (`{{` and `}}` stand for braces).

    Values are inserted as they are: braces inside the data are not looked at.
    """

    def __init__(self, pattern: str):
        self._parts: list[tuple[str, str | None]] = [("", pattern)]
        if "{" in pattern or "}" in pattern:
            self._parts = self._parse(pattern)
        self.fields = tuple(dict.fromkeys(field for _, field in self._parts if field))
        if not self.fields:
            raise UserError(f"template {pattern!r}: names no field; write one like '{{question}}\\n{{answer}}'")
        self._is_field = "{" not in pattern and "}" not in pattern

    @staticmethod
    def _parse(pattern: str) -> list[tuple[str, str | None]]:
        try:
            parsed = list(Formatter().parse(pattern))
        except ValueError as error:
            raise UserError(f"template {pattern!r}: {error}; write a literal brace as '{{{{' or '}}}}'") from None
        for _, field, spec, conversion in parsed:
            if field is not None and (not field or spec or conversion):
                raise UserError(f"template {pattern!r}: only plain field names such as '{{question}}' are allowed")
        return [(literal, field) for literal, field, _, _ in parsed]

    def render(self, record: dict[str, Any]) -> str:
        """The text for `record`; raises BadRecord when a field is missing or is not text.

        A bare field name takes strings only; inside a template numbers are written out too.
        """
        return "".join(
            literal + (self._value(record, field) if field is not None else "") for literal, field in self._parts
        )

    def _value(self, record: dict[str, Any], field: str) -> str:
        if field not in record:
            raise BadRecord(_no_field(record, field))
        value = record[field]
        if isinstance(value, str):
            return value
        if not self._is_field and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise BadRecord(f"field {field!r} is {type(value).__name__}, not a string")


def text_reader(recipe: SourceRecipe) -> tuple[tuple[str, ...], Callable[[Content], str]]:
    """The fields a recipe reads, and the function from a raw content to the document's text.

    For chat recipes the text is the canonical JSON of `[{"content", "role"}, ...]`. The function raises
    BadRecord for a content without usable text. Raises UserError for a template that cannot be read.
    """
    if not isinstance(recipe, ChatSourceRecipe):
        template = Template(recipe.text)
        return template.fields, lambda content: content if isinstance(content, str) else template.render(content)
    if recipe.user is None or recipe.assistant is None:
        return (recipe.messages,), lambda content: canonical_json(_message_list(content, recipe.messages))
    turns = {"user": Template(recipe.user), "assistant": Template(recipe.assistant)}
    fields = tuple(dict.fromkeys(field for turn in turns.values() for field in turn.fields))

    def render(content: Content) -> str:
        record = _as_record(content)
        return canonical_json(_checked([{"role": role, "content": t.render(record)} for role, t in turns.items()]))

    return fields, render


def _no_field(record: dict[str, Any], field: str) -> str:
    """Field names are a stranger's text: quoted, so that the reason stays one printable line."""
    return f"no field {field!r}; fields: {', '.join(ascii(name)[:40] for name in list(record)[:12]) or 'none'}"


def _as_record(content: Content) -> dict[str, Any]:
    if isinstance(content, str):
        raise BadRecord("a whole text, not a record with messages")
    return content


def _message_list(content: Content, field: str) -> list[dict[str, str]]:
    record = _as_record(content)
    if field not in record:
        raise BadRecord(_no_field(record, field))
    if not isinstance(record[field], list):
        raise BadRecord(f"field {field!r} is {type(record[field]).__name__}, not a list of messages")
    return _checked(record[field])


def _checked(messages: list[Any]) -> list[dict[str, str]]:
    """Messages reduced to role and content; BadRecord names the first turn of the wrong shape."""
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise BadRecord(f"message {number} is {type(message).__name__}, not an object with role and content")
        if message.get("role") not in ROLES:
            raise BadRecord(f"message {number}: role {message.get('role')!r:.40} is not one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise BadRecord(f"message {number}: content is empty or not a string")
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRecord("no assistant message")
    return [{"role": message["role"], "content": message["content"]} for message in messages]
