"""The loss of runs drawn with characters, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotille

from athanor.core.text import one_line
from athanor.reports.curves import Curve, smoothed, smoothing_span, thinned

COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue", "white")
_AXIS_CHARACTERS = 14


def terminal_plot(curves: Sequence[Curve], width: int, height: int, colour: bool) -> str:
    """The losses over one another, averaged, in `width` by about `height` characters; '' if none is finite.

    Without colour, several runs are told apart by the letters A, B, ...
    """
    figure = plotille.Figure()
    figure.width, figure.height = max(width - _AXIS_CHARACTERS, 20) // 10 * 10, height
    figure.with_colors, figure.origin = colour, False
    figure.x_label, figure.y_label = "step", "loss"
    figure.register_label_formatter(float, _tick)
    span = smoothing_span(*(len(curve.step_N) for curve in curves))
    drawn = []
    for i, curve in enumerate(curves):
        steps, losses = thinned(curve.step_N, smoothed(curve.loss_N, span), bins=2 * figure.width)
        finite = np.isfinite(losses)
        if finite.any():
            letter = None if colour or len(curves) == 1 else chr(ord("A") + i % 26)
            points = steps[finite].astype(float).tolist(), losses[finite].tolist()
            figure.plot(*points, lc=COLOURS[i % len(COLOURS)], label=one_line(curve.name, width - 6), marker=letter)
            drawn.append((max(points[0]), min(points[1]), max(points[1])))
    if not drawn:
        return ""
    ends, lows, highs = zip(*drawn, strict=True)
    margin = 0.02 * (max(highs) - min(lows)) or 0.5
    figure.set_x_limits(0.0, max(ends))
    figure.set_y_limits(min(lows) - margin, max(highs) + margin)
    return f"loss, moving average of {span} steps\n{figure.show(legend=len(curves) > 1)}"


def _tick(val: float, chars: int, delta: float, left: bool = False) -> str:
    """A number on the axis of steps (`left`) or of losses; `delta` is the length of the axis."""
    if left:
        return f"{val:,.{0 if delta >= 50 else 1}f}".ljust(chars)
    return f"{val:.3f}".rjust(chars)
