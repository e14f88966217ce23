"""The figures of a run: loss, learning rate, data mix, throughput, schedules, time by stage.

Each function returns a `Picture`, or None when it is given nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from athanor.core.numbers import compact, duration, money, number, share
from athanor.core.text import one_line
from athanor.reports.canvas import (
    DASHES,
    INK,
    LABEL_CHARACTERS,
    MARKERS,
    MUTED,
    SERIES,
    Picture,
    draw,
    legend,
    line_style,
    steps_axis,
)
from athanor.reports.curves import smoothed, smoothing_span, thinned
from athanor.reports.inputs import StageRow
from athanor.reports.log import Log, Mix, Series

_MAX_PANELS = 12


def _label(text: str, limit: int = LABEL_CHARACTERS) -> str:
    return one_line(text, limit)


def _thousands(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value) if value >= 10 else f"{value:g}"))


def _raw_and_average(axes: Axes, logged: Series, average_N: np.ndarray) -> None:
    """The logged values faint, their moving average on top."""
    steps, values = logged
    span = smoothing_span(len(values))
    axes.plot(*thinned(steps, values), color=SERIES[0], alpha=0.45, linewidth=0.8, label="as logged")
    axes.plot(*thinned(steps, average_N), color=SERIES[0], label=f"moving average, {span} steps")
    axes.margins(x=0.01)


def _averaged(logged: Series) -> np.ndarray:
    return smoothed(logged[1], smoothing_span(len(logged[1])))


def loss_figure(name: str, title: str, log: Log) -> Picture | None:
    """Training loss (as logged, and averaged) above the held-out bits per byte of every domain."""
    trained, domains = bool(np.isfinite(log.loss[1]).any()), log.bits_per_byte
    if not trained and not domains:
        return None
    panels = trained + bool(domains)

    def paint(figure: Figure) -> None:
        axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
        if trained:
            _raw_and_average(axes[0], log.loss, log.averaged_loss)
            axes[0].set_title("Training loss, nats per token")
            legend(axes[0])
        if domains:
            for i, (source, (at, values)) in enumerate(domains.items()):
                axes[-1].plot(at, values, marker=MARKERS[i % len(MARKERS)], label=source, **line_style(i))
            axes[-1].set_title("Held-out rows, bits per byte")
            axes[-1].margins(x=0.01)
            legend(axes[-1])
        steps_axis(axes[-1])

    said = []
    if trained:
        first, last = log.averaged_loss[[0, -1]]
        goes = "goes" if last >= first else "falls"
        said.append(f"training loss {goes} from {number(first)} to {number(last)} nats per token")
    said += [f"held-out {s}: {number(v[0])} to {number(v[-1])} bits per byte" for s, (_, v) in domains.items()]
    return draw(name, f"{title}: loss", f"Line chart over steps; {'; '.join(said)}.", 1.1 + 1.9 * panels, paint)


def rate_figure(name: str, title: str, log: Log) -> Picture | None:
    """Learning rate above the gradient norm before clipping."""
    rate, norm = log.rate[1], log.gradient_norm[1]
    if not np.isfinite(rate).any():
        return None

    def paint(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True)
        top.plot(*thinned(*log.rate), color=SERIES[0])
        top.set_title("Learning rate")
        top.set_ylim(bottom=0)
        top.ticklabel_format(axis="y", style="plain")
        top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        bottom.set_title("Gradient norm before clipping")
        _raw_and_average(bottom, log.gradient_norm, _averaged(log.gradient_norm))
        if np.nanmax(norm) > 20 * np.nanmin(norm) > 0:
            bottom.set_yscale("log")
            bottom.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            bottom.yaxis.set_minor_formatter(NullFormatter())
        else:
            bottom.set_ylim(bottom=0)
        legend(bottom)
        steps_axis(bottom)

    alt = f"Line charts over steps; learning rate up to {number(np.nanmax(rate))}, at the end {number(rate[-1])}; "
    alt += f"gradient norm between {number(np.nanmin(norm))} and {number(np.nanmax(norm))}."
    return draw(name, f"{title}: learning rate and gradient norm", alt, 4.1, paint)


def throughput_figure(name: str, title: str, log: Log) -> Picture | None:
    """Tokens per second and, where the device's peak is known, the share of it that was used."""
    rate, used = log.tokens_per_s[1], log.utilisation[1]
    if not np.isfinite(rate).any():
        return None
    known_peak = bool(np.nanmax(used, initial=0.0) > 0)

    def paint(figure: Figure) -> None:
        axes = list(figure.subplots(1 + known_peak, 1, sharex=True, squeeze=False)[:, 0])
        _raw_and_average(axes[0], log.tokens_per_s, _averaged(log.tokens_per_s))
        axes[0].set_title("Tokens per second")
        axes[0].set_ylim(bottom=0)
        _thousands(axes[0])
        legend(axes[0])
        if known_peak:
            axes[1].plot(*thinned(*log.utilisation), **line_style(2))
            axes[1].set_title("Model FLOPs used, share of the device's peak")
            axes[1].set_ylim(0, 1)
            axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
        steps_axis(axes[-1])

    alt = f"Line chart over steps; median throughput {compact(float(np.nanmedian(rate)))} tokens per second."
    return draw(name, f"{title}: throughput", alt, 2.5 + 1.5 * known_peak, paint)


