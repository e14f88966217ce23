"""Benchmark scores: how they read, how two compare, and their figure. A score is a share unless its metric says not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from athanor.core.numbers import NBSP, UNKNOWN, number, share, whole
from athanor.core.text import one_line
from athanor.reports.canvas import DASHES, LABEL_CHARACTERS, MARKERS, MUTED, SERIES, Picture, draw, legend
from athanor.reports.inputs import MODEL_NAMES
from athanor.reports.intervals import LEAST_N, differ
from athanor.reports.pieces import Cell, Prose, Table

Measured = Mapping  # value, ci_low, ci_high, n, chance, higher_is_better; items, where they are known
TOO_FEW = f"n < {LEAST_N}: no interval"
Scores = Mapping[tuple[str, str], Mapping[str, Measured]]


def scores_of(evaluations: Iterable[Mapping]) -> Scores:
    """(task label, metric) -> model -> measured, in order of appearance."""
    found: dict[tuple[str, str], dict[str, Measured]] = {}
    for result in evaluations:
        for metric, measured in result["metrics"].items():
            items = result.get("items", {}).get(metric)
            found.setdefault((result["label"], metric), {})[result["model"]] = {**measured, "items": items}
    return found


def is_share(measured: Measured) -> bool:
    """Whether it is read as a percentage."""
    return measured.get("higher_is_better", True) and 0 <= measured["value"] <= 1


def score_text(measured: Measured) -> str:
    """The value."""
    return share(measured["value"]) if is_share(measured) else number(measured["value"])


def interval_text(measured: Measured) -> str:
    """Its 95 % interval; TOO_FEW where the items are too few for one."""
    low, high = _interval(measured)
    if low is None or high is None:
        return TOO_FEW
    return f"{100 * low:.1f}–{share(high)}" if is_share(measured) else f"{number(low)}–{number(high)}"


def against_chance(measured: Measured) -> str:
    """Where the 95 % interval lies relative to chance."""
    low, high = _interval(measured)
    chance = measured.get("chance")
    if chance is None or low is None or high is None:
        return UNKNOWN if chance is None else TOO_FEW
    if low <= chance <= high:
        return "not told apart from chance"
    return _verdict(low > chance, measured, "chance")


def against_model(measured: Measured, other: Measured | None, name: str) -> str:
    """Whether two models differ on the same items, or why that cannot be said; `–` of a model against itself."""
    if other is measured:
        return UNKNOWN
    if other is None:
        return f"no verdict: not scored of {name}"
    ours, theirs = measured.get("items"), other.get("items")
    if ours is None or theirs is None:
        return "no verdict: what came of each item is not known"
    if ours["sha256"] != theirs["sha256"]:
        return f"no verdict: other items than {name}"
    if (apart := differ(ours, theirs)) is None:
        return f"no verdict: n < {LEAST_N}"
    return _verdict(measured["value"] > other["value"], measured, name) if apart else f"not told apart from {name}"


def _verdict(above: bool, measured: Measured, other: str) -> str:
    return f"{'better' if above == measured.get('higher_is_better', True) else 'worse'} than {other}"


def _interval(measured: Measured) -> tuple[float | None, float | None]:
    return (measured.get("ci_low"), measured.get("ci_high")) if measured["n"] >= LEAST_N else (None, None)


def score_table(scores: Scores, models: Mapping[str, Cell], reference: str = "") -> Table:
    """A row for every score of the models, by the name `models` gives each; against that of `reference`, if given."""
    rows = []
    for (task, metric), by_model in scores.items():
        for model in (m for m in models if m in by_model):
            measured = by_model[model]
            chance = share(measured.get("chance")) if is_share(measured) else number(measured.get("chance"))
            verdict = [against_model(measured, by_model.get(reference), reference)] if reference else []
            row = [task, metric, models[model], score_text(measured), interval_text(measured), chance]
            rows.append([*row, whole(measured["n"]), against_chance(measured), *verdict])
    header = ["Task", "Metric", "Model", "Score", f"95{NBSP}% interval", "Chance", "n", "Against chance"]
    header += [f"Against {reference}"] if reference else []
    return Table("Every metric", header, rows, frozenset({3, 4, 5, 6}))


def reading(reference: str) -> Prose:
    """How the table is read."""
    return Prose(
        "A score is called better or worse than chance only where its 95 % interval lies apart from it, and than that "
        f"of {reference} only where the two differ at the 5 % level item by item (exact test of McNemar for yes and "
        f"no, paired jackknife for all else). On fewer than {LEAST_N} items nothing is said."
    )


def benchmark_figure(scores: Scores, names: Mapping[str, str] = MODEL_NAMES) -> Picture | None:
    """Scores between 0 and 1 by model, with 95 % intervals and the chance level. Others are in the table alone."""
    lines = {
        line: shares
        for line, by_model in scores.items()
        if (shares := {model: measured for model, measured in by_model.items() if is_share(measured)})
    }
    if not lines:
        return None
    models = [model for model in names if any(model in by_model for by_model in lines.values())]
    marks = [
        score.get(mark) or 0.0
        for by_model in lines.values()
        for score in by_model.values()
        for mark in ("value", "ci_high", "chance")
    ]
    apart = min(0.28, 0.84 / len(models))
    reach = min(1.0, 1.15 * max(marks)) or 1.0

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        seen: set[str] = set()
        for i, by_model in enumerate(lines.values()):
            chances = {score["chance"] for score in by_model.values() if score.get("chance") is not None}
            for chance in chances:
                once = "" if "chance" in seen else "chance"
                seen.add("chance")
                axes.plot(
                    [chance, chance], [i - 0.38, i + 0.38], color=MUTED, linestyle=DASHES[2], linewidth=1.6, label=once
                )
            for j, model in enumerate(models):
                if model not in by_model:
                    continue
                score, place = by_model[model], i + apart * (j - (len(models) - 1) / 2)
                series = list(names).index(model)
                colour, marker = SERIES[series % len(SERIES)], MARKERS[series % len(MARKERS)]
                once = "" if model in seen else names[model]
                seen.add(model)
                low, high = _interval(score)
                if low is not None and high is not None:
                    axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
                axes.plot(score["value"], place, marker, color=colour, markersize=6, linestyle="none", label=once)
        ticks = ["\n".join(one_line(name, LABEL_CHARACTERS) for name in line) for line in lines]
        axes.set_yticks(range(len(lines)), ticks)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(-0.01 * reach, 1.01 * reach)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("score")
        legend(axes)

    said = [
        f"{task} {metric}: " + ", ".join(f"{names[m]} {share(at[m]['value'])}" for m in models if m in at)
        for (task, metric), at in lines.items()
    ]
    height_in = 0.9 + max(0.55, 0.18 * len(models)) * len(lines)
    return draw(
        "benchmarks", "Scores and their 95 % intervals", f"Dot plot of scores; {'; '.join(said)}.", height_in, paint
    )
