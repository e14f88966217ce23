"""The report card: one self-contained HTML page, its Markdown twin, and the figures as files.

`write_report` is a pure function of its inputs: the same inputs give the same bytes. The page loads nothing (a content
security policy says so too), shows foreign text only escaped, and follows the reader's light or dark preference.
"""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from athanor.core.text import clean, flatten
from athanor.reports.canvas import FONT_STACK, Picture, css_variables
from athanor.reports.findings import Findings
from athanor.reports.headlines import headlines
from athanor.reports.inputs import ReportInputs
from athanor.reports.pieces import Answer, Code, Folded, Headline, Prose, ReportSection, Table
from athanor.reports.sections import sections


def write_report(inputs: ReportInputs, out: Path) -> dict:
    """Write `report.html`, `report.md` and `figures/*.png|svg` into `out`; returns sizes as JSON facts."""
    findings = Findings.of(inputs)
    summary, parts = headlines(findings), sections(findings)
    pictures = [block for part in parts for block in part.blocks if isinstance(block, Picture)]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (out / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        (out / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
    page = _render("card.html.j2", inputs, summary, parts)
    (out / "report.html").write_text(page, encoding="utf-8")
    (out / "report.md").write_text(_render("card.md.j2", inputs, summary, parts), encoding="utf-8")
    return {"html_bytes": len(page.encode()), "figures": len(pictures), "sections": [part.id for part in parts]}


def _render(template: str, inputs: ReportInputs, summary: list[Headline], parts: list[ReportSection]) -> str:
    environment = _environment(template)
    return environment.get_template(template).render(
        inputs=inputs,
        headlines=summary,
        sections=parts,
        light=Markup(css_variables(dark=False)),
        dark=Markup(css_variables(dark=True)),
        fonts=Markup(FONT_STACK),
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
