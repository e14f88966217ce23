"""From findings to the sections of the report, in reading order. A part that was not run yields no section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from athanor.core.numbers import NBSP, UNKNOWN, duration, money, number, share, size, whole
from athanor.core.text import one_line
from athanor.reports.canvas import Picture
from athanor.reports.figures import (
    cost_figure,
    loss_figure,
    mixture_figure,
    rate_figure,
    schedule_figure,
    throughput_figure,
    values_figure,
)
from athanor.reports.findings import Findings
from athanor.reports.inputs import MODEL_NAMES, ReportInputs, StageRow
from athanor.reports.lineage import lineage_figure
from athanor.reports.log import Log, Mix
from athanor.reports.mapfigures import map_figure
from athanor.reports.pieces import Answer, Block, Code, Folded, Link, ReportSection, Table
from athanor.reports.scores import benchmark_figure, reading, score_table

if TYPE_CHECKING:
    from athanor.models.maps import Map

SHOWN_SAMPLES = 2
_SAMPLE_CHARACTERS = 4000


def sections(findings: Findings) -> list[ReportSection]:
    """Every section that has something to show."""
    inputs = findings.inputs
    candidates = (
        ("asked", "What was asked", [Code(inputs.preset_yaml, "yaml", f"Preset {inputs.preset}, in full")]),
        ("lineage", "Lineage", _lineage(inputs.stages)),
        ("data", "Data", _data(findings)),
        (
            "pretraining",
            "Pretraining",
            _training("pretrain", "Pretraining", findings.pretraining, inputs.pretrain_schedule, inputs.meanings),
        ),
        (
            "fine-tuning",
            "Fine-tuning",
            [
                *_conversations(inputs.stages),
                *_training("sft", "Fine-tuning", findings.tuning, inputs.sft_schedule, inputs.meanings),
            ],
        ),
        ("benchmarks", "Benchmarks", _benchmarks(findings)),
        ("maps", "Inside the model", _maps(inputs)),
        ("samples", "Samples", _samples(inputs.samples)),
        ("cost", "Time and cost", _cost(inputs.stages)),
        ("reproduce", "Reproduce", [Code(inputs.command, "sh", "The command that makes all of this again")]),
        ("versions", "Versions", _versions(inputs.versions)),
    )
    return [ReportSection(anchor, title, blocks) for anchor, title, blocks in candidates if blocks]


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


def _data(findings: Findings) -> list[Block]:
    blocks: list[Block] = _acquired(findings.inputs.stages)
    if findings.mix is not None:
        blocks.append(mixture_figure(findings.mix))
        blocks += [_mixture_table(findings.mix)] if findings.mix.asked_N else []
    if findings.inputs.shards:
        rows = [
            (r.source, r.split.replace("_", "-"), whole(r.tokens), whole(r.documents), size(r.text_bytes),
             number(r.text_bytes / r.tokens) if r.tokens else "–")
            for r in findings.inputs.shards
        ]  # fmt: skip
        header = ("Source", "Split", "Tokens", "Documents", "Text", "Bytes per token")
        blocks.append(Table("Token shards by source", header, rows, frozenset({2, 3, 4, 5})))
    return blocks


def _acquired(stages: Sequence[StageRow]) -> list[Block]:
    """What came of each source, and what of it was not used."""
    rows = [
        (
            stage.label,
            whole((facts := stage.facts)["documents"]),
            size(facts["text_bytes"]),
            size(facts["held_out_bytes"]),
            whole(bad := facts["rejected"]),
            share(bad / max(1, bad + facts["documents"])),
            whole(facts.get("duplicate_documents", 0)),
            whole(facts.get("files_passed_over", 0)),
        )
        for stage in stages
        if stage.stage == "acquire" and "held_out_bytes" in stage.facts
    ]
    header = ("Source", "Documents", "Text", "Held out", "Bad records", "Share bad", "Repeats", "Files passed over")
    return [Table("What was read of each source", header, rows, frozenset(range(1, 8)))] if rows else []


def _mixture_table(mix: Mix) -> Table:
    everything = int(mix.total_K.sum())
    rows = []
    for source, asked_N in mix.asked_N.items():
        got = int(mix.rows_K[source].sum()) if source in mix.rows_K else 0
        # A logged step counts completed steps, so it was drawn with the weights of item step - 1.
        wanted = float((asked_N[mix.step_K - 1] * mix.total_K).sum())
        difference = f"{got - wanted:+.1f}".replace("-", "−")
        rows.append((source, f"{wanted:,.1f}", whole(got), difference, share(got / everything)))
    header = ("Source", "Rows asked", "Rows realised", "Difference", "Share realised")
    caption = f"Rows by source over the {whole(len(mix.step_K))} logged steps"
    return Table(caption, header, rows, frozenset({1, 2, 3, 4}))


def _conversations(stages: Sequence[StageRow]) -> list[Block]:
    """What fine-tuning's rows hold of the conversations; nothing for models made before it was counted."""
    facts = next((stage.facts for stage in stages if stage.stage == "sft"), {})
    if "lost_assistant_tokens" not in facts:
        return []
    asked, tokens, lost = (facts[n] for n in ("conversations", "assistant_tokens", "lost_assistant_tokens"))
    rows = [
        ("Conversations, asked", whole(asked), share(1.0)),
        ("cut at a row's end", whole(cut := facts["truncated_conversations"]), share(cut / asked)),
        ("left out, their answers beyond it", whole(out := facts["dropped_conversations"]), share(out / asked)),
        ("Assistant tokens, asked", whole(tokens), share(1.0)),
        ("lost", whole(lost), share(lost / max(1, tokens))),
    ]
    return [Table("What the rows hold of the conversations", ("", "Count", "Share of asked"), rows, frozenset({1, 2}))]


