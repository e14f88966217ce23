"""The lineage graph: every artifact a box, in the column of its distance from the raw text, inputs to the left."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from athanor.core.text import one_line
from athanor.reports.canvas import INK, MUTED, PAPER, SERIES, WIDTH_IN, Picture, draw
from athanor.reports.inputs import StageRow

_ROW_IN = 0.62
_BOX_HEIGHT_IN = 0.5
_GAP_IN = 0.38


def lineage_figure(stages: Sequence[StageRow]) -> Picture | None:
    """The graph, or None when nothing is joined to anything."""
    places = _places(stages)
    by_key = {stage.key: stage for stage in stages}
    edges = [
        (by_key[parent], stage)
        for stage in stages
        for parent in sorted(set(stage.parents.values()))
        if parent in by_key
    ]
    if not edges:
        return None
    columns = 1 + max(column for column, _ in places.values())
    height_in = 0.1 + _ROW_IN * (1 + max(row for _, row in places.values()))
    box_in = min((WIDTH_IN - 0.1 + _GAP_IN) / columns - _GAP_IN, 2.0)
    pitch_in = (WIDTH_IN - 0.1 - box_in) / max(columns - 1, 1)
    letters = max(int(box_in / 0.082), 6)

    def corner(stage: StageRow) -> tuple[float, float]:
        column, row = places[stage.key]
        return 0.05 + column * pitch_in, height_in - 0.05 - row * _ROW_IN - _BOX_HEIGHT_IN

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, WIDTH_IN)
        axes.set_ylim(0, height_in)
        axes.set_axis_off()
        for parent, child in edges:
            (x0, y0), (x1, y1) = corner(parent), corner(child)
            x0, y0, y1 = x0 + box_in, y0 + _BOX_HEIGHT_IN / 2, y1 + _BOX_HEIGHT_IN / 2
            bend = (x0 + max(x0, x1 - 0.8 * _GAP_IN)) / 2 if x1 - x0 < 2 * _GAP_IN else x1 - 1.2 * _GAP_IN
            curve = Path([(x0, y0), (bend, y0), (bend, y1), (x1, y1)], [1, 4, 4, 4])
            axes.add_patch(PathPatch(curve, fill=False, edgecolor=MUTED, linewidth=0.8, alpha=0.7, zorder=1))
        for stage in stages:
            x, y = corner(stage)
            axes.add_patch(
                FancyBboxPatch(
                    (x, y),
                    box_in,
                    _BOX_HEIGHT_IN,
                    "round,pad=0,rounding_size=0.05",
                    facecolor=PAPER,
                    edgecolor=SERIES[0],
                    linewidth=0.9,
                    zorder=2,
                )
            )
            texts = (
                (one_line(stage.stage, letters), 0.375, INK, "bold", 8.2),
                (one_line(stage.label, letters), 0.235, INK, "normal", 7.6),
            )
            for text, height, colour, weight, points in (*texts, (stage.key[:12], 0.095, MUTED, "normal", 7.0)):
                axes.text(x + 0.07, y + height, text, color=colour, weight=weight, size=points, va="center", zorder=3)

    alt = f"Graph of {len(stages)} artifacts and what each was made from; the table below says the same."
    return draw("lineage", "What was made from what, left to right", alt, height_in, paint)


def _places(stages: Sequence[StageRow]) -> dict[str, tuple[int, int]]:
    """Key -> (column, row). A column is one more than the farthest input's; rows keep near the mean of the inputs'."""
    by_key = {stage.key: stage for stage in stages}
    depth: dict[str, int] = {}

    def column(key: str) -> int:
        if key not in depth:
            depth[key] = 0
            depth[key] = 1 + max((column(p) for p in by_key[key].parents.values() if p in by_key), default=-1)
        return depth[key]

    rows: dict[str, float] = {}
    placed: dict[str, tuple[int, int]] = {}
    for wanted in range(1 + max((column(key) for key in by_key), default=-1)):
        members = [key for key in by_key if column(key) == wanted]

        def middle(key: str) -> float:
            inputs = [rows[p] for p in by_key[key].parents.values() if p in rows]
            return sum(inputs) / len(inputs) if inputs else 0.0

        for row, key in enumerate(sorted(members, key=middle)):
            rows[key] = row
            placed[key] = (wanted, row)
    return placed
