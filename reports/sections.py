"""From artifacts to the sections of the report, in reading order. A part that was not run yields no section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from athanor.core.numbers import NBSP, compact, duration, money, number, share, size, whole
from athanor.core.text import one_line
from athanor.reports.canvas import Picture
from athanor.reports.curves import Row, asked_shares, held_out, named_series, realised_rows, rows_of
from athanor.reports.figures import (
    MODEL_NAMES,
    benchmark_figure,
    cost_figure,
    loss_figure,
    mixture_figure,
    rate_figure,
    schedule_figure,
    throughput_figure,
    values_figure,
)
from athanor.reports.inputs import ReportInputs, StageRow
from athanor.reports.lineage import lineage_figure
from athanor.reports.mapfigures import map_figure
from athanor.reports.pieces import Block, Code, Headline, Link, Prose, Sample, Section, Table

if TYPE_CHECKING:
    from athanor.models.maps import Map

_SAMPLE_CHARACTERS = 4000


def headlines(inputs: ReportInputs) -> list[Headline]:
    """The summary: model, tokens, held-out quality, benchmarks, time and cost; only what was measured."""
    found = []
    if inputs.model:
        shape = inputs.model
        total, active = inputs.parameters.get("total"), inputs.parameters.get("active")
        note = f"{shape['n_layers']} layers, width {shape['d_model']}, {shape['n_heads']} heads"
        if total and active and active != total:
            note += f", {compact(active)} active per token"
        size_ = f", {compact(total)} parameters" if total else ""
        found.append(Headline("Model", f"{shape['family']}{size_}", note))
    steps = rows_of(inputs.pretrain_metrics, "step")
    if steps:
        note = f"{whole(steps[-1]['step'])} steps"
        if any(stage.stage == "pretrain" and stage.facts.get("cuts") for stage in inputs.stages):
            note += f" of {whole(inputs.pretrain_steps)}: cut to stay within the budget"
        found.append(Headline("Pretrained on", f"{compact(steps[-1]['tokens'])} tokens", note))
    tuned = rows_of(inputs.sft_metrics, "step")
    if tuned:
        found.append(
            Headline("Fine-tuned on", f"{compact(tuned[-1]['tokens'])} tokens", f"{whole(tuned[-1]['step'])} steps")
        )
    for source, (_, values) in held_out(inputs.pretrain_metrics).items():
        before = f"{number(values[0])} → " if len(values) > 1 else ""
        found.append(Headline(f"Held-out {source}", f"{before}{number(values[-1])}", "bits per byte, pretraining"))
    for (task, metric), scores in _scores(inputs.evaluations, first_metric_only=True).items():
        value = " → ".join(f"{MODEL_NAMES[m]} {_score(scores[m])}" for m in MODEL_NAMES if m in scores)
        note = "; ".join(
            f"{MODEL_NAMES[m]} {_interval(scores[m])}" for m in MODEL_NAMES if m in scores and _interval(scores[m])
        )
        found.append(Headline(f"{task}, {metric}", value, f"95 % intervals: {note}" if note else ""))
    if inputs.stages:
        cost_usd = sum(stage.cost_usd for stage in inputs.stages)
        found.append(
            Headline("Time", duration(sum(s.wall_s for s in inputs.stages)), f"{len(inputs.stages)} artifacts, summed")
        )
        if cost_usd > 0:
            found.append(Headline("Cost", money(cost_usd), "device time at the stated price"))
    return found


def sections(inputs: ReportInputs) -> list[Section]:
    """Every section that has something to show."""
    candidates = (
        ("asked", "What was asked", [Code(inputs.preset_yaml, "yaml", f"Preset {inputs.preset}, in full")]),
        ("lineage", "Lineage", _lineage(inputs.stages)),
        ("data", "Data", _data(inputs)),
        (
            "pretraining",
            "Pretraining",
            _training("pretrain", "Pretraining", inputs.pretrain_metrics, inputs.pretrain_schedule),
        ),
        ("fine-tuning", "Fine-tuning", _training("sft", "Fine-tuning", inputs.sft_metrics, inputs.sft_schedule)),
        ("benchmarks", "Benchmarks", _benchmarks(inputs.evaluations)),
        ("maps", "Inside the model", _maps(inputs)),
        ("samples", "Samples", _samples(inputs.samples)),
        ("cost", "Time and cost", _cost(inputs.stages)),
        ("reproduce", "Reproduce", [Code(inputs.command, "sh", "The command that makes all of this again")]),
        ("versions", "Versions", _versions(inputs.versions)),
    )
    return [Section(anchor, title, blocks) for anchor, title, blocks in candidates if blocks]


def _drawn(*pictures: Picture | None) -> list[Block]:
    return [picture for picture in pictures if picture is not None]


def _lineage(stages: Sequence[StageRow]) -> list[Block]:
    if not stages:
        return []
    by_key = {stage.key: stage for stage in stages}
    rows = []
    for stage in stages:
        parents = tuple(
            Link(f"{name}{NBSP}{key[:12]}", f"key-{key[:12]}" if key in by_key else "")
            for name, key in stage.parents.items()
        )
        code = f"v{stage.code_version}{NBSP}{stage.code[:8]}"
        rows.append((stage.stage, stage.label, stage.key[:12], parents or "–", code, _facts(stage.facts)))
    table = Table(
        "Artifacts with the first twelve digits of their keys, what each was made from, and the code that made it",
        ("Stage", "Label", "Key", "Made from", "Code", "Facts"),
        rows,
        anchors=tuple(f"key-{stage.key[:12]}" for stage in stages),
    )
    return [*_drawn(lineage_figure(stages)), table]


def _facts(facts: Mapping) -> str:
    said = []
    for name, value in facts.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        text = value if isinstance(value, str) else whole(value) if isinstance(value, int) else number(value)
        said.append(f"{name.replace('_', ' ')} {one_line(text, 24)}")
    return "; ".join(said[:5])


def _data(inputs: ReportInputs) -> list[Block]:
    blocks = _drawn(mixture_figure(inputs.pretrain_metrics, inputs.mixture, inputs.pretrain_steps))
    mix = _mixture_table(inputs)
    if mix:
        blocks.append(mix)
    if inputs.shards:
        rows = [
            (r.source, r.split.replace("_", "-"), whole(r.tokens), whole(r.documents), size(r.text_bytes),
             number(r.text_bytes / r.tokens) if r.tokens else "–")
            for r in inputs.shards
        ]  # fmt: skip
        header = ("Source", "Split", "Tokens", "Documents", "Text", "Bytes per token")
        blocks.append(Table("Token shards by source", header, rows, frozenset({2, 3, 4, 5})))
    return blocks


def _mixture_table(inputs: ReportInputs) -> Table | None:
    found = realised_rows(inputs.pretrain_metrics)
    if not found or inputs.mixture is None or not inputs.pretrain_steps:
        return None
    asked = asked_shares(inputs.mixture, inputs.pretrain_steps)
    totals = np.sum([counts for _, counts in found.values()], axis=0)
    rows = []
    for source in asked:
        at, counts = found.get(source, next(iter(found.values())))
        got = int(counts.sum()) if source in found else 0
        # A logged step counts completed steps, so it was drawn with the weights of item step - 1.
        wanted = float((asked[source][at - 1] * totals).sum())
        rows.append(
            (
                source,
                f"{wanted:,.1f}",
                whole(got),
                f"{got - wanted:+.1f}".replace("-", "−"),
                share(got / int(totals.sum())),
            )
        )
    header = ("Source", "Rows asked", "Rows realised", "Difference", "Share realised")
    caption = f"Rows by source over the {whole(len(totals))} logged steps"
    return Table(caption, header, rows, frozenset({1, 2, 3, 4}))


def _training(name: str, title: str, rows: Sequence[Row], declared: Mapping[str, Sequence[float]]) -> list[Block]:
    blocks = _drawn(loss_figure(f"{name}-loss", title, rows), rate_figure(f"{name}-rate", title, rows))
    domains = held_out(rows)
    if domains:
        losses = held_out(rows, "loss")
        table = [
            (s, number(v[0]), number(v[-1]), number(v.min()), number(losses[s][1][-1])) for s, (_, v) in domains.items()
        ]
        header = ("Domain", "First", "Last", "Lowest", "Last loss, nats per token")
        blocks.append(Table("Held-out bits per byte", header, table, frozenset({1, 2, 3, 4})))
    blocks += _drawn(
        throughput_figure(f"{name}-throughput", title, rows),
        schedule_figure(f"{name}-schedule", f"{title}: schedules", declared, rows),
        values_figure(f"{name}-aux", f"{title}: auxiliary losses and diagnostics", named_series(rows, "aux")),
    )
    events = [(whole(row["step"]), one_line(row["message"], 300)) for row in rows_of(rows, "event")]
    if events:
        blocks.append(Table("Events", ("Step", "What happened"), events))
    return blocks


def _scores(
    evaluations: Iterable[Mapping], first_metric_only: bool = False
) -> dict[tuple[str, str], dict[str, Mapping]]:
    """(task label, metric) -> model -> measured, in order of appearance."""
    found: dict[tuple[str, str], dict[str, Mapping]] = {}
    for result in evaluations:
        for metric, measured in list(result["metrics"].items())[: 1 if first_metric_only else None]:
            found.setdefault((result["label"], metric), {})[result["model"]] = measured
    return found


def _is_share(measured: Mapping) -> bool:
    return measured.get("higher_is_better", True) and 0 <= measured["value"] <= 1


def _score(measured: Mapping) -> str:
    return share(measured["value"]) if _is_share(measured) else number(measured["value"])


def _interval(measured: Mapping) -> str:
    low, high = measured.get("ci_low"), measured.get("ci_high")
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f}–{share(high)}" if _is_share(measured) else f"{number(low)}–{number(high)}"


def _against(measured: Mapping, low: float | None, high: float | None, other: str) -> str:
    """Where the 95 % interval of `measured` lies relative to `low`..`high`."""
    if None in (low, high, measured.get("ci_low"), measured.get("ci_high")):
        return "–"
    better, worse = f"better than {other}", f"worse than {other}"
    if not measured.get("higher_is_better", True):
        better, worse = worse, better
    if measured["ci_low"] > high:
        return better
    return worse if measured["ci_high"] < low else f"not told apart from {other}"


def _benchmarks(evaluations: Sequence[Mapping]) -> list[Block]:
    if not evaluations:
        return []
    tuned = any(result["model"] == "sft" for result in evaluations)
    rows = []
    for (task, metric), scores in _scores(evaluations).items():
        for model in (m for m in MODEL_NAMES if m in scores):
            measured, base = scores[model], scores.get("base", {}) if model == "sft" else {}
            chance = measured.get("chance")
            shown = share(chance) if _is_share(measured) else number(chance)
            to_base = _against(measured, base.get("ci_low"), base.get("ci_high"), "base")
            row = [task, metric, MODEL_NAMES[model], _score(measured), _interval(measured) or "–", shown]
            row += [whole(measured["n"]), _against(measured, chance, chance, "chance"), *([to_base] if tuned else [])]
            rows.append(row)
    header = ["Task", "Metric", "Model", "Score", "95\u00a0% interval", "Chance", "n", "Against chance"]
    table = Table("Every metric", header + ["Against base"] * tuned, rows, frozenset({3, 4, 5, 6}))
    reading = (
        "A score is called better or worse than another, or than chance, only where its interval lies apart from it."
    )
    return [*_drawn(benchmark_figure(evaluations)), table, Prose(reading)]


def _maps(inputs: ReportInputs) -> list[Block]:
    names = {one.name: None for model in MODEL_NAMES for one in inputs.maps.get(model, ())}
    blocks: list[Block] = []
    for name in names:
        by_model = {m: one for m in MODEL_NAMES for one in inputs.maps.get(m, ()) if one.name == name}
        picture = map_figure(by_model)
        if picture is not None:
            blocks.append(picture)
            continue
        blocks += [_map_table(MODEL_NAMES[m], one) for m, one in by_model.items() if one.kind == "table"]
    return blocks


def _map_table(model: str, one: Map) -> Table:
    columns = one.x_ticks or [str(i) for i in range(len(one.values[0]))]
    names = one.y_ticks or [str(i) for i in range(len(one.values))]
    rows = [(name, *(number(value) for value in values)) for name, values in zip(names, one.values, strict=True)]
    unit, note = f" ({one.unit})" if one.unit else "", f". {one.note}" if one.note else ""
    header = (one.y_label, *columns)
    return Table(f"{one.title}, {model}{unit}{note}", header, rows, frozenset(range(1, len(header))))


def _samples(samples: Sequence[Mapping]) -> list[Block]:
    found: list[Block] = []
    for sample in samples:
        correct = sample.get("correct")
        mark = "" if correct is None else "✓ correct" if correct else "✗ wrong"
        parts = [
            (name, _cut(str(sample[name])))
            for name in ("prompt", "response", "expected")
            if sample.get(name) is not None
        ]
        model = MODEL_NAMES.get(sample["model"], sample["model"])
        found.append(Sample(f"{one_line(sample['task'], 60)}, {model}", mark, bool(correct), parts))
    return found


def _cut(text: str) -> str:
    if len(text) <= _SAMPLE_CHARACTERS:
        return text
    return f"{text[:_SAMPLE_CHARACTERS]}\n[cut here: {whole(len(text))} characters in all]"


def _cost(stages: Sequence[StageRow]) -> list[Block]:
    if not stages:
        return []
    total_usd = sum(stage.cost_usd for stage in stages)
    kinds = list(dict.fromkeys(stage.stage for stage in stages))
    rows = []
    for kind in kinds:
        members = [stage for stage in stages if stage.stage == kind]
        rows.append((kind, len(members), sum(s.wall_s for s in members), sum(s.cost_usd for s in members)))
    rows.append(("total", len(stages), sum(s.wall_s for s in stages), total_usd))
    header = ("Stage", "Artifacts", "Wall time", *(("Cost",) if total_usd > 0 else ()))
    cells = [(kind, whole(n), duration(wall), *((money(usd),) if total_usd > 0 else ())) for kind, n, wall, usd in rows]
    table = Table("Time by stage, summed over its artifacts", header, cells, frozenset({1, 2, 3}))
    return [*_drawn(cost_figure(stages)), table]


def _versions(versions: Mapping[str, str]) -> list[Block]:
    rows = [(name, versions[name]) for name in sorted(versions)]
    return [Table("What it ran on", ("Package or platform", "Version"), rows)] if rows else []
