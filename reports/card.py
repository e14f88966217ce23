"""The report card: one self-contained HTML page, its Markdown twin, and the figures as files.

`write_report` is a pure function of its inputs: the same inputs give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from athanor.reports.findings import Findings
from athanor.reports.headlines import headlines
from athanor.reports.inputs import ReportInputs
from athanor.reports.page import Page
from athanor.reports.sections import sections


def write_report(inputs: ReportInputs, out: Path) -> dict:
    """Write `report.html`, `report.md` and `figures/*.png|svg` into `out`; returns sizes as JSON facts."""
    findings = Findings.of(inputs)
    subtitle = f"Report card of preset {inputs.preset}"
    page = Page(inputs.title or inputs.preset, "report card", subtitle, headlines(findings), sections(findings))
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for picture in page.pictures:
        (out / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        (out / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
    html = page.html
    (out / "report.html").write_text(html, encoding="utf-8")
    (out / "report.md").write_text(page.markdown, encoding="utf-8")
    return {
        "html_bytes": len(html.encode()),
        "figures": len(page.pictures),
        "sections": [part.id for part in page.sections],
    }
