"""The one page that every report is: a title, a summary and sections of pieces, as HTML or as Markdown.

It loads nothing (a content security policy says so too), shows foreign text only escaped, and follows the reader's
light or dark preference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from athanor.core.text import clean, flatten
from athanor.reports.canvas import FONT_STACK, SERIES, Picture, css_variables
from athanor.reports.pieces import Answer, Code, Folded, Headline, Prose, ReportSection, Table


@dataclass(frozen=True)
class Page:
    """What stands on it. `kind` says in the window's title what sort of page it is."""

    title: str
    kind: str
    subtitle: str
    summary: Sequence[Headline]
    sections: Sequence[ReportSection]

    @property
    def html(self) -> str:
        """One self-contained file."""
        return self._render("page.html.j2")

    @property
    def markdown(self) -> str:
        """The same, with its figures in `figures/`."""
        return self._render("page.md.j2")

    @property
    def pictures(self) -> list[Picture]:
        """Every figure of it."""
        return [block for part in self.sections for block in part.blocks if isinstance(block, Picture)]

    def _render(self, template: str) -> str:
        environment = _environment(template)
        return environment.get_template(template).render(
            title=self.title,
            kind=self.kind,
            subtitle=self.subtitle,
            headlines=self.summary,
            sections=self.sections,
            light=Markup(css_variables(dark=False)),
            dark=Markup(css_variables(dark=True)),
            fonts=Markup(FONT_STACK),
            colours=len(SERIES),
        )


def _environment(template: str) -> Environment:
    """Every expression of a template passes one gate: `clean`, then escaping for the format; Markup alone is exempt."""
    markdown = template.endswith(".md.j2")

    def gate(value: object) -> object:
        if isinstance(value, Markup):
            return value
        return Markup(_markdown_escape(str(value))) if markdown else clean(str(value))

    environment = Environment(
        loader=PackageLoader("athanor.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=gate,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = {Table: "table", Prose: "prose", Code: "code", Answer: "sample", Folded: "folded", Picture: "picture"}
    environment.filters["kind"] = lambda block: kinds[type(block)]
    environment.filters["svg"] = lambda picture: Markup(picture.inline_svg)
    environment.filters["fence"] = _fence
    return environment


def _markdown_escape(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would act on."""
    text = flatten(clean(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def _fence(text: str, language: str = "text") -> Markup:
    """A fenced code block longer than any run of backticks in `text`."""
    text = clean(text)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{ticks}{language}\n{text.rstrip(chr(10))}\n{ticks}")
