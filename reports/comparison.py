"""The figure of one run or several over one another: training loss, and held-out bits per byte."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.canvas import MARKERS, Picture, draw, legend, line_style, steps_axis
from reports.metrics import Curve, thinned
from reports.text import number, one_line


def comparison_figure(curves: Sequence[Curve]) -> Picture:
    """Training loss, as logged and averaged, above held-out bits per byte; every run in a colour of its own."""
    evaluated = any(len(curve.eval_step_M) for curve in curves)

    def paint(figure: Figure) -> None:
        axes = list(figure.subplots(1 + evaluated, 1, sharex=True, squeeze=False)[:, 0])
        for i, curve in enumerate(curves):
            style = line_style(i)
            axes[0].plot(*thinned(curve.step_N, curve.loss_N), color=style["color"], alpha=0.3, linewidth=0.8)
            axes[0].plot(*thinned(curve.step_N, curve.ema_N), label=one_line(curve.name, 44), **style)
            if len(curve.eval_step_M):
                axes[1].plot(curve.eval_step_M, curve.bits_per_byte_M, marker=MARKERS[i % len(MARKERS)], **style)
        axes[0].set_title("Training loss, nats per token; bold its EMA 0.99")
        if evaluated:
            axes[1].set_title("Held-out text, bits per byte, mean of the sources")
        for panel in axes:
            panel.margins(x=0.01)
        legend(axes[0])
        steps_axis(axes[-1])

    ends = "; ".join(f"{c.name} ends at {number(float(c.ema_N[-1]) if len(c.ema_N) else None)}" for c in curves)
    return draw("comparison", "Loss by run", f"Line chart of loss over steps: {ends}.", 2.9 + 1.9 * evaluated, paint)
