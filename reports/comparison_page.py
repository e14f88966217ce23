"""The page of two runs or more: what sets them apart, their curves over one another, their figures and scores.

A pure function of what is compared, made of the report card's pieces. Each run has a letter and a colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from athanor.core.numbers import UNKNOWN, compact, number, whole
from athanor.reports.canvas import LETTERS, Picture
from athanor.reports.compared import (
    ComparedRun,
    cautions,
    lettered_scores,
    loss_cautions,
    recipe_differences,
    side_by_side,
)
from athanor.reports.comparison import comparison_figure
from athanor.reports.page import Page
from athanor.reports.pieces import Block, Cell, Code, Headline, Mark, Prose, ReportSection, Table
from athanor.reports.scores import benchmark_figure, reading, score_table


def comparison_page(runs: Sequence[ComparedRun], keep: float) -> str:
    """HTML that loads nothing. `keep`: what the exponential averages of the loss keep of themselves at each step."""
    marks = [Mark(letter, i) for i, letter in enumerate(LETTERS[: len(runs)])]
    names = [run.name for run in runs]
    candidates = (
        ("caution", "What does not compare", [Prose(said) for said in cautions(runs)]),
        ("differences", "What differs", [_differences(runs, marks)]),
        ("curves", "Loss and held-out text", [_curves(runs), *_held_out(runs, marks)]),
        ("figures", "Side by side", _side_by_side(runs, marks, keep)),
        ("benchmarks", "Benchmarks", _benchmarks(runs, marks)),
        ("terminal", "In a terminal", [Code(f"athanor runs compare {' '.join(names)}", "sh", "The same as a table")]),
    )
    sections = [ReportSection(anchor, title, blocks) for anchor, title, blocks in candidates if blocks]
    summary = [Headline(mark, run.name, _said(run)) for mark, run in zip(marks, runs, strict=True)]
    subtitle = "Every run has its letter and its colour everywhere on this page"
    return Page(f"{len(runs)} runs compared", ", ".join(names), subtitle, summary, sections).html


def _said(run: ComparedRun) -> str:
    return f"{run.family}, {compact(run.parameters)} parameters, {run.state}, step {run.steps:,}"


def _differences(runs: Sequence[ComparedRun], marks: Sequence[Mark]) -> Block:
    rows = recipe_differences(runs)
    if not rows:
        return Prose("Their recipes are the same in every field that is known.")
    caption = "Every field in which the recipes are not all alike; – is not given, or the default"
    return Table(caption, ("Field", *marks), [(name, *values) for name, values in rows])


def _curves(runs: Sequence[ComparedRun]) -> Picture:
    return comparison_figure([run.curve for run in runs], note=" ".join(loss_cautions(runs)))


def _held_out(runs: Sequence[ComparedRun], marks: Sequence[Mark]) -> Iterator[Block]:
    rows: list[Sequence[Cell]] = []
    for source in sorted({source for run in runs for source in run.curve.held_out}):
        for mark, run in zip(marks, runs, strict=True):
            measured = run.curve.held_out.get(source)
            if measured is None or (best := measured.best) is None:
                continue
            bits, tokens = measured.bits_per_byte_M, measured.tokens_M[best]
            read = UNKNOWN if math.isnan(tokens) else whole(tokens)
            at = whole(measured.step_M[best])
            rows.append((source, mark, number(bits[best], 4), at, number(bits[-1], 4), read))
    if rows:
        header = ("Source", "Run", "Best", "At step", "Last", "Tokens read (n)")
        yield Table("Bits per byte of held-out rows", header, rows, frozenset({2, 3, 4, 5}))
        yield Prose(
            "Rows are cut from one long text, so that their bits per byte have no interval, and the best of many is "
            "lower than what new text would give. The benchmark bits_per_byte reads whole documents and has one."
        )


def _side_by_side(runs: Sequence[ComparedRun], marks: Sequence[Mark], keep: float) -> list[Block]:
    rows = [(name, *values) for name, values in side_by_side(runs, keep)]
    numeric = frozenset(range(1, 1 + len(runs)))
    average = f"EMA {keep}: the exponential average that keeps {keep} of itself at each step, corrected for its start."
    return [Table("Size, course, speed and cost", ("", *marks), rows, numeric), Prose(average)]


def _benchmarks(runs: Sequence[ComparedRun], marks: Sequence[Mark]) -> list[Block]:
    scores = lettered_scores(runs)
    if not scores:
        return []
    picture = benchmark_figure(scores, {mark.text: mark.text for mark in marks})
    table = score_table(scores, {mark.text: mark for mark in marks}, reference=marks[0].text)
    return [*([picture] if picture else []), table, reading(f"run {marks[0].text}")]
