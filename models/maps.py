"""Interpretability maps: plain numbers with labels, drawn by whoever reads them without knowing the family.

A family's probes watch modules through forward hooks, so that the forward path carries no measuring code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athanor.data.loader import Batch
from athanor.models.tally import Means

UNUSED_SHARE = 0.001  # of a router's choices, below which one is as good as never made


class Map(BaseModel):
    """One figure or table.

    `values` is a list of rows. heatmap: `values[y][x]`; lines: `values[series][x]`; bars: `values[series][bar]`;
    table: `values[row][column]`, with y_ticks naming rows and x_ticks columns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="Identifier, unique within a model: lower-case letters and underscores")
    title: str
    kind: Literal["heatmap", "lines", "bars", "table"]
    values: list[list[float]]
    x_label: str = ""
    y_label: str = ""
    x_ticks: list[str] = Field(default=[], description="Labels of the columns; empty means 0, 1, 2, ...")
    y_ticks: list[str] = Field(default=[], description="Labels of the rows; empty means 0, 1, 2, ...")
    series: list[str] = Field(default=[], description="lines and bars: name of each row of values")
    unit: str = Field(default="", description="Unit of the values")
    note: str = Field(default="", description="How it was measured, and how to read it")


def unused(share_LC: Sequence[Sequence[float]], choices: Sequence[str]) -> str:
    """What to add to a note where a router gives some choice next to nothing in some layer; else nothing."""
    found = [
        f"{choices[c]} in layer {layer}"
        for layer, share_C in enumerate(share_LC)
        for c, share in enumerate(share_C)
        if share < UNUSED_SHARE
    ]
    return f" Collapsed, less than {100 * UNUSED_SHARE:g} % falls on: {', '.join(found)}." if found else ""


class Probe(Protocol):
    """Watches some modules during forward passes and turns what it saw into maps."""

    def attach(self) -> list[RemovableHandle]: ...

    def maps(self) -> list[Map]: ...


def measure(model: nn.Module, probes: Sequence[Probe], batches: Iterable[Batch]) -> list[Map]:
    """Run `model.hidden` over the batches in eval mode, without gradient or noise; every probe's maps, in order."""
    device = next(model.parameters()).device
    training = model.training
    handles = [handle for probe in probes for handle in probe.attach()]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                ids_BT, doc_start_BT = (torch.as_tensor(x, device=device) for x in (batch.ids_BT, batch.doc_start_BT))
                model.hidden(ids_BT, doc_start_BT)  # pyright: ignore[reportCallIssue]
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return [found for probe in probes for found in probe.maps()]


class Observed(nn.Module, ABC):
    """What a model says of itself: numbers as it is trained, maps of what it does on text."""

    smallest_shares: ClassVar[Sequence[str]] = ()
    """The diagnostics that are the smallest share any choice of a router gets: 0 for long is a collapsed router."""

    def diagnostics(self, means: Means) -> dict[str, float]:
        """Cheap numbers about a training step, logged with it: of its tallies' `means`, and of the parameters."""
        return {}

    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """What `maps` measures."""

    def maps(self, batches: Iterable[Batch]) -> list[Map]:
        """Interpretability maps measured on real text, in eval mode with noise off."""
        return measure(self, self.probes(), batches)


class AttentionShare:
    """||attention output|| / ||residual stream it is added to||, per layer, averaged over the tokens that attention is
    computed for: it writes exactly nothing for those that a router skips."""

    def __init__(self, layers: list[tuple[nn.Module, nn.Module]]):
        """`layers`: per layer, the norm that reads the residual stream and the attention whose output is added."""
        self._layers = layers
        self._residual: list[Tensor | None] = [None] * len(layers)
        self._total = torch.zeros(len(layers), dtype=torch.float64)
        self._tokens = torch.zeros(len(layers), dtype=torch.int64)

    def attach(self) -> list[RemovableHandle]:
        return [
            handle
            for layer, (norm, attention) in enumerate(self._layers)
            for handle in (
                norm.register_forward_hook(partial(self._see_residual, layer)),
                attention.register_forward_hook(partial(self._see_output, layer)),
            )
        ]

    def _see_residual(self, layer: int, _norm: nn.Module, args: tuple[Tensor, ...], _out: Tensor) -> None:
        self._residual[layer] = args[0].float().norm(dim=-1)

    def _see_output(self, layer: int, _attention: nn.Module, _args: tuple[Tensor, ...], out_BTD: Tensor) -> None:
        residual_BT = self._residual[layer]
        assert residual_BT is not None
        written_BT = out_BTD.float().norm(dim=-1)
        self._total[layer] += (written_BT / residual_BT.clamp(min=1e-12)).sum().cpu()
        self._tokens[layer] += int((written_BT > 0).sum())

    def maps(self) -> list[Map]:
        return [
            Map(
                name="attention_share",
                title="How much attention writes into the residual stream",
                kind="lines",
                values=[(self._total / self._tokens.clamp(min=1)).tolist()],
                x_label="layer",
                y_label="norm ratio",
                series=["attention output / residual"],
                note="Norm of the attention output over the norm of the stream it is added to, mean over the "
                f"tokens it is computed for ({int(self._tokens[:1].sum()):,} in the first layer), and over the "
                "iterations of layers that run repeatedly.",
            )
        ]