def schedule_figure(name: str, caption: str, declared: Mapping[str, Sequence[float]], log: Log) -> Picture | None:
    """Every schedule as it was declared and, where the steps log it, as it was carried out.

    What never changes is left out, and so is the share of the sources, which the data mix shows.
    """
    if not log:
        return None
    at = np.array(declared.get("step", ()))
    asked = {
        value: (at, np.array(column, dtype=float))
        for value, column in declared.items()
        if value != "step" and not value.startswith("share of ") and len(set(column)) > 1
    }
    done = {"learning rate": log.rate, **log.schedule}
    done = {value: drawn for value, drawn in done.items() if len(drawn[0]) and (value in asked or not declared)}
    return values_figure(name, caption, done, asked)


def values_figure(
    name: str, caption: str, every: Mapping[str, Series], asked: Mapping[str, Series] | None = None
) -> Picture | None:
    """One small panel for each series over steps, the first `_MAX_PANELS` of them; `asked` dashed behind."""
    asked = asked or {}
    every = {**{value: (np.array([]), np.array([])) for value in asked}, **every}
    if not every:
        return None
    found = dict(list(every.items())[:_MAX_PANELS])
    note = f"{len(every) - len(found)} more are in metrics.jsonl." if len(every) > len(found) else ""
    note += "Dashed: as declared before the run." if asked else ""
    columns = min(len(found), 3)
    lines = -(-len(found) // columns)

    def paint(figure: Figure) -> None:
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, (value, (at, values)) in zip(panels, found.items(), strict=False):
            if value in asked:
                axes.plot(*asked[value], color=MUTED, linestyle=DASHES[1])
            axes.plot(*thinned(at, values), color=SERIES[0])
            axes.set_title(_label(value, 36))
            axes.margins(x=0.01)
            axes.xaxis.set_major_locator(MaxNLocator(5 if columns > 1 else 8, integer=True, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            axes.set_xlabel("optimizer steps completed")
        for axes in panels[len(found) :]:
            axes.set_axis_off()

    ends = {value: drawn if len(drawn) else asked[value][1] for value, (_, drawn) in found.items()}
    said = "; ".join(f"{key} from {number(v[0])} to {number(v[-1])}" for key, v in ends.items())
    return draw(name, caption, f"Line charts over steps: {said}.", 0.6 + 1.75 * lines, paint, note)


def mixture_figure(mix: Mix) -> Picture:
    """Realised share of every source, in bins of steps, against the share asked for."""
    bins = [part for part in np.array_split(np.arange(len(mix.step_K)), min(60, len(mix.step_K)))]
    middle = np.array([mix.step_K[part].mean() for part in bins])
    totals = np.array([mix.total_K[part].sum() for part in bins])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for i, (source, counts) in enumerate(mix.rows_K.items()):
            got = np.array([counts[part].sum() for part in bins]) / np.maximum(totals, 1)
            colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
            axes.plot(middle, got, marker, color=colour, markersize=3.6, label=f"{source}, realised")
            if source in mix.asked_N:
                shares = mix.asked_N[source]
                line = np.arange(1, len(shares) + 1)
                axes.plot(line, shares, color=colour, linestyle=DASHES[1], label=f"{source}, asked")
        axes.set_title("Share of rows")
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.margins(x=0.01)
        steps_axis(axes)
        legend(axes)

    everything = mix.total_K.sum()
    said = "; ".join(f"{s} {share(counts.sum() / everything)} overall" for s, counts in mix.rows_K.items())
    return draw("mixture", "Data mix: realised against asked", f"Realised share of rows by step: {said}.", 3.1, paint)


def cost_figure(stages: Sequence[StageRow]) -> Picture | None:
    """Wall time of every artifact, longest first; its cost beside it where time has a price."""
    longest = sorted(stages, key=lambda s: -s.wall_s)[:16]
    if not longest or longest[0].wall_s <= 0:
        return None
    priced = any(s.cost_usd > 0 for s in stages)
    scale, unit = next(
        (x, u) for x, u in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if longest[0].wall_s >= x or x == 1
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(longest))
        axes.barh(places, [s.wall_s / scale for s in longest], color=SERIES[0], height=0.62)
        for i, s in enumerate(longest):
            text = duration(s.wall_s) + (f"  ({money(s.cost_usd)})" if priced else "")
            axes.annotate(text, (s.wall_s / scale, i), (5, 0), textcoords="offset points", va="center", color=INK)
        axes.set_yticks(places, [_label(f"{s.stage} · {s.label}", 40) for s in longest])
        axes.set_ylim(len(longest) - 0.45, -0.55)
        axes.set_xlim(0, longest[0].wall_s / scale * 1.22)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"wall time, {unit}")

    said = "; ".join(f"{s.stage} {s.label} {duration(s.wall_s)}" for s in longest[:4])
    note = f"The {len(longest)} longest of {len(stages)} artifacts." if len(stages) > len(longest) else ""
    alt = f"Bar chart of wall time; longest: {said}."
    return draw("cost", "Wall time by artifact", alt, 0.7 + 0.27 * len(longest), paint, note)
