"""Figures as drawn: no text over another, honest comparisons of maps."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

from athanor.models.maps import Map
from athanor.reports import canvas
from athanor.reports.canvas import LETTERS
from athanor.reports.comparison import comparison_figure
from athanor.reports.curves import Curve, HeldOut
from athanor.reports.figures import loss_figure, schedule_figure
from athanor.reports.findings import Findings
from athanor.reports.log import Log
from athanor.reports.mapfigures import map_figure
from athanor.reports.sections import sections

Boxes = dict[int, tuple[str, BboxBase]]


@pytest.fixture
def drawn(monkeypatch) -> list[Boxes]:
    """The texts of every figure drawn while the test runs, with the boxes they fill in the PNG."""
    figures: list[Boxes] = []

    class Watched(Figure):
        def savefig(self, *args, **kwargs):
            if kwargs["format"] == "png":
                figures.append({-1: ("", self.bbox)})
            super().savefig(*args, **kwargs)

    draw_text = Text.draw

    def draw(text: Text, renderer) -> None:
        draw_text(text, renderer)
        if isinstance(renderer, RendererAgg) and text.get_visible() and text.get_text().strip():
            figures[-1][id(text)] = text.get_text(), text.get_window_extent(renderer)

    monkeypatch.setattr(canvas, "Figure", Watched)
    monkeypatch.setattr(Text, "draw", draw)
    return figures


def collisions(boxes: Boxes) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes meet, and texts that leave the figure."""
    (_, figure), *texts = boxes.values()
    cut = [(name, "edge") for name, box in texts if not (figure.x0 - 1 < box.x0 and box.x1 < figure.x1 + 1)]
    return cut + [
        (a, b) for (a, one), (b, two) in combinations(texts, 2)
        if min(one.x1, two.x1) - max(one.x0, two.x0) > 1 and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
    ]  # fmt: skip


def test_no_label_covers_another(priced_run, drawn):
    sections(Findings.of(priced_run))
    assert len(drawn) > 12
    assert [found for boxes in drawn for found in collisions(boxes)] == []


def test_no_label_covers_another_when_names_are_long(drawn):
    measured = {"loss": 1.0, "bits_per_byte": 1.0, "tokens": 9}
    names = [f"a domain with a rather long name {i}" for i in range(9)]
    rows = [{"kind": "eval", "step": s, "held_out": dict.fromkeys(names, measured)} for s in (1, 2)]
    assert loss_figure("loss", "Training", Log(rows)) and collisions(drawn[0]) == []


@pytest.mark.parametrize("runs", [1, 2, 5, len(LETTERS)])
@pytest.mark.parametrize("sources", [0, 3])
def test_no_label_covers_another_however_many_runs_are_compared(drawn, runs, sources):
    held_out = {f"source {i}": HeldOut.of([(1, 3.0, 9), (60, 2.0, 9)]) for i in range(sources)}
    names = [f"pretrain/vanilla-with-a-longer-name-{i}" for i in range(runs)]
    picture = comparison_figure([Curve.of(name, [(1, 3.0), (60, 2.0)], held_out) for name in names])
    assert collisions(drawn[0]) == []
    assert all(f"longer-name-{i}" in picture.svg for i in range(runs))


def test_names_in_a_legend_are_whole(drawn):
    name = "web-pages-in-seven-languages-without-duplicates"
    rows = [{"kind": "eval", "step": 1, "held_out": {f"{name}-{i}": {"loss": 1.0, "bits_per_byte": 1.0, "tokens": 9}
                                                     for i in range(6)}}]  # fmt: skip
    picture = loss_figure("loss", "Training", Log(rows))
    one = Map(name="m", title="A map", kind="lines", values=[[1.0, 2.0]] * 3, x_label="x", y_label="y",
              series=[f"a tenth of the tokens below {i}" for i in range(3)])  # fmt: skip
    assert picture is not None and name in "".join(re.findall(r"<text.*?>(.*?)</text>", picture.svg))
    figure = map_figure({"base": one})
    assert figure is not None and figure.svg.count("a tenth of the tokens below") == 3


@pytest.mark.parametrize(
    ("layers", "ticks"), [(1, ["ReLU", "tanh"]), (28, [f"a rather long name {i}" for i in range(24)]), (96, [])]
)
def test_no_label_covers_another_in_maps_of_many_shapes(drawn, layers, ticks):
    columns = len(ticks) or 60
    rng = np.random.default_rng(0)
    for kind in ("heatmap", "lines", "bars"):
        rows = layers if kind == "heatmap" else min(layers, 12)
        one = Map(name="m", title="A map", kind=kind, values=rng.random((rows, columns)).tolist(), x_ticks=ticks,
                  x_label="x", y_label="y", series=[f"series {i}" for i in range(rows)])  # fmt: skip
        map_figure({"base": one, "sft": one})
    assert len(drawn) == 3 and [found for boxes in drawn for found in collisions(boxes)] == []


def heat(values: list, **fields) -> Map:
    return Map(**{"name": "routing", "title": "Routing", "kind": "heatmap", "values": values, **fields})


def test_shift_is_sft_minus_base():
    picture = map_figure({"base": heat([[0.25, 0.75]]), "sft": heat([[0.5, 0.65]])})
    assert picture is not None and "Shift, SFT minus base, from −0.100 to 0.250" in picture.alt


@pytest.mark.parametrize(
    "by_model",
    [{"base": heat([[1.0]])}, {"base": heat([[1.0]]), "sft": heat([[1.0, 2.0]])},
     {m: heat([[1.0, 2.0]], kind="lines") for m in ("base", "sft")}],
)  # fmt: skip
def test_no_shift_is_shown_where_none_is_defined(by_model):
    picture = map_figure(by_model)
    assert picture is not None and "hift" not in picture.svg + picture.alt


def test_shift_needs_the_same_ticks():
    one, other = heat([[1.0, 2.0]], x_ticks=["a", "b"]), heat([[1.0, 2.0]], x_ticks=["b", "a"])
    picture = map_figure({"base": one, "sft": other})
    assert picture is not None and "hift" not in picture.svg + picture.alt


def test_the_schedules_show_what_was_declared_beside_what_was_done(run):
    rows = [row for row in run.pretrain_metrics if row["kind"] == "step"]
    picture = schedule_figure("s", "Schedules", run.pretrain_schedule, Log(rows))
    assert picture is not None
    assert "tokens per row from 64.0 to 128" in picture.alt
    assert "learning rate from 0.000100 to 0" in picture.alt
    assert "constant" not in picture.alt
    assert "share of" not in picture.alt, "the data mix has a figure of its own"
