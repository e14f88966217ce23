"""What every source yields, and how a recipe's fields and templates turn a record into one text.

A source is an iterator of `Raw` and `Reject` in an order that depends on its input alone. A record that
cannot become a document is data, not a crash: it is a `Reject` with the file, the line and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from athanor.core.errors import UserError
from athanor.core.keys import canonical_json
from athanor.data.data_recipe import ChatSourceRecipe, SourceRecipe
from athanor.data.sources.conversations import (
    KNOWN_FORMS,
    MESSAGES,
    Message,
    NoConversation,
    checked,
    conversation,
    fields_read,
    names_said,
)
from athanor.data.splits import Split

Content = str | dict[str, Any]


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


class AnyOf(tuple[str, ...]):
    """Fields of which a record has some."""


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
            raise BadRecord(f"no field {field!r}; fields: {names_said(record)}")
        value = record[field]
        if isinstance(value, str):
            return value
        if not self._is_field and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise BadRecord(f"field {field!r} is {type(value).__name__}, not a string")


def text_reader(recipe: SourceRecipe) -> tuple[tuple[str, ...], Callable[[Content], str]]:
    """The fields a recipe reads, and the function from a raw content to the document's text.

    For chat recipes the text is the canonical JSON of `[{"content", "role"}, ...]`, with `"weight": 0` where a turn is
    not to be learned, and without templates the fields are those of every form (conversations.py). The function raises
    BadRecord for a content without usable text. Raises UserError for a template that cannot be read.
    """
    if not isinstance(recipe, ChatSourceRecipe):
        template = Template(recipe.text)
        return template.fields, lambda content: content if isinstance(content, str) else template.render(content)
    if recipe.user is None or recipe.assistant is None:
        messages = recipe.messages
        return AnyOf(fields_read(messages)), lambda content: _kept(lambda: conversation(_as_record(content), messages))
    turns = {"user": Template(recipe.user), "assistant": Template(recipe.assistant)}
    fields = tuple(dict.fromkeys(field for turn in turns.values() for field in turn.fields))

    def render(content: Content) -> str:
        record = _as_record(content)
        return _kept(lambda: checked([{"role": role, "content": t.render(record)} for role, t in turns.items()]))

    return fields, render


def columns_read(fields: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    """The columns of a table that are read for `fields`. Raises UserError, beginning with `where`, for one that the
    table lacks; of AnyOf for the first, where it has none of them."""
    there = [field for field in fields if field in columns]
    if len(there) == len(fields) or (there and isinstance(fields, AnyOf)):
        return there
    missing = next(field for field in fields if field not in columns)
    forms = f"; conversations are {KNOWN_FORMS}" if isinstance(fields, AnyOf) and MESSAGES in fields else ""
    raise UserError(f"{where}: no column {missing!r}; columns: {', '.join(columns) or 'none'}{forms}")


def _kept(messages: Callable[[], list[Message]]) -> str:
    try:
        return canonical_json(messages())
    except NoConversation as error:
        raise BadRecord(str(error)) from None


def _as_record(content: Content) -> dict[str, Any]:
    if isinstance(content, str):
        raise BadRecord("a whole text, not a record with messages")
    return content
