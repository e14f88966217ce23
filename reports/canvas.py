"""One look for every figure: colour-blind-safe, drawn once, legible on a light and on a dark page.

A figure is drawn with matplotlib in the light theme. In its SVG each theme colour is then replaced by a CSS variable
and each font by the page's, so the same drawing follows `prefers-color-scheme`, inline in the report and on its own.
The PNG keeps the light theme on an opaque ground. Series differ by colour (Okabe and Ito's set) *and* by line style or
marker. Bytes depend on the arguments alone: no date, no version, ids salted with the figure's name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from string import ascii_uppercase
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from athanor.core.text import clean, flatten, one_line

WIDTH_IN = 10.2
PNG_DPI = 100
LABEL_CHARACTERS = 28  # of a name beside an axis, and of a line in a legend
LEGEND_CHARACTERS = 120  # of a name in a legend

THEME = {  # variable: (light, dark)
    "paper": ("#fdfdfc", "#15181c"),
    "ink": ("#1f2933", "#e4e7ea"),
    "muted": ("#5a6570", "#a3adb7"),
    "rule": ("#dde1e5", "#353c44"),
    "s0": ("#0072b2", "#4fa9e0"),
    "s1": ("#d55e00", "#f58a4b"),
    "s2": ("#009e73", "#33c79c"),
    "s3": ("#b8578c", "#e39ac3"),
    "s4": ("#c98a00", "#f0b93a"),
    "s5": ("#3d95cc", "#9ad4f7"),
}
INK, MUTED, RULE, PAPER = (THEME[name][0] for name in ("ink", "muted", "rule", "paper"))
SERIES = tuple(light for name, (light, _) in THEME.items() if re.fullmatch(r"s\d", name))
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
LETTERS = ascii_uppercase[:24]  # of things compared: as many as `line_style` tells apart
FONT_STACK = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.borderaxespad": 0,
    "figure.facecolor": PAPER,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: `caption` names it, `note` says how to read it, `alt` says in words what it shows."""

    name: str
    caption: str
    note: str
    alt: str
    svg: str
    png: bytes

    @property
    def inline_svg(self) -> str:
        """`svg` as an element of a page: no prolog, theme or namespace of its own, ids made unique by the name."""
        svg = re.sub(r"<style.*?</style>\s*", "", self.svg, flags=re.S)
        svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg[svg.index("<svg") :])
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", svg).strip()


def css_variables(dark: bool) -> str:
    """The theme as CSS custom properties: `--ink: #1f2933; ...`."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in THEME.items())


def draw(
    name: str, caption: str, alt: str, height_in: float, paint: Callable[[Figure], None], note: str = ""
) -> Picture:
    """Let `paint` fill a figure `WIDTH_IN` wide and `height_in` high, and render it as SVG and PNG."""
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, hspace=0.06, wspace=0.04)  # type: ignore[union-attr]
        paint(figure)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
        figure.set_layout_engine("none")  # the places found for the PNG hold for the SVG
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", facecolor="none", metadata=nothing)
    alt = flatten(clean(alt))
    return Picture(name, caption, note, alt, _themed(svg.getvalue().decode(), alt), png.getvalue())


def _themed(svg: str, alt: str) -> str:
    for variable, (light, _) in THEME.items():
        svg = svg.replace(light, f"var(--{variable})")
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: var(--font)")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"<!--.*?-->\s*|<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    style = (
        f"<style>svg {{ --font: {FONT_STACK}; {css_variables(dark=False)} background: var(--paper); }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {css_variables(dark=True)} }} }}</style>"
    )
    return re.sub(
        r"<svg ([^>]*)>",
        lambda found: f'<svg role="img" aria-label="{escape(alt)}" {found[1]}>{style}',
        svg,
        count=1,
    )


def line_style(index: int) -> dict:
    """Colour and dash pattern of series `index`; unlike for the first 24."""
    return {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[(index + index // len(SERIES)) % len(DASHES)]}


def steps_axis(axes: Axes) -> None:
    """Optimizer steps along the bottom."""
    axes.set_xlabel("optimizer steps completed")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def legend(axes: Axes, room_in: float = WIDTH_IN) -> None:
    """A legend where it can cover nothing: in the title's line if `room_in` holds it, else right of the axes.

    Names are whole: right of the axes a long one takes several lines.
    """
    handles, names = axes.get_legend_handles_labels()
    labels = [one_line(name, LEGEND_CHARACTERS) for name in names]
    needed_in = 0.068 * (len(axes.get_title("left")) + sum(map(len, labels))) + 0.6 * len(labels) + 0.8
    if needed_in < room_in:
        axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(labels), borderpad=0.3)
    else:
        lines = [fill(label, LABEL_CHARACTERS) for label in labels]
        axes.legend(handles, lines, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def legend_beside(figure: Figure, axes: Axes) -> None:
    """The legend of `axes` right of all panels, from the top down, for more names than one panel has room for."""
    handles, names = axes.get_legend_handles_labels()
    lines = [fill(one_line(name, LEGEND_CHARACTERS), LABEL_CHARACTERS) for name in names]
    figure.legend(handles, lines, loc="outside right upper")
