"""What the Prefect UI shows of finished artifacts: the scores as a table, the report card with its figures.

Published by the flows rather than by the stages, so that a run served from the store shows them too.
"""

from __future__ import annotations

import json

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from athanor.core.store import Artifact
from athanor.reports.inline import report_markdown_inline
from athanor.reports.scores import interval_text


def publish_scores(evaluations: dict[str, Artifact]) -> None:
    """A table artifact: one row per task, model and metric, with its 95 % interval."""
    rows = []
    for artifact in evaluations.values():
        result = json.loads(artifact.file("result.json").read_text(encoding="utf-8"))
        rows += [
            {
                "task": result["label"],
                "model": result["model"],
                "metric": name,
                "value": round(score["value"], 4),
                "95 % interval": interval_text(score),
                "n": score["n"],
            }
            for name, score in result["metrics"].items()
        ]
    if rows:
        create_table_artifact(rows, key="scores", description="Benchmark scores with 95 % intervals")


def publish_report(report: Artifact) -> None:
    """A markdown artifact: the report card with inline images."""
    text = report_markdown_inline(report.path)
    create_markdown_artifact(text, key="report", description=f"Report card of {report.label}")
