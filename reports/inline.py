"""The report card for viewers that see no files: its Markdown with the images inside. Needs no more than the files."""

from __future__ import annotations

import base64
import re
from pathlib import Path


def report_markdown_inline(out: Path) -> str:
    """`report.md` of a written report with its images as `data:` URIs."""

    def inline(found: re.Match) -> str:
        data = base64.b64encode((out / found[1]).read_bytes()).decode()
        return f"](data:image/png;base64,{data})"

    return re.sub(r"\]\((figures/[a-z0-9-]+\.png)\)", inline, (out / "report.md").read_text(encoding="utf-8"))
