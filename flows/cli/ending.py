"""What `athanor run` says when it is done: the scores, what was built at what cost, where the report is, what next."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from athanor.core.numbers import duration, money
from athanor.core.store import Artifact
from athanor.flows.plan.survey import StageSurvey, Survey
from athanor.tasks.preset_recipe import Preset


def print_ending(console: Console, preset: Preset, part: str, built: Collection[str], wall_s: float) -> Path | None:
    """Print it, of a part that was run in `wall_s`, and return the page of the report if that is one of its stages.

    `built` are the titles (`stage label`) of what was not in the store.
    """
    stages = Survey(preset).needed_by(part)
    artifacts = {f"{found.stage} {found.artifact.label}": found.artifact for found in stages}
    _print_scores(console, [found.artifact for found in stages if found.stage == "evaluate"])
    cost_usd = sum(artifact.manifest["cost_usd"] for title, artifact in artifacts.items() if title in built)
    cost = f", {money(cost_usd)}" if cost_usd else ""
    new = sum(title in artifacts for title in built)
    console.print(
        f"{part} [bold]{escape(preset.name)}[/] is done in {duration(wall_s)}: "
        f"{new} built{cost}, {len(artifacts) - new} cached",
        highlight=False,
        soft_wrap=True,
    )
    page = next((found.artifact.path / "report.html" for found in stages if found.stage == "report"), None)
    if page is not None:
        _say(console, "report", _short(page))
    for command in _next(stages):
        _say(console, "next", command)
    return page


def print_comparison(console: Console, runs: Iterable[Preset], part: str) -> None:
    """After a sweep: the command that lays what its runs trained beside one another."""
    trained = [[found.artifact.name for found in Survey(run).needed_by(part) if found.record.trains] for run in runs]
    last = dict.fromkeys(names[-1] for names in trained if names)
    if len(last) > 1:
        _say(console, "next", f"athanor runs compare {' '.join(last)} --html compared.html")


def _print_scores(console: Console, evaluations: list[Artifact]) -> None:
    if not evaluations:
        return
    from athanor.reports.inputs import MODEL_NAMES
    from athanor.reports.scores import scores_of

    scores = scores_of(json.loads(a.file("result.json").read_text(encoding="utf-8")) for a in evaluations)
    for (task, metric), by_model in scores.items():
        said = (f"{MODEL_NAMES[model]} {_score(by_model[model])}" for model in MODEL_NAMES if model in by_model)
        console.print(f"[bold]{escape(task)}[/], {escape(metric)}", highlight=False, soft_wrap=True)
        console.print(f"    {', '.join(said)}", highlight=False, soft_wrap=True)


def _score(measured: Mapping[str, Any]) -> str:
    """Value, 95 % interval and number of documents: 5.0 % (0.9–23.6 %, n = 20)."""
    from athanor.reports.scores import interval_text, score_text

    return f"{score_text(measured)} ({interval_text(measured)}, n = {measured['n']:,})"


def _next(stages: list[StageSurvey]) -> list[str]:
    """Commands to go on with, the last trained model in them, or the checkpoint where nothing is trained."""
    trained = [found.artifact for found in stages if found.record.trains]
    if not trained:
        started = [found.artifact for found in stages if found.stage == "checkpoint"]
        return [f'athanor generate {model.name} "Once upon a time"' for model in started]
    model = trained[-1]
    if trained[-1].stage == "sft":
        first = f'athanor generate {model.name} "How are you?" --chat'
    else:
        first = f'athanor generate {model.name} "Once upon a time"'
    return [first, f"athanor runs show {model.name}", f"athanor documents {model.name} 1 --text"]


def _say(console: Console, what: str, text: str) -> None:
    console.print(f"[bold]{what:6}[/] {escape(text)}", highlight=False, soft_wrap=True)


def _short(path: Path) -> str:
    """From the working directory, where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)
