"""How far attention looks and what it leaves on the sinks, measured on real text.

Weights are computed again from an attention layer's own queries and keys, some queries at a time, so that the
forward path carries no measuring code and no [T, T] tensor of all heads is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from athanor.kernels.span import Span, in_window
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.families.swa_mla.latent import LatentAttention
from athanor.models.maps import Map

_CHUNK_ELEMENTS = 2**22


class AttentionReach:
    """Mean distance of attention mass per layer and head; mass on the document's sinks per sliding-window layer."""

    def __init__(self, layers: Sequence[GroupedQueryAttention | LatentAttention]):
        self._layers = layers
        self._windows = [i for i, layer in enumerate(layers) if isinstance(layer, GroupedQueryAttention)]
        self._tokens = 0
        self._far_tokens = 0
        self._distance_LH: list[Tensor] = [torch.zeros(())] * len(layers)
        self._sink_mass = {layer: torch.zeros(2, dtype=torch.float64) for layer in self._windows}

    def attach(self) -> list[RemovableHandle]:
        return [layer.register_forward_hook(partial(self._see, i)) for i, layer in enumerate(self._layers)]

    def _see(self, i: int, _layer: nn.Module, args: tuple[Any, ...], _out: Tensor) -> None:
        x_BTD, rope, span = args[:3]
        layer = self._layers[i]
        q_BTHd, k_BTGd = layer.queries_keys(x_BTD, rope)
        rows, length = x_BTD.shape[:2]
        position_T = torch.arange(length, device=x_BTD.device)
        span = span or Span(torch.zeros_like(position_T)[None])
        self._tokens += rows * length if i == 0 else 0
        for row, start_T in enumerate(span.doc_start_BT.expand(rows, -1)):
            for some_t in position_T.split(max(1, _CHUNK_ELEMENTS // (length * q_BTHd.shape[2]))):
                start_t = start_T[some_t]
                visible_tS = in_window(some_t[:, None], position_T, start_t[:, None], span.window, span.sink)
                weights_HtS = _weights(q_BTHd[row, some_t], k_BTGd[row], visible_tS)
                distance_tS = (some_t[:, None] - position_T).double()
                self._distance_LH[i] = self._distance_LH[i] + (weights_HtS * distance_tS).sum((1, 2)).cpu()
                if span.window is not None:
                    self._see_sinks(i, weights_HtS, some_t, start_t, span.window, span.sink)

    def _see_sinks(self, i: int, weights_HtS: Tensor, query_t: Tensor, start_t: Tensor, window: int, sink: int) -> None:
        since_start_tS = torch.arange(weights_HtS.shape[-1], device=query_t.device) - start_t[:, None]
        on_sinks_tS = (since_start_tS >= 0) & (since_start_tS < sink)
        mass_t = (weights_HtS * on_sinks_tS).sum(-1).mean(0)
        far_t = query_t - start_t - sink >= window - 1  # the last sink lies behind the window
        self._sink_mass[i] += torch.stack((mass_t.sum(), mass_t[far_t].sum())).cpu()
        self._far_tokens += int(far_t.sum()) if i == self._windows[0] else 0

    def maps(self) -> list[Map]:
        reach = Map(
            name="attention_reach",
            title="Attention reach: how far back each head looks",
            kind="heatmap",
            values=[(total_H / max(1, self._tokens)).tolist() for total_H in self._distance_LH],
            x_label="head",
            y_label="layer",
            y_ticks=[f"{i} {'window' if i in self._windows else 'latent'}" for i in range(len(self._layers))],
            unit="tokens",
            note=f"Distance from query to key, weighted by attention, mean over {self._tokens:,} tokens.",
        )
        return [reach, self._sinks()] if self._windows else [reach]

    def _sinks(self) -> Map:
        mass_2L = torch.stack(list(self._sink_mass.values()), dim=1)
        series = ["all tokens"]
        values = [(mass_2L[0] / max(1, self._tokens)).tolist()]
        if self._far_tokens:
            series.append("tokens whose window is past the sinks")
            values.append((mass_2L[1] / self._far_tokens).tolist())
        return Map(
            name="sink_mass",
            title="Attention on the sinks, the first tokens of a document",
            kind="lines",
            values=values,
            x_label="sliding-window layer",
            y_label="share of attention",
            x_ticks=[str(layer) for layer in self._windows],
            series=series,
            note=f"Mean over heads and {self._tokens:,} tokens, {self._far_tokens:,} of them with a window that "
            "no longer covers a sink.",
        )


def _weights(q_tHd: Tensor, k_SGd: Tensor, visible_tS: Tensor) -> Tensor:
    """Attention weights, fp64 `[H, t, S]`."""
    k_SHd = k_SGd.repeat_interleave(q_tHd.shape[1] // k_SGd.shape[1], dim=1)
    scores_HtS = torch.einsum("thd,shd->hts", q_tHd.float(), k_SHd.float()) * q_tHd.shape[-1] ** -0.5
    return scores_HtS.masked_fill(~visible_tS, -torch.inf).softmax(-1).double()
