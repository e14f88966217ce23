"""The pieces a report is made of. The HTML and the Markdown template render the same pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from athanor.reports.canvas import Picture


@dataclass(frozen=True)
class Link:
    """A table cell that points at the row `target` of another table of the page."""

    text: str
    target: str


@dataclass(frozen=True)
class Mark:
    """A table cell or heading that names what is drawn as series `series` of the figures, in its colour."""

    text: str
    series: int


Cell = str | Mark | tuple[Link, ...]


@dataclass(frozen=True)
class Table:
    """Rows of ready-made texts under a caption. `numeric` names the columns set flush right."""

    caption: str
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()
    anchors: Sequence[str] = ()
    """One id per row, what a `Link` points at; empty for none."""


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Verbatim text."""

    text: str
    language: str
    caption: str


@dataclass(frozen=True)
class Answer:
    """One generated answer. Every text is untrusted."""

    heading: str
    mark: str
    """`✓ correct`, `✗ wrong`, or empty when it was not judged."""
    correct: bool
    parts: Sequence[tuple[str, str]]
    """(name, text): prompt, response, expected."""


@dataclass(frozen=True)
class Folded:
    """Answers that are there for who unfolds them."""

    title: str
    answers: Sequence[Answer]


Block = Table | Prose | Code | Answer | Folded | Picture


@dataclass(frozen=True)
class Headline:
    """One figure of the summary: what, the value, and what to read with it."""

    term: Cell
    value: str
    note: str = ""


@dataclass(frozen=True)
class ReportSection:
    """A titled part of the page; `id` is its anchor."""

    id: str
    title: str
    blocks: Sequence[Block]
