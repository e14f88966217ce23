"""Interpretability maps as figures: one a map name, base and SFT side by side, for heat maps also their difference.

Both models share one scale, so that colours and heights compare. A map of kind `table` becomes no figure (see
`reports.sections`). More than `_MAX_LINES` series are drawn as a heat map, because no legend could tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from athanor.core.numbers import number
from athanor.core.text import one_line
from athanor.reports.canvas import MARKERS, SERIES, WIDTH_IN, Picture, draw, line_style
from athanor.reports.inputs import MODEL_NAMES

if TYPE_CHECKING:
    from athanor.models.maps import Map

_MAX_LINES = 8
_SERIES_CHARACTERS = 110  # as many as the figure is wide
_TICK_STEPS = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
_ANNOTATE_COLUMNS, _ANNOTATE_ROWS = 18, 32


def map_figure(by_model: Mapping[str, Map]) -> Picture | None:
    """One figure of the maps of one name, keyed by model (`base`, `sft`); None for tables and empty maps."""
    first = next(iter(by_model.values()))
    panels = {MODEL_NAMES[model]: _numbers(one) for model, one in by_model.items()}
    if first.kind == "table" or any(values.size == 0 for values in panels.values()):
        return None
    shift = _shift(by_model)
    alt = f"{first.title}. " + " ".join(_said(name, values, first.unit) for name, values in panels.items())
    if shift is not None:
        alt += f" Shift, SFT minus base, from {number(shift.min())} to {number(shift.max())}."
    as_heat = first.kind == "heatmap" or (first.kind == "lines" and len(first.values) > _MAX_LINES)
    if as_heat:
        return _heat(first, panels, shift, alt)
    return _plot(first, panels, alt)


def _numbers(one: Map) -> np.ndarray:
    """Float64 [rows, columns]."""
    return np.array(one.values, dtype=float)


def _shift(by_model: Mapping[str, Map]) -> np.ndarray | None:
    """SFT minus base where both are heat maps of one shape with the same ticks."""
    if set(by_model) != {"base", "sft"} or by_model["base"].kind != "heatmap":
        return None
    base, sft = by_model["base"], by_model["sft"]
    same = (base.x_ticks, base.y_ticks) == (sft.x_ticks, sft.y_ticks) and _numbers(base).shape == _numbers(sft).shape
    return _numbers(sft) - _numbers(base) if same else None


def _said(name: str, values: np.ndarray, unit: str) -> str:
    low, mean, high = float(values.min()), float(values.mean()), float(values.max())
    return f"{name}: from {number(low)} to {number(high)}, mean {number(mean)}{' ' + unit if unit else ''}."


def _heat(one: Map, panels: Mapping[str, np.ndarray], shift: np.ndarray | None, alt: str) -> Picture:
    rows, columns = next(iter(panels.values())).shape
    count = len(panels) + (shift is not None)
    side_by_side = not one.x_ticks or columns * count <= 48
    scale = min(values.min() for values in panels.values()), max(values.max() for values in panels.values())
    row_in = 0.2 if rows <= 32 else max(5.5 / rows, 0.02)
    panel_in = max(rows * row_in, 1.3) + 0.75
    width_in = (WIDTH_IN - 1.4) / (count if side_by_side else 1)

    def paint(figure: Figure) -> None:
        shape = (1, count) if side_by_side else (count, 1)
        axes = list(figure.subplots(*shape, sharey=True, squeeze=False).ravel())
        for panel, (name, values) in zip(axes, panels.items(), strict=False):
            image = _heat_panel(panel, one, values, "cividis", scale, width_in)
            panel.set_title(name)
        figure.colorbar(
            image, ax=axes[: len(panels)], label=one.unit or None, pad=0.02, fraction=0.05, aspect=30
        ).outline.set_visible(False)  # type: ignore[operator]
        if shift is not None:
            reach = float(np.abs(shift).max()) or 1.0
            image = _heat_panel(axes[-1], one, shift, "RdBu_r", (-reach, reach), width_in)
            axes[-1].set_title("shift: SFT − base")
            figure.colorbar(
                image, ax=axes[-1:], label=one.unit or None, pad=0.02, fraction=0.08, aspect=30
            ).outline.set_visible(False)  # type: ignore[operator]
        for i, panel in enumerate(axes):
            if one.y_label and (i == 0 or not side_by_side):
                panel.set_ylabel(one_line(one.y_label, 40))

    return draw(f"map-{_slug(one.name)}", one.title, alt, panel_in * (1 if side_by_side else count), paint, one.note)


def _heat_panel(axes: Axes, one: Map, values: np.ndarray, colours: str, scale: tuple[float, float], width_in: float):
    image = axes.imshow(values, aspect="auto", cmap=colours, vmin=scale[0], vmax=scale[1], interpolation="none")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    rows, columns = values.shape
    _ticks(axes.xaxis, one.x_ticks, columns, width_in)
    _ticks(axes.yaxis, one.y_ticks or one.series, rows, rows * 0.2 if rows <= 32 else 5.5, upright=True)
    if one.x_label:
        axes.set_xlabel(one_line(one.x_label, 60))
    if rows <= _ANNOTATE_ROWS and columns <= _ANNOTATE_COLUMNS and width_in / columns > 0.42:
        for row, column in np.ndindex(rows, columns):
            red, green, blue, _ = image.cmap(image.norm(values[row, column]))
            ink = "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
            text = _cell(float(values[row, column]), scale[1] - scale[0])
            axes.text(column, row, text, ha="center", va="center", size=7, color=ink)
    return image


def _cell(value: float, spread: float) -> str:
    """Short enough for a cell; digits below a thousandth of the scale are noise there."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−") if 0.5 <= spread < 100 else number(value, 2)


