"""The summary at the top of the report: model, tokens, held-out quality, benchmarks, time and cost.

Only what was measured is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from athanor.core.numbers import compact, duration, money, number, whole
from athanor.reports.findings import Findings
from athanor.reports.inputs import MODEL_NAMES, ReportInputs
from athanor.reports.pieces import Headline
from athanor.reports.scores import Scores, interval_text, score_text


def headlines(findings: Findings) -> list[Headline]:
    """The summary, in reading order."""
    return [
        *_model(findings.inputs),
        *_training(findings),
        *_benchmarks(findings.scores),
        *_time_and_cost(findings.inputs),
    ]


def _model(inputs: ReportInputs) -> Iterator[Headline]:
    if not inputs.model:
        return
    shape = inputs.model
    total, active = inputs.parameters.get("total"), inputs.parameters.get("active")
    note = f"{shape['n_layers']} layers, width {shape['d_model']}, {shape['n_heads']} heads"
    if total and active and active != total:
        note += f", {compact(active)} active per token"
    parameters = f", {compact(total)} parameters" if total else ""
    yield Headline("Model", f"{shape['family']}{parameters}", note)
    for stage in inputs.stages:
        if stage.stage == "checkpoint":
            yield Headline("Started from", stage.facts["origin"], "weights that were there before")


def _training(findings: Findings) -> Iterator[Headline]:
    inputs, pretraining = findings.inputs, findings.pretraining
    if pretraining.steps:
        last = pretraining.steps[-1]
        note = f"{whole(last['step'])} steps"
        if any(stage.stage == "pretrain" and stage.facts.get("cuts") for stage in inputs.stages):
            note += f" of {whole(inputs.pretrain_steps)}: cut to stay within the budget"
        yield Headline("Pretrained on", f"{compact(last['tokens'])} tokens", note)
    if findings.tuning.steps:
        last = findings.tuning.steps[-1]
        yield Headline("Fine-tuned on", f"{compact(last['tokens'])} tokens", f"{whole(last['step'])} steps")
    for source, (_, values) in pretraining.bits_per_byte.items():
        before = f"{number(values[0])} → " if len(values) > 1 else ""
        yield Headline(
            f"Held-out {source}", f"{before}{number(values[-1])}", "bits per byte of held-out rows, pretraining"
        )


def _benchmarks(scores: Scores) -> Iterator[Headline]:
    """The first metric of every task."""
    first: dict[str, str] = {}
    for task, metric in scores:
        first.setdefault(task, metric)
    for task, metric in first.items():
        by_model = {MODEL_NAMES[m]: scores[task, metric][m] for m in MODEL_NAMES if m in scores[task, metric]}
        value = " → ".join(f"{model} {score_text(measured)}" for model, measured in by_model.items())
        note = "; ".join(
            f"{m} {interval_text(measured)}, n = {whole(measured['n'])}" for m, measured in by_model.items()
        )
        yield Headline(f"{task}, {metric}", value, f"95 % intervals: {note}")


def _time_and_cost(inputs: ReportInputs) -> Iterator[Headline]:
    if not inputs.stages:
        return
    wall_s, cost_usd = (sum(column) for column in zip(*((s.wall_s, s.cost_usd) for s in inputs.stages), strict=True))
    yield Headline("Time", duration(wall_s), f"{len(inputs.stages)} artifacts, summed")
    if cost_usd > 0:
        yield Headline("Cost", money(cost_usd), "device time at the stated price")
