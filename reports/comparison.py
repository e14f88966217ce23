"""The figure of one run or several over one another: training loss, and held-out bits per byte of every source."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from athanor.core.numbers import number
from athanor.core.text import one_line
from athanor.reports.canvas import LETTERS, MARKERS, Picture, draw, legend, legend_beside, line_style, steps_axis
from athanor.reports.curves import Curve, smoothed, smoothing_span, thinned

_MAX_SOURCES = 8
_NAMED_AT_ONE_PANEL = 4


def comparison_figure(curves: Sequence[Curve], note: str = "") -> Picture:
    """Training loss, as logged and averaged, above held-out bits per byte by source; each run in a colour of its own.

    Several have a letter before their names.
    """
    span = smoothing_span(*(len(curve.step_N) for curve in curves))
    averages = [smoothed(curve.loss_N, span) for curve in curves]
    names = [curve.name for curve in curves]
    if len(curves) > 1:
        names = [f"{letter}  {name}" for letter, name in zip(LETTERS, names, strict=False)]
    every = sorted({source for curve in curves for source in curve.held_out})
    sources = every[:_MAX_SOURCES]
    more = f"{len(every) - len(sources)} more sources are in the tables. " if len(every) > len(sources) else ""

    def paint(figure: Figure) -> None:
        axes = list(figure.subplots(1 + len(sources), 1, sharex=True, squeeze=False)[:, 0])
        for i, (curve, name, average_N) in enumerate(zip(curves, names, averages, strict=True)):
            style = line_style(i)
            axes[0].plot(*thinned(curve.step_N, curve.loss_N), color=style["color"], alpha=0.3, linewidth=0.8)
            axes[0].plot(*thinned(curve.step_N, average_N), label=one_line(name, 44), **style)
            for panel, source in zip(axes[1:], sources, strict=True):
                if source in curve.held_out:
                    at = curve.held_out[source]
                    panel.plot(at.step_M, at.bits_per_byte_M, marker=MARKERS[i % len(MARKERS)], **style)
        axes[0].set_title(f"Training loss, nats per token; strong: moving average, {span} steps")
        for panel, source in zip(axes[1:], sources, strict=True):
            panel.set_title(f"Held-out rows of {one_line(source, 44)}, bits per byte")
        for panel in axes:
            panel.margins(x=0.01)
        if len(curves) > _NAMED_AT_ONE_PANEL:
            legend_beside(figure, axes[0])
        else:
            legend(axes[0])
        steps_axis(axes[-1])

    ends = "; ".join(
        f"{name} ends at {number(float(average_N[-1]))}"
        for name, average_N in zip(names, averages, strict=True)
        if len(average_N)
    )
    height_in = max(2.9 + 1.9 * len(sources), 1.0 + 0.32 * len(curves))
    alt = f"Line chart of loss over steps: {ends}."
    return draw("comparison", "Loss by run", alt, height_in, paint, more + note)
