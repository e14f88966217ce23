"""The figure of one run or several over one another: training loss, and held-out bits per byte."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from athanor.core.numbers import number
from athanor.core.text import one_line
from athanor.reports.canvas import MARKERS, Picture, draw, legend, line_style, steps_axis
from athanor.reports.curves import Curve, smoothed, smoothing_span, thinned


def comparison_figure(curves: Sequence[Curve]) -> Picture:
    """Training loss, as logged and averaged, above held-out bits per byte; every run in a colour of its own."""
    span = smoothing_span(*(len(curve.step_N) for curve in curves))
    averages = [smoothed(curve.loss_N, span) for curve in curves]
    evaluated = any(len(curve.eval_step_M) for curve in curves)

    def paint(figure: Figure) -> None:
        axes = list(figure.subplots(1 + evaluated, 1, sharex=True, squeeze=False)[:, 0])
        for i, (curve, average_N) in enumerate(zip(curves, averages, strict=True)):
            style = line_style(i)
            axes[0].plot(*thinned(curve.step_N, curve.loss_N), color=style["color"], alpha=0.3, linewidth=0.8)
            axes[0].plot(*thinned(curve.step_N, average_N), label=one_line(curve.name, 44), **style)
            if len(curve.eval_step_M):
                axes[1].plot(curve.eval_step_M, curve.bits_per_byte_M, marker=MARKERS[i % len(MARKERS)], **style)
        axes[0].set_title(f"Training loss, nats per token; strong: moving average, {span} steps")
        if evaluated:
            axes[1].set_title("Held-out rows, bits per byte, mean of the sources")
        for panel in axes:
            panel.margins(x=0.01)
        legend(axes[0])
        steps_axis(axes[-1])

    ends = "; ".join(
        f"{c.name} ends at {number(float(a[-1]))}" for c, a in zip(curves, averages, strict=True) if len(a)
    )
    return draw("comparison", "Loss by run", f"Line chart of loss over steps: {ends}.", 2.9 + 1.9 * evaluated, paint)