def _ticks(axis, labels: Sequence[str] | None, count: int, room_in: float, upright: bool = False) -> None:
    """Tick labels that fit: as many as there is room for, turned when they are long."""
    texts = [one_line(str(label), 18) for label in labels] if labels else [str(i) for i in range(count)]
    longest_in = max((len(text) for text in texts), default=1) * 0.075
    turned = not upright and longest_in > 0.92 * room_in / max(count, 1) and longest_in > 0.3
    needed_in = 0.17 if upright or turned else longest_in + 0.08
    every = next(step for step in _TICK_STEPS if step * room_in >= count * needed_in)
    axis.set_ticks(range(0, count, every), texts[:count:every])
    if turned:
        axis.set_tick_params(rotation=90)


def _plot(one: Map, panels: Mapping[str, np.ndarray], alt: str) -> Picture:
    def paint(figure: Figure) -> None:
        axes = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
        width_in = (WIDTH_IN - 0.8) / len(panels)
        for panel, (name, values) in zip(axes, panels.items(), strict=True):
            (_bars if one.kind == "bars" else _lines)(panel, one, values)
            panel.set_title(name)
            panel.set_xlabel(one_line(one.x_label, 60))
            _ticks(panel.xaxis, one.x_ticks, values.shape[1], width_in)
        axes[0].set_ylabel(one_line(" ".join(filter(None, (one.y_label, f"({one.unit})" if one.unit else ""))), 48))
        if len(one.values) > 1 and one.series:
            handles, labels = axes[0].get_legend_handles_labels()
            columns = max(1, int(WIDTH_IN / (0.7 + 0.068 * max(map(len, labels)))))
            figure.legend(handles, labels, loc="outside upper left", ncols=columns)

    return draw(f"map-{_slug(one.name)}", one.title, alt, 3.0, paint, one.note)


def _series_name(one: Map, index: int) -> str:
    named = one.series and index < len(one.series)
    return one_line(str(one.series[index]), _SERIES_CHARACTERS) if named else str(index)


def _lines(axes: Axes, one: Map, values: np.ndarray) -> None:
    for i, row in enumerate(values):
        marker = {"marker": MARKERS[i % len(MARKERS)]} if len(row) <= 40 else {}
        axes.plot(np.arange(len(row)), row, label=_series_name(one, i), **marker, **line_style(i))


def _bars(axes: Axes, one: Map, values: np.ndarray) -> None:
    width = 0.8 / len(values)
    hatches = ("", "///", "...", "\\\\\\", "xxx", "+++")
    for i, row in enumerate(values):
        places = np.arange(len(row)) + width * (i - (len(values) - 1) / 2)
        axes.bar(
            places,
            row,
            width * 0.94,
            color=SERIES[i % len(SERIES)],
            label=_series_name(one, i),
            hatch=hatches[i % len(hatches)],
            edgecolor="none" if i == 0 else "#00000055",
        )
    axes.grid(axis="x", visible=False)


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())[:60]