def _training(
    name: str, title: str, log: Log, declared: Mapping[str, Sequence[float]], meanings: Mapping[str, str]
) -> list[Block]:
    blocks = _drawn(loss_figure(f"{name}-loss", title, log), rate_figure(f"{name}-rate", title, log))
    if log.bits_per_byte:
        rows = [
            (source, number(v[0]), number(v[-1]), number(v.min()), number(log.held_out_loss[source][1][-1]))
            for source, (_, v) in log.bits_per_byte.items()
        ]
        header = ("Domain", "First", "Last", "Lowest", "Last loss, nats per token")
        blocks.append(
            Table(
                "Bits per byte of held-out rows, without each document's first token",
                header,
                rows,
                frozenset({1, 2, 3, 4}),
            )
        )
    blocks += _drawn(
        throughput_figure(f"{name}-throughput", title, log),
        schedule_figure(f"{name}-schedule", f"{title}: schedules", declared, log),
        values_figure(f"{name}-aux", f"{title}: auxiliary losses and diagnostics", log.auxiliary),
    )
    if values := {**log.schedule, **log.auxiliary}:
        rows = [(key, number(v[0]), number(v[-1]), meanings.get(key, UNKNOWN)) for key, (_, v) in values.items()]
        header = ("Value", "First", "Last", "What it says")
        blocks.append(Table("What the model's own values mean", header, rows, frozenset({1, 2})))
    events = [(whole(row["step"]), one_line(row["message"], 300)) for row in log.events]
    if events:
        blocks.append(Table("Events", ("Step", "What happened"), events))
    return blocks


def _benchmarks(findings: Findings) -> list[Block]:
    scores = findings.scores
    if not scores:
        return []
    tuned = any("sft" in by_model for by_model in scores.values())
    table = score_table(scores, MODEL_NAMES, reference="base" if tuned else "")
    prompts = _prompts(findings.inputs.evaluations)
    return [*_drawn(benchmark_figure(scores)), table, reading("the base model"), *prompts]


def _prompts(evaluations: Sequence[Mapping]) -> list[Block]:
    """What the models could not read of the prompts; nothing where they read all."""
    rows = []
    for one in evaluations:
        facts = one.get("reading", {})
        if not facts.get("cut_prompts") and not facts.get("short_answers"):
            continue
        prompts, tokens = facts["prompts"], facts["prompt_tokens"]
        rows.append(
            (
                one["label"],
                MODEL_NAMES.get(one["model"], one["model"]),
                whole(prompts),
                f"{whole(facts['cut_prompts'])} ({share(facts['cut_prompts'] / prompts)})",
                f"{whole(facts['cut_tokens'])} ({share(facts['cut_tokens'] / tokens)})",
                f"{whole(facts['short_answers'])} ({share(facts['short_answers'] / prompts)})",
            )
        )
    header = ("Task", "Model", "Prompts", "Lost their beginning", "Tokens lost", "Less room to answer than asked")
    title = "Prompts longer than the model reads"
    return [Table(title, header, rows, frozenset({2, 3, 4, 5}))] if rows else []


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
    """Of each task SHOWN_SAMPLES answers, of the models in turn, and the others folded."""
    by_task: dict[str, dict[str, list[Answer]]] = {}
    for sample in samples:
        if sample.get("expected") or sample.get("correct") is not None:  # else its text is scored, and nothing asked
            by_task.setdefault(sample["task"], {}).setdefault(sample["model"], []).append(_answer(sample))
    found: list[Block] = []
    for task, by_model in by_task.items():
        answers = [answer for turn in zip_longest(*by_model.values()) for answer in turn if answer is not None]
        found += answers[:SHOWN_SAMPLES]
        if rest := answers[SHOWN_SAMPLES:]:
            found.append(Folded(f"{len(rest)} more of {one_line(task, 60)}", rest))
    return found


def _answer(sample: Mapping) -> Answer:
    correct = sample.get("correct")
    mark = "" if correct is None else "✓ correct" if correct else "✗ wrong"
    cut_tokens = sample.get("cut_tokens", 0)
    mark += f", the first {whole(cut_tokens)} tokens of the prompt were not read" if cut_tokens else ""
    parts = [
        (name, _shortened(str(sample[name])))
        for name in ("prompt", "response", "expected")
        if sample.get(name) is not None
    ]
    model = MODEL_NAMES.get(sample["model"], sample["model"])
    return Answer(f"{one_line(sample['task'], 60)}, {model}", mark, bool(correct), parts)


def _shortened(text: str) -> str:
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
